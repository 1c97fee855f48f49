//! What people read: lines on standard error, one JSON object on standard output.

use std::io::Write;

use serde::Serialize;

/// Writes one line to standard error.
pub fn note(text: &str) {
    // Nobody reads it if it is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes one JSON object to standard output, and nothing else there.
///
/// # Errors
/// If standard output is closed.
pub fn print_json(value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    std::io::stdout().write_all(&line)
}

/// `12345678` as `12,345,678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves at least one: `12.3 MiB`.
pub fn bytes(number: f64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB"];
    let mut unit = 0;
    let mut value = number;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if unit == 0 && value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.decimals$} {}", units[unit])
}

/// Seconds in a unit that reads well: `1.23 ms`, `45.6 s`, `3 min 20 s`.
pub fn seconds(value: f64) -> String {
    match value {
        v if v < 1e-3 => format!("{:.1} µs", v * 1e6),
        v if v < 1.0 => format!("{:.2} ms", v * 1e3),
        v if v < 120.0 => format!("{v:.1} s"),
        v if v < 7200.0 => format!("{} min {} s", (v / 60.0) as u64, (v % 60.0) as u64),
        v => format!("{} h {} min", (v / 3600.0) as u64, (v % 3600.0 / 60.0) as u64),
    }
}

/// A fraction as `98.53 %`.
pub fn percent(fraction: f64) -> String {
    format!("{:.2} %", fraction * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [grouped(0), grouped(999), grouped(1000), grouped(12_345_678)],
            ["0", "999", "1,000", "12,345,678"]
        );
        assert_eq!(
            [bytes(128.0), bytes(132.5), bytes(1536.0), bytes(3e9)],
            ["128 bytes", "132.5 bytes", "1.5 KiB", "2.8 GiB"]
        );
        assert_eq!([seconds(2e-6), seconds(0.0123), seconds(45.6)], ["2.0 µs", "12.30 ms", "45.6 s"]);
        assert_eq!([seconds(200.0), seconds(7260.0)], ["3 min 20 s", "2 h 1 min"]);
        assert_eq!(percent(0.98534), "98.53 %");
    }
}
