//! Flows: what runs where, what may leave, and the training, evaluation and inference that follow from it.
//!
//! Pure: files, sockets, clocks and processor time come in through [`Host`].

mod accelerator;
mod asymml;
mod batch;
mod calibration;
mod checkpoint;
mod error;
mod evaluate;
mod flow;
mod host;
mod infer;
mod labels;
mod ledger;
mod memory;
mod messages;
mod pictures;
mod plan;
mod profile;
mod records;
mod remote;
mod run;
mod split_model;
mod train;
mod trusted_model;
mod vectors;

pub use error::{AcceleratorError, RunError};
pub use flow::{LayeredGraphs, Outsourced, Parts, Placement, SplitGraphs, TrustedGraphs};
pub use host::{Crossed, Host, Journal, ReplyBody, StorageError, Transport};
pub use infer::Predictions;
pub use plan::plan;
pub use run::{Outcome, Run};
