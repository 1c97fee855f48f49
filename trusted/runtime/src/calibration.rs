//! How much noise every mechanism of a run gets, so that all that is released about a record stays within its budget.

use accounting::{AccountingError, Event, Loss, calibrate, gaussian};
use ledger::Kind;
use wire::RunSpec;
use wire::spec::{Clip, Labels, Protection, Release};

use crate::RunError;
use crate::flow::{Outsourced, request};

/// Noise multipliers (noise ÷ sensitivity, neighbours replace a record) of a run's Gaussian mechanisms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Calibration {
    /// Of each message of a residual or an image; `None` where they leave without noise or not at all.
    pub(crate) residual: Option<f64>,
    /// Of each gradient in place of a label.
    pub(crate) gradient: Option<f64>,
}

impl Calibration {
    /// Shares the budget: labels and the clipping norm get the ε they name, residuals what is left.
    ///
    /// # Errors
    /// [`RunError::Request`] if nothing is left, naming what was spent on what.
    pub(crate) fn of(spec: &RunSpec, outsourced: &Outsourced) -> Result<Self, RunError> {
        let delta = spec.privacy.delta;
        let epochs = spec.train.epochs.saturating_sub(outsourced.first_epoch).max(1) as u64;
        let (label_loss, gradient) = label_loss(spec, epochs).map_err(request)?;
        let (Protection::Epsilon(epsilon), Some(_)) = (spec.privacy.protection, outsourced.shape) else {
            return Ok(Calibration { residual: None, gradient });
        };
        let loss = match spec.privacy.clip {
            Clip::Norm(_) => label_loss,
            Clip::Quantile { epsilon, .. } => {
                label_loss.and(&mechanism::NormQuantile::loss(epsilon)).map_err(request)?
            }
        };
        let messages = match spec.privacy.release {
            Release::Views(views) => u64::from(views.max(1)),
            Release::PerStep => epochs,
        };
        let loss = match outsourced.kind {
            Kind::NoisedInputs => {
                let numbers = outsourced.input.numbers() as u64;
                loss.and(&Event::lattice_sampling(numbers, messages)).map_err(request)?
            }
            _ => loss,
        };
        let residual = if loss == Loss::default() {
            // One mechanism only: the exact inverse.
            gaussian::sigma(epsilon, delta, (messages as f64).sqrt()).map_err(request)?
        } else {
            let spent = loss.epsilon(delta);
            calibrate(loss, messages, epsilon, delta).map_err(|_| {
                RunError::Request(format!(
                    "[privacy] epsilon = {epsilon} leaves nothing for what leaves of records: labels and clipping norm already take \
                     {spent:.4}; raise `epsilon` or lower `label_epsilon`"
                ))
            })?
        };
        Ok(Calibration { residual: Some(residual), gradient })
    }
}

/// What a record's label costs over the run, and the noise multiplier of its gradients if it is withheld.
fn label_loss(spec: &RunSpec, epochs: u64) -> Result<(Loss, Option<f64>), AccountingError> {
    let none = Loss::default();
    match spec.privacy.labels {
        Labels::Public => Ok((none, None)),
        Labels::Randomised { epsilon } => Ok((none.and(&Event::RandomisedResponse { epsilon })?, None)),
        Labels::Withheld { epsilon, .. } => {
            let sampling = none.and(&Event::lattice_sampling(spec.graph.classes() as u64, epochs))?;
            let multiplier = calibrate(sampling, epochs, epsilon, spec.privacy.delta)?;
            let loss = sampling.and(&Event::Gaussian { noise_multiplier: multiplier, count: epochs })?;
            Ok((loss, Some(multiplier)))
        }
    }
}

/// The largest ε of any record that the run's configuration allows for.
pub(crate) fn budget(spec: &RunSpec) -> f64 {
    match (spec.privacy.protection, spec.privacy.labels) {
        (Protection::Epsilon(epsilon), _) => epsilon,
        (_, Labels::Randomised { epsilon } | Labels::Withheld { epsilon, .. }) => epsilon,
        (_, Labels::Public) => f64::INFINITY,
    }
}
