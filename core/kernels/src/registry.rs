//! The list of operators: one line each.

use serde::{Deserialize, Serialize};

use crate::Operator;
use crate::activation::{LeakyRelu, Prelu, Relu};
use crate::add::Add;
use crate::batch_norm::BatchNorm2d;
use crate::conv2d::Conv2d;
use crate::dropout::Dropout;
use crate::flatten::Flatten;
use crate::fused::Fused;
use crate::group_norm::GroupNorm;
use crate::linear::Linear;
use crate::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};

macro_rules! operators {
    ($($name:ident),* $(,)?) => {
        /// Any operator a graph can hold.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub enum Op {
            $(#[allow(missing_docs)] $name($name),)*
            /// Several operators in one: in a rewritten graph only, neither encoded nor decoded.
            #[serde(skip)]
            Fused(Fused),
        }

        impl Op {
            /// The operator behind the variant.
            pub fn operator(&self) -> &dyn Operator {
                match self {
                    $(Op::$name(op) => op,)*
                    Op::Fused(op) => op.operator(),
                }
            }
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Self {
                Op::$name(op)
            }
        })*
    };
}

operators! {
    Conv2d,
    Linear,
    BatchNorm2d,
    Relu,
    LeakyRelu,
    Prelu,
    MaxPool2d,
    AvgPool2d,
    AdaptiveAvgPool2d,
    Add,
    Flatten,
    Dropout,
    GroupNorm,
}
