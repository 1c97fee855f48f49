//! Hardware that runs jobs: one trait, one module per kind of device.

mod cpu;
mod layers;

pub use cpu::CpuDevice;

use wire::WireError;
use wire::accelerator::{Job, Reply};

/// Where a device's replies go; called once per reply, with its body.
pub type Replies<'a> = &'a mut dyn FnMut(Reply, &[u8]) -> Result<(), WireError>;

/// Something that runs jobs.
pub trait Device {
    /// The device's name, for people.
    fn name(&self) -> String;

    /// Runs one job. Replies other than [`Reply::Done`] go to `replies`; returning `Ok` is `Done`.
    ///
    /// # Errors
    /// [`DeviceError`] if the job cannot be done; the session goes on.
    fn run(&mut self, job: &Job, body: &[u8], replies: Replies<'_>) -> Result<(), DeviceError>;
}

/// A job that could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    #[error("a `{job}` job before a `load` job")]
    NotLoaded { job: &'static str },
    #[error("{what}: {found} where at most {limit} are possible")]
    Range { what: &'static str, found: usize, limit: usize },
    #[error("a `backward` job without a `forward` job before it")]
    NothingWaits,
    #[error("{what} {record} was never stored")]
    Missing { what: &'static str, record: usize },
    #[error("the input form gives {form:?}, the model takes {graph}")]
    Input { form: [usize; 3], graph: tensor::Shape },
    #[error(transparent)]
    Form(#[from] engine::FormError),
    #[error(transparent)]
    State(#[from] engine::StateError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Shape(#[from] tensor::ShapeError),
    #[error("the enclave sent numbers that are not finite, or too large")]
    BodyNotFinite,
    #[error("logits are not finite at step {step}: the learning rate is probably too high")]
    NotFinite { step: usize },
}
