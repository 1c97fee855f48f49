//! The move: answers that make the run fail if a record has one label, and go on if it has another: the end of the session
//! then tells the label, at no charge.
//!
//! What must hold: whether an answer is refused depends on the answer alone.
//!
//! Enforced in `runtime::accelerator` (logits beyond a public bound are refused, so no loss overflows).
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::cell::RefCell;
use std::rc::Rc;

use asymflow_attacks::{TRAIN, train};
use asymflow_flows::{Liar, MemoryHost, records, withheld_labels};
use wire::accelerator::{Job, Reply};

const CLASSES: u16 = 10;

/// Answers to the first step it is asked for: `size` for one class of a record and `-size` for all others, or zeros.
fn certain(classes: Vec<Option<u16>>, size: f32) -> Option<Liar> {
    let mut asked = false;
    Some(Rc::new(RefCell::new(move |job: &Job, replies: &mut Vec<(Reply, Vec<u8>)>| {
        if matches!(job, Job::Forward { .. }) && !std::mem::replace(&mut asked, true) {
            let logits = classes.iter().flat_map(|&class| {
                (0..CLASSES).map(move |c| class.map_or(0.0, |class| if c == class { size } else { -size }))
            });
            replies[0].1 = logits.flat_map(f32::to_le_bytes).collect();
        }
    })))
}

/// The accelerator knows all labels of a batch but the first, as the guarantee grants it. It is wrong about half of the
/// batch with all its might, so that the mean loss is nearly too large, and guesses the first label.
#[test]
fn whether_a_run_goes_on_does_not_depend_on_a_label() {
    let spec = withheld_labels(2);
    let order = engine::batches::order(spec.train.seed, 1, TRAIN);
    let body = records(TRAIN, 1);
    let label = |record: u32| u16::from(body[TRAIN * 768 + 2 * record as usize]);
    let (wrong, rest) = (8, 7);
    let known = order[1..=wrong].iter().map(|&record| Some((label(record) + 1) % CLASSES));
    let known: Vec<_> = known.chain(std::iter::repeat_n(None, rest)).collect();
    for size in [f32::MAX, 1e30, 1e6] {
        let end = |guess: u16| {
            let classes = std::iter::once(Some(guess)).chain(known.iter().copied()).collect();
            let liar = certain(classes, size);
            let ended = train(&mut MemoryHost { liar, ..MemoryHost::default() }, &spec);
            ended.map_or_else(|error| error.to_string(), |_| "finished".to_owned())
        };
        let ends: Vec<String> = (0..CLASSES).map(end).collect();
        assert!(
            ends.iter().all(|end| *end == ends[0]),
            "logits of ±{size:e} tell that the label is {}: {ends:#?}",
            label(order[0])
        );
    }
}
