//! The numbers that are released of records: residuals of a backbone, or the images themselves.

use std::ops::Range;

use engine::Draw;
use kernels::trace::Work;
use ledger::Digest;
use wire::RunSpec;
use wire::spec::Release;

use crate::RunError;
use crate::messages::Context;
use crate::records::{Chosen, Records};
use crate::trusted_model::TrustedModel;

/// Where released numbers come from.
pub(crate) enum Vectors<'a> {
    /// Residuals of the trusted part's frozen backbone.
    Residuals(&'a mut TrustedModel),
    /// Normalised images, made in this memory.
    Images(Vec<f32>),
}

impl<'a> Vectors<'a> {
    /// Residuals where there is a trusted part.
    pub(crate) fn of(trusted: Option<&'a mut TrustedModel>) -> Self {
        trusted.map_or(Vectors::Images(Vec::new()), Vectors::Residuals)
    }

    /// Gives `release` the numbers of some records, batch by batch; then a trusted part goes on from its split, to the
    /// logits that `own` asks for.
    pub(crate) fn for_each_batch(
        &mut self,
        (records, view, range): (&Records, u32, Range<usize>),
        mut own: Option<&mut Vec<f32>>,
        context: &Context<'_>,
        mut release: impl FnMut(Range<usize>, &[f32]) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let batch = context.batch.max(1);
        for first in range.clone().step_by(batch) {
            let part = first..(first + batch).min(range.end);
            let count = part.len();
            let numbers = self.numbers(records, (view, part.clone()), context)?;
            context.threads.span(Work::Release, || release(part, numbers))?;
            if let (Some(own), Vectors::Residuals(trusted)) = (&mut own, &mut *self) {
                own.extend_from_slice(trusted.predict_split(count, context.threads)?);
            }
        }
        Ok(())
    }

    /// Numbers `[N, …]` of some records' views.
    fn numbers(
        &mut self,
        records: &Records,
        (view, range): (u32, Range<usize>),
        context: &Context<'_>,
    ) -> Result<&[f32], RunError> {
        let count = range.len();
        let chosen = range.map(|record| Chosen {
            record,
            view: context.augment.view(context.seed, view, record),
            draw: Draw::default(),
        });
        match self {
            Vectors::Residuals(trusted) => {
                records.fill(context.form, chosen, trusted.input_mut(count));
                trusted.residuals(count, context.threads)
            }
            Vectors::Images(images) => {
                images.resize(count * context.form.numbers(), 0.0);
                records.fill(context.form, chosen, images);
                Ok(images)
            }
        }
    }
}

/// Shape `[C, H, W]` of what is released of one record.
pub(crate) fn shape(trusted: Option<&TrustedModel>, spec: &RunSpec) -> Result<[usize; 3], RunError> {
    let shape = match trusted {
        Some(trusted) => {
            let (_, backbone, _) = trusted.parts()[0];
            backbone.shape(backbone.output(), 1).record()
        }
        None => spec.graph.input(),
    };
    shape
        .dims()
        .try_into()
        .map_err(|_| RunError::Request(format!("what is released has three axes, {shape} has not")))
}

/// Digest of all that turns a record and a view into the released numbers.
pub(crate) fn function(trusted: Option<&TrustedModel>, spec: &RunSpec) -> Result<Digest, RunError> {
    let train = &spec.train;
    let mut preprocessing = format!("{:?}", crate::flow::pixels(spec)?);
    if spec.privacy.release != Release::Views(1) {
        preprocessing += &format!("; views by {:?}, seed {}", train.augment, train.seed);
    }
    Ok(match trusted {
        Some(trusted) => trusted.residual_function(preprocessing.as_bytes()),
        None => Digest::of("asymflow image function v1", &[preprocessing.as_bytes()]),
    })
}
