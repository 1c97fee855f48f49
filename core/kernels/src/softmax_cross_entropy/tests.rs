use proptest::prelude::*;
use tensor::compare::{Tolerance, assert_close};

use super::{correct, loss_and_gradient, softmax};
use crate::testing::{assert_central_differences, cases, random};

/// The mean of `ln Σ exp(x − label's x)`, by the definition.
fn twin(logits: &[f64], labels: &[u32], classes: usize) -> f64 {
    let sample =
        |(row, &label): (&[f64], &u32)| row.iter().map(|x| (x - row[label as usize]).exp()).sum::<f64>().ln();
    logits.chunks(classes).zip(labels).map(sample).sum::<f64>() / labels.len() as f64
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn agrees_with_the_twin_and_its_differences(n in 1..6usize, classes in 1..9usize, scale in 0.1..20f32) {
        let logits: Vec<f32> = random(&[n, classes], 1).data().iter().map(|x| x * scale).collect();
        let labels: Vec<u32> = (0..n).map(|i| (i * 7 % classes) as u32).collect();
        let mut grad = vec![f32::NAN; n * classes];
        let loss = loss_and_gradient(&logits, &labels, classes, &mut grad);
        let doubles: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
        assert_close("loss", &[loss], &[twin(&doubles, &labels, classes) as f32], Tolerance { relative: 1e-6, absolute: 1e-6 });
        assert_central_differences("grad", &logits, &grad, |x| twin(x, &labels, classes));
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let logits = [1e30, -1e30, 0.0, 500.0, 500.0, 499.0];
    let mut grad = [f32::NAN; 6];
    let loss = loss_and_gradient(&logits, &[0, 1], 3, &mut grad);
    assert!(loss.is_finite() && grad.iter().all(|g| g.is_finite()));
    let mut probabilities = [f32::NAN; 6];
    softmax(&logits, 3, &mut probabilities);
    assert_eq!(probabilities[..3], [1.0, 0.0, 0.0]);
    assert!((probabilities[3..].iter().sum::<f32>() - 1.0).abs() < 1e-6);
}

#[test]
fn an_empty_batch_and_a_wrong_label() {
    assert_eq!(loss_and_gradient(&[], &[], 10, &mut []), 0.0);
    softmax(&[], 10, &mut []);
    let mut grad = [0.0; 2];
    assert!(loss_and_gradient(&[0.0, 1.0], &[2], 2, &mut grad).is_nan());
    assert!(grad.iter().all(|g| g.is_nan()));
}

#[test]
fn the_first_of_equal_logits_is_the_prediction() {
    let (nan, low) = (f32::NAN, f32::NEG_INFINITY);
    let rows = [[1.0, 3.0, 3.0], [nan, 2.0, 1.0], [low, low, low], [nan, nan, nan]];
    let count = |label: u32| rows.map(|row| correct(&row, &[label], 3));
    assert_eq!(count(0), [0, 0, 1, 0]);
    assert_eq!(count(1), [1, 1, 0, 0]);
    assert_eq!(count(2), [0; 4]);
    assert_eq!(count(3), [0; 4], "no class");
    assert_eq!(correct(&rows.concat(), &[1, 1, 0, 0], 3), 3);
}
