//! Several operators in one, so that what lies between them never goes through memory.
//!
//! Made by a rewrite of a graph for one executor; no model holds them, and they are never encoded or decoded.

use crate::Operator;
use crate::add_relu::AddRelu;
use crate::norm_add_relu::NormAddRelu;

/// Any fused operator.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Fused {
    NormAddRelu(NormAddRelu),
    AddRelu(AddRelu),
}

impl Fused {
    /// The operator behind the variant.
    pub fn operator(&self) -> &dyn Operator {
        match self {
            Fused::NormAddRelu(op) => op,
            Fused::AddRelu(op) => op,
        }
    }
}
