//! Predictions for single images.

use wire::accelerator::RecordSet;

use crate::records::DataSets;
use crate::run::Run;
use crate::{Host, RunError};

/// Answers for some images.
pub struct Predictions {
    /// Merged logits, `[count, classes]`.
    pub logits: Vec<f32>,
    /// Why the trusted part answered alone, if it did.
    pub degraded: Option<String>,
    /// The most ε that any record or image of this run has spent; `None` where nothing is guaranteed.
    pub epsilon: Option<f64>,
}

impl Run {
    /// Predicts the classes of `count` images.
    ///
    /// An image that leaves is charged to the ledger; the same image again leaves as the same bytes, at no charge.
    ///
    /// - Shapes: `pixels` `[count, C, H, W]` bytes → logits `[count, classes]`
    ///
    /// # Errors
    /// [`RunError`]
    pub fn infer(
        &mut self,
        host: &mut dyn Host,
        count: usize,
        pixels: &[u8],
    ) -> Result<Predictions, RunError> {
        let mut body = pixels.to_vec();
        // No labels: class 0 stands in and is never used.
        body.resize(pixels.len().saturating_add(2 * count), 0);
        self.data = DataSets::default();
        self.singly = true;
        self.add_records(RecordSet::Test, count, &body)?;
        drop(body);
        self.take_memory();
        self.totals = crate::checkpoint::Totals::default();
        self.open_layers(host, false)?;
        let mut answers = self.ask_accelerator(host, Run::ask_images)?;
        self.complete(&mut answers.own, RecordSet::Test, count)?;
        let logits = answers.merged();
        self.account_layers();
        self.report_spans(host, None);
        let epsilon = self.training_summary(host)?.epsilon;
        Ok(Predictions { logits, degraded: self.totals.degraded.clone(), epsilon })
    }

    fn ask_images(
        &mut self,
        host: &mut dyn Host,
        outsourced: &crate::Outsourced,
        own: &mut Vec<f32>,
    ) -> Result<Vec<f32>, RunError> {
        if let Some(model) = &mut self.trusted {
            model.freeze_backbone();
        }
        let (messenger, mut ledger) = self.messenger(host, outsourced)?;
        let mut link = self.connect(host, outsourced)?;
        let mut trusted = self.trusted.take();
        let images = self.data.get(RecordSet::Test);
        let messages = messenger.single(host, &mut ledger, trusted.as_mut(), images, own, &self.context());
        self.trusted = trusted;
        let logits = link.answer(&messages?, self.spec.graph.classes())?;
        link.finish();
        Ok(logits)
    }
}
