//! What a run must remember to go on with the same bits.

use engine::{LearnerState, LearnerStateRef};
use ledger::{Digest, Head};
use model::Parameters;
use serde::{Deserialize, Serialize};
use wire::RunSpec;
use wire::owner::{Epoch, Scores};

use crate::accelerator::RemoteState;
use crate::{Host, RunError, StorageError};

/// Checkpoints kept: the newest, and one more in case the newest is lost with the disk's last writes.
const KEPT: usize = 2;

/// What does not change during a run.
#[derive(Deserialize)]
pub(crate) struct Job {
    pub(crate) spec: RunSpec,
    /// Parameters of the user's graph before training.
    pub(crate) initial: Parameters,
}

/// A [`Checkpoint`] of what is borrowed; encoded the same.
#[derive(Serialize)]
pub(crate) struct CheckpointRef<'a> {
    pub(crate) steps_done: usize,
    pub(crate) trusted: Vec<LearnerStateRef<'a>>,
    pub(crate) remote: Option<&'a Remote>,
    pub(crate) totals: &'a Totals,
    pub(crate) ledger: Head,
    pub(crate) bases: Vec<Vec<f32>>,
    pub(crate) transcript: Option<Digest>,
}

/// The state of a run after some steps.
#[derive(Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) steps_done: usize,
    pub(crate) trusted: Vec<LearnerState>,
    pub(crate) remote: Option<Remote>,
    pub(crate) totals: Totals,
    pub(crate) ledger: Head,
    /// States of the running bases of an `asymml` run.
    pub(crate) bases: Vec<Vec<f32>>,
    pub(crate) transcript: Option<Digest>,
}

/// The accelerator's state, and the number of steps of the run it had done; the rest is done again on resuming.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Remote {
    pub(crate) steps_done: usize,
    pub(crate) state: RemoteState,
}

/// Figures that go on over a restart.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) trusted_cpu_seconds: f64,
    pub(crate) untrusted_cpu_seconds: f64,
    pub(crate) untrusted_busy_seconds: f64,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) images: u64,
    /// Of the current epoch.
    pub(crate) loss_sum: f64,
    pub(crate) correct: usize,
    pub(crate) records: usize,
    pub(crate) scores: Option<Scores>,
    pub(crate) last_epoch: Option<Epoch>,
    pub(crate) degraded: Option<String>,
}

pub(crate) fn save_job(host: &mut dyn Host, spec: &RunSpec, initial: &Parameters) -> Result<(), RunError> {
    // As the fields of `Job`.
    save(host, "job", &(spec, initial))
}

pub(crate) fn load_job(host: &dyn Host) -> Result<Job, RunError> {
    load(host, "job")?.ok_or_else(|| RunError::Request("there is no run in this directory".to_owned()))
}

/// Saves durably, then removes older checkpoints.
pub(crate) fn save_checkpoint(host: &mut dyn Host, checkpoint: &CheckpointRef<'_>) -> Result<(), RunError> {
    save(host, &format!("checkpoint-{:010}", checkpoint.steps_done), checkpoint)?;
    let names = names(host)?;
    for old in names.iter().rev().skip(KEPT) {
        host.remove(old)?;
    }
    Ok(())
}

/// The newest checkpoint; `None` before the first.
pub(crate) fn newest_checkpoint(host: &dyn Host) -> Result<Option<Checkpoint>, RunError> {
    match names(host)?.last() {
        Some(name) => load(host, name),
        None => Ok(None),
    }
}

fn names(host: &dyn Host) -> Result<Vec<String>, StorageError> {
    Ok(host.names()?.into_iter().filter(|name| name.starts_with("checkpoint-")).collect())
}

pub(crate) fn save<T: Serialize>(host: &mut dyn Host, name: &str, value: &T) -> Result<(), RunError> {
    let failed = |e| damaged(name, e);
    // In one piece: a buffer that grows would take twice its content.
    let len = postcard::experimental::serialized_size(value).map_err(failed)?;
    let bytes = postcard::to_extend(value, Vec::with_capacity(len)).map_err(failed)?;
    Ok(host.save(name, &bytes)?)
}

pub(crate) fn load<T: for<'a> Deserialize<'a>>(host: &dyn Host, name: &str) -> Result<Option<T>, RunError> {
    let Some(bytes) = host.load(name)? else { return Ok(None) };
    Ok(Some(postcard::from_bytes(&bytes).map_err(|e| damaged(name, e))?))
}

fn damaged(name: &str, error: postcard::Error) -> StorageError {
    StorageError { file: name.to_owned(), why: format!("it is from another version of asymflow: {error}") }
}
