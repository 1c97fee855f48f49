//! Runs a model graph forward and backward on this processor, and everything public about training it: optimisers,
//! schedules, batch order and augmentation.
//!
//! Both sides of the boundary use this crate: the enclave for what it trains, the CPU worker for what it is given.

pub mod augment;
pub mod batches;
pub mod executor;
mod fuse;
pub mod input;
pub mod learner;
pub mod optimiser;
mod orthogonality;
pub mod plan;
pub mod random;
pub mod schedule;
pub mod timeline;

pub use augment::{Augment, Draw};
pub use executor::{Elsewhere, Executor, Nowhere, Pass};
pub use fuse::{for_inference as fused_for_inference, for_training as fused_for_training};
pub use input::{FormError, InputForm};
pub use kernels::Precision;
pub use kernels::trace;
pub use learner::{Learner, LearnerState, LearnerStateRef, StateError};
pub use optimiser::{Optimiser, OptimiserConfig};
pub use plan::{Plan, Plans, Rewritten};
pub use schedule::{Decay, Schedule};
pub use timeline::{Arena, Layout, Timeline};
