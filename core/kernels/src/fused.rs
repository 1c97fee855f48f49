//! Several operators in one, so that what lies between them never goes through memory.
//!
//! Made by a rewrite of a graph for one executor; no model holds them, and they are never encoded or decoded.

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
        }
    }
}
