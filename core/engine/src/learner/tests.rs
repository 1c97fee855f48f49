#![allow(clippy::unwrap_used)] // a test that fails says why

use model::zoo;

use super::*;
use crate::Timeline;

const BATCH: usize = 4;

fn graphs() -> Vec<Graph> {
    let build = |name| zoo::build_with_width(name, [3, 32, 32].into(), 10, 8).unwrap();
    ["resnet18-cifar", "resnet20", "vgg16-bn-cifar", "cnn-small"].map(build).into()
}

fn learner(graph: &Graph) -> Learner {
    let optimiser = OptimiserConfig::Sgd { momentum: 0.9, weight_decay: 5e-4, nesterov: false };
    Learner::new(graph.clone(), Parameters::init(graph, 5), optimiser, BATCH).unwrap()
}

/// Memory full of NaN, but for an input: nothing may be read before it is written.
fn fill(learner: &mut Learner, records: usize, seed: usize) {
    let mut arena = Arena::default();
    learner.executor.swap_arena(&mut arena);
    arena.floats.fill(f32::NAN);
    arena.indices.fill(u32::MAX);
    learner.executor.swap_arena(&mut arena);
    let input = learner.input_mut(records).iter_mut().enumerate();
    input.for_each(|(i, x)| *x = (((i + seed) * 7919 % 1009) as f32) / 500.0 - 1.0);
}

fn step(learner: &mut Learner, seed: u64) {
    fill(learner, BATCH, seed as usize);
    let pass = Pass { records: BATCH, mode: Mode::Train { seed } };
    learner.train_step(&[1, 2, 3, 4], pass, 0.05, &Threads::new(1));
}

#[test]
fn predictions_are_the_bits_of_a_training_pass_in_evaluation_mode() {
    for graph in graphs() {
        let mut learner = learner(&graph);
        step(&mut learner, 1);
        for records in [BATCH, 3] {
            fill(&mut learner, records, 2);
            let pass = Pass { records, mode: Mode::Eval };
            let expected = learner.forward(pass, &Threads::new(1)).to_vec();
            fill(&mut learner, records, 2);
            let found = learner.predict(records, &Threads::new(2)).to_vec();
            assert!(expected.iter().all(|x| x.is_finite()), "{}", graph.name());
            assert_eq!(found, expected, "{}", graph.name());
            assert_eq!(learner.output(records).data, expected, "{}", graph.name());
        }
    }
}

#[test]
fn predictions_leave_training_as_it_was() {
    for graph in graphs() {
        let [mut with, mut without] = [learner(&graph), learner(&graph)];
        for seed in [1, 2] {
            step(&mut with, seed);
            step(&mut without, seed);
            fill(&mut with, 2, 3);
            with.predict(2, &Threads::new(1));
        }
        assert!(with.state() == without.state(), "{}", graph.name());
    }
}

/// One arena serves both: it takes what training takes, and the output of inference.
#[test]
fn inference_takes_no_memory_beside_that_of_training() {
    for graph in graphs() {
        let bytes = |timeline: Timeline| timeline.lay_out().bytes();
        let alone = bytes(crate::Plan::training(graph.clone(), BATCH, false).1);
        let both = bytes(Plans::of(&graph, BATCH, false).1);
        let logits = 4 * BATCH * graph.classes();
        assert!(both <= alone + logits, "{}: {both} bytes, {alone} in training alone", graph.name());
    }
}
