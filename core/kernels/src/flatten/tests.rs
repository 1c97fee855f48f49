use tensor::{Shape, ShapeError};

use super::Flatten;
use crate::Operator;
use crate::testing::{Node, random};

#[test]
fn joins_axes_and_splits_them_again() {
    for n in [0, 1, 3] {
        let x = random(&[n, 2, 5, 7], 1);
        let mut node = Node::new(&Flatten, vec![x.clone()], Vec::new());
        assert_eq!(node.forward().0, x.reshaped([n, 70]).unwrap());
        let dy = random(&[n, 70], 3);
        assert_eq!(node.backward(&dy).inputs, [dy.reshaped([n, 2, 5, 7]).unwrap()]);
    }
}

#[test]
fn refuses_what_has_no_batch() {
    assert_eq!(Flatten.infer(&[[4].into()]), Ok([4, 1].into()));
    assert!(matches!(Flatten.infer(&[Shape::from([])]), Err(ShapeError::Rank { .. })));
    assert!(matches!(Flatten.infer(&[]), Err(ShapeError::Inputs { .. })));
}
