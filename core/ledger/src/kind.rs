//! The kinds of messages that may cross the boundary, in one table.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the content of a message relates to private data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Went through a mechanism that charged the ledger.
    #[serde(rename = "noised+counted")]
    NoisedCounted,
    /// A function of released or public values only.
    #[serde(rename = "post-processing")]
    PostProcessing,
    /// Declared to depend on no private record.
    #[serde(rename = "public")]
    Public,
    /// Derived from private data without a guarantee.
    #[serde(rename = "UNPROTECTED")]
    Unprotected,
}

impl Class {
    /// The name in reports: `noised+counted`, `post-processing`, `public` or `UNPROTECTED`.
    pub fn name(self) -> &'static str {
        match self {
            Class::NoisedCounted => "noised+counted",
            Class::PostProcessing => "post-processing",
            Class::Public => "public",
            Class::Unprotected => "UNPROTECTED",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which way a message crosses, as the enclave sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the accelerator.
    Outward,
    /// From the accelerator.
    Inward,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Direction::Outward => "outward",
            Direction::Inward => "inward",
        })
    }
}

macro_rules! kinds {
    ($($variant:ident, $name:literal, $direction:ident, $class:ident, $description:literal, $shape:literal, $guarantee:literal;)*) => {
        /// What a message is. Name, direction, class, description, shape and guarantee stand in one table, in `kind.rs`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Kind {
            $(#[doc = $description] #[serde(rename = $name)] $variant,)*
        }

        impl Kind {
            /// Every kind, in the order of the table.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// The name in configurations, ledgers and reports.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)* }
            }

            /// Which way it crosses.
            pub fn direction(self) -> Direction {
                match self { $(Kind::$variant => Direction::$direction,)* }
            }

            /// How it relates to private data.
            pub fn class(self) -> Class {
                match self { $(Kind::$variant => Class::$class,)* }
            }

            /// One sentence for people.
            pub fn description(self) -> &'static str {
                match self { $(Kind::$variant => $description,)* }
            }

            /// What the body holds.
            pub fn shape(self) -> &'static str {
                match self { $(Kind::$variant => $shape,)* }
            }

            /// What is promised about it.
            pub fn guarantee(self) -> &'static str {
                match self { $(Kind::$variant => $guarantee,)* }
            }
        }
    };
}

kinds! {
    ResidualBits, "residual-bits", Outward, NoisedCounted,
        "Signs of the clipped and noised residual of each record.",
        "1 bit per number of the released shape, per record and view",
        "(ε, δ) per record: Gaussian noise on a vector clipped to C, sensitivity 2C";
    NoisedResiduals, "noised-residuals", Outward, NoisedCounted,
        "Clipped and noised residuals of outsourced layers.",
        "C×H×W numbers of the layer's input in f32, bf16 or int8, per record and step",
        "(ε, δ) per record, layer and step, given the step's weights: Gaussian noise on a grid, sensitivity 2C";
    NoisedInputs, "noised-inputs", Outward, NoisedCounted,
        "Normalised images after clipping and noise.",
        "4 bytes per pixel and channel, per record, once",
        "(ε, δ) per record: Gaussian noise on a grid, sensitivity 2C";
    RandomisedLabels, "randomised-labels", Outward, NoisedCounted,
        "Labels after randomised response.",
        "2 bytes per record, once per session",
        "ε per record, δ = 0: k-ary randomised response";
    LogitGradients, "logit-gradients", Outward, NoisedCounted,
        "Clipped and noised gradients of the loss with respect to the accelerator's logits, in place of labels.",
        "K numbers of 4 bytes per record and step",
        "(ε, δ) per record and step: Gaussian noise on a grid, sensitivity min(2C, √2 + √K·step)";
    Derived, "derived", Outward, PostProcessing,
        "Values computed from released and public values only; the accelerator's own state, given back.",
        "as what it was computed from",
        "that of what it was computed from";
    Model, "model", Outward, Public,
        "Graph and shapes of the part that runs on the accelerator.",
        "a header",
        "not needed: no record has touched it";
    Parameters, "parameters", Outward, Public,
        "Parameters that no private record has touched: from the public seed, or the weights file the owner names.",
        "4 bytes per parameter, once, before there is a state to send back",
        "not needed: no record has touched it";
    Schedule, "schedule", Outward, Public,
        "Hyper-parameters, learning rates, batch order and public random seeds.",
        "a header",
        "not needed: no record has touched it";
    Control, "control", Outward, Public,
        "Requests, identifiers and sizes.",
        "a header, no body",
        "not needed: no record has touched it";
    Labels, "labels", Outward, Unprotected,
        "True labels.",
        "2 bytes per record, once per session",
        "none";
    Inputs, "inputs", Outward, Unprotected,
        "Images in the clear.",
        "1 byte per pixel and channel, per record",
        "none";
    OutputGradients, "output-gradients", Outward, Unprotected,
        "Gradients of the loss with respect to outputs of outsourced layers.",
        "2 or 4 bytes per number of the layer's output, per record and step",
        "none";
    WeightUpdates, "weight-updates", Outward, Unprotected,
        "Parameters that were updated from private gradients.",
        "4 bytes per parameter and step",
        "none";
    PlainResiduals, "plain-residuals", Outward, Unprotected,
        "Residuals, or their signs, without noise.",
        "1 bit per number of the released shape, per record and view; of outsourced layers 1 to 4 bytes per number, per record and step",
        "none";
    ResidualLogits, "residual-logits", Inward, PostProcessing,
        "Outputs of the accelerator's part of the model.",
        "K numbers of 4 bytes per record and step",
        "not needed: the accelerator made it; checked before use";
    ResidualState, "residual-state", Inward, PostProcessing,
        "Parameters and optimiser state of the accelerator's part.",
        "4 bytes per parameter and optimiser value, per checkpoint",
        "not needed: the accelerator made it; checked before use";
    Results, "results", Inward, PostProcessing,
        "Products and gradients of outsourced layers.",
        "4 bytes per number of the layer's output",
        "not needed: the accelerator made it; checked before use";
    Status, "status", Inward, PostProcessing,
        "Acknowledgements, losses and errors.",
        "a header",
        "not needed: the accelerator made it; checked before use";
}

impl Kind {
    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Kinds that a configuration may allow by name, because they are never sent otherwise.
    pub fn unprotected() -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(|kind| kind.class() == Class::Unprotected)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for (i, &kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert!(Kind::ALL[..i].iter().all(|other| other.name() != kind.name()));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
        assert_eq!(Kind::from_name("Labels"), None);
    }

    #[test]
    fn what_comes_in_is_never_sent_by_permission() {
        assert!(Kind::unprotected().all(|kind| kind.direction() == Direction::Outward));
        let names: Vec<_> = Kind::unprotected().map(Kind::name).collect();
        assert_eq!(names, ["labels", "inputs", "output-gradients", "weight-updates", "plain-residuals"]);
    }
}
