//! How products are rounded.

use serde::{Deserialize, Serialize};

/// The precision of the operands of convolutions and linear layers, in every pass; sums are always `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16: 8 significant bits, the range of `f32`. Depthwise convolutions are not rounded.
    Bf16,
}

impl Precision {
    /// The word for it in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}
