//! Experiments with figures that are made up, for tests.

use std::path::PathBuf;
use std::str::FromStr;

use super::experiment::{Cell, Epsilon, Experiment};
use super::figures::{Figures, Finished};

/// The default experiment, with lists as on the command line.
pub(super) fn experiment(epsilons: &str, shapes: &str, seeds: &str) -> Experiment {
    Experiment {
        architecture: "resnet20".into(),
        format: "cifar10".into(),
        data: Some(PathBuf::from("/somewhere/cifar")),
        train_records: None,
        epochs: 15,
        rank: 4,
        epsilons: list(epsilons),
        shapes: list(shapes),
        seeds: list(seeds),
    }
}

/// All cells finished, with the accuracy of the merged model and of the trusted part alone that `accuracies` returns.
pub(super) fn all(experiment: &Experiment, accuracies: impl Fn(&Cell) -> (f64, f64)) -> Vec<Finished> {
    let finish = |cell: Cell| {
        let (accuracy, accuracy_trusted_only) = accuracies(&cell);
        let epsilon = if let Epsilon::Stated(epsilon) = cell.epsilon { Some(epsilon) } else { None };
        let figures = Figures {
            accuracy,
            accuracy_trusted_only,
            test_records: 2000,
            bytes_out_per_image: 2048.0,
            bytes_in_per_image: 100.0,
            trusted_cpu_seconds_per_image: 2e-3,
            untrusted_cpu_seconds_per_image: 5e-4,
            peak_trusted_bytes: 1 << 20,
            epsilon,
        };
        Finished { cell, figures }
    };
    experiment.cells().into_iter().map(finish).collect()
}

fn list<T: FromStr>(text: &str) -> Vec<T> {
    text.split(',').map(|part| part.parse().ok().expect("a sample is valid")).collect()
}
