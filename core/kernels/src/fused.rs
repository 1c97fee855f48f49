//! Several operators in one, so that what lies between them never goes through memory.
//!
//! Made by a rewrite of a graph for one executor; no model holds them, and they are never encoded or decoded.

use std::fmt;
use std::sync::Arc;

use crate::Operator;
use crate::add_relu::AddRelu;
use crate::conv_norm_relu::ConvNormRelu;
use crate::group_norm_add_relu::GroupNormAddRelu;
use crate::norm_add_relu::NormAddRelu;
use crate::relu_max_pool::ReluMaxPool;

/// Any fused operator.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Fused {
    NormAddRelu(NormAddRelu),
    GroupNormAddRelu(GroupNormAddRelu),
    AddRelu(AddRelu),
    ReluMaxPool(ReluMaxPool),
    ConvNormRelu(ConvNormRelu),
    Placed(Placed),
}

/// A part of the model that whoever rewrote the graph computes; the operator says what it reads, makes and takes.
#[derive(Clone)]
pub struct Placed {
    /// Which of the places it is.
    pub place: usize,
    pub op: Arc<dyn Operator + Send + Sync>,
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Placed({}, {})", self.place, self.op.name())
    }
}

impl PartialEq for Placed {
    /// The same operator at the same place, not one that is like it.
    fn eq(&self, other: &Placed) -> bool {
        self.place == other.place && Arc::ptr_eq(&self.op, &other.op)
    }
}

impl Fused {
    /// The operator behind the variant.
    pub fn operator(&self) -> &dyn Operator {
        match self {
            Fused::NormAddRelu(op) => op,
            Fused::GroupNormAddRelu(op) => op,
            Fused::AddRelu(op) => op,
            Fused::ReluMaxPool(op) => op,
            Fused::ConvNormRelu(op) => op,
            Fused::Placed(placed) => &*placed.op,
        }
    }
}
