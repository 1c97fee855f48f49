//! Ledgers: whatever is read, its loss can be stated and its sets of records written again.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ledger) = ledger::Ledger::verify(bytes) {
        let _ = ledger.epsilon(1e-5);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(records) = ledger::RecordSet::try_from(text.to_owned())
    {
        assert_eq!(String::from(records), text);
    }
});
