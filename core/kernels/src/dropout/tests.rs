use tensor::{ShapeError, Tensor};

use super::Dropout;
use crate::testing::{Node, assert_same_for_any_threads, random};
use crate::{Mode, Operator};

fn ones(n: usize) -> Tensor {
    Tensor::from_fn([1, n], |_| 1.0)
}

fn mask(probability: f32, seed: u64) -> Vec<f32> {
    let op = Dropout { probability };
    Node::new(&op, vec![ones(40_000)], Vec::new()).mode(Mode::Train { seed }).forward().0.into_vec()
}

#[test]
fn zeroes_the_stated_share_and_scales_the_rest() {
    for (probability, seed) in [(0.1f32, 1), (0.5, 2), (0.9, 3)] {
        let mask = mask(probability, seed);
        let kept = 1.0 / (1.0 - probability);
        assert!(mask.iter().all(|&m| m == 0.0 || (m - kept).abs() < 1e-6));
        let share = mask.iter().filter(|&&m| m == 0.0).count() as f64 / mask.len() as f64;
        let p = f64::from(probability);
        let deviation = (p * (1.0 - p) / mask.len() as f64).sqrt();
        assert!((share - p).abs() < 4.0 * deviation, "share {share} at {p}");
        // Neighbours are independent: as many pairs are zeroed as the square says.
        let pairs = mask.windows(2).filter(|w| w == &[0.0, 0.0]).count() as f64 / mask.len() as f64;
        assert!((pairs - p * p).abs() < 8.0 * deviation, "pairs {pairs} at {p}");
    }
}

#[test]
fn the_seed_alone_decides() {
    assert_eq!(mask(0.5, 11), mask(0.5, 11));
    let (a, b) = (mask(0.5, 11), mask(0.5, 12));
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
    assert!((same - 0.5).abs() < 0.02, "{same} of two masks agree");
}

#[test]
fn the_gradient_has_the_same_mask() {
    let op = Dropout { probability: 0.4 };
    let dy = random(&[1, 500], 5);
    let mut node = Node::new(&op, vec![ones(500)], Vec::new());
    let (y, _) = node.forward();
    let expected = Tensor::from_fn([1, 500], |i| y.data()[i] * dy.data()[i]);
    assert_eq!(node.backward(&dy).inputs, [expected]);
}

#[test]
fn does_nothing_in_evaluation_and_at_the_ends() {
    let x = random(&[2, 300], 1);
    let run = |probability, mode| {
        let op = Dropout { probability };
        let mut node = Node::new(&op, vec![x.clone()], Vec::new()).mode(mode);
        (node.forward().0, node.backward(&x).inputs.remove(0))
    };
    assert_eq!(run(0.5, Mode::Eval), (x.clone(), x.clone()));
    assert_eq!(run(0.0, Mode::Train { seed: 3 }), (x.clone(), x.clone()));
    let zeros = Tensor::zeros([2, 300]);
    assert_eq!(run(1.0, Mode::Train { seed: 3 }), (zeros.clone(), zeros));
}

#[test]
fn the_same_for_any_number_of_threads() {
    static OP: Dropout = Dropout { probability: 0.3 };
    assert_same_for_any_threads(|| Node::new(&OP, vec![random(&[3, 40_001], 1)], Vec::new()));
}

#[test]
fn refuses_what_is_no_probability() {
    for probability in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        let found = Dropout { probability }.infer(&[[2, 2].into()]);
        assert!(matches!(found, Err(ShapeError::Attribute { .. })), "{probability}");
    }
}
