//! Quality on the test records, with and without the untrusted part.

use kernels::softmax_cross_entropy;
use wire::accelerator::RecordSet;
use wire::owner::{Event, Scores, Summary};

use crate::messages::Messenger;
use crate::records::Chosen;
use crate::run::Run;
use crate::{Host, Outsourced, RunError};

/// Sends something to the accelerator and returns its logits.
type Ask = fn(&mut Run, &mut dyn Host, &Outsourced) -> Result<Vec<f32>, RunError>;

impl Run {
    /// Scores the trained model on the test records.
    ///
    /// Each test record leaves at most once, as in training: stored messages are used again.
    ///
    /// # Errors
    /// [`RunError`]
    pub fn evaluate(&mut self, host: &mut dyn Host) -> Result<Summary, RunError> {
        let tests = self.data.get(RecordSet::Test).len();
        if tests == 0 {
            return Err(RunError::Request("there are no test records".to_owned()));
        }
        self.take_memory();
        self.totals = crate::checkpoint::Totals::default();
        let started = host.cpu_seconds();
        let residual = self.ask_accelerator(host, Run::ask_tests)?;
        self.totals.scores = self.score_tests(residual.as_deref())?;
        self.totals.trusted_cpu_seconds = host.cpu_seconds() - started;
        self.totals.images = tests as u64;
        self.training_summary(host)
    }

    /// The accelerator's logits for what `ask` sends it; `None` if there is no accelerator's part, or if the trusted part
    /// answers alone, which the run then says.
    pub(crate) fn ask_accelerator(
        &mut self,
        host: &mut dyn Host,
        ask: Ask,
    ) -> Result<Option<Vec<f32>>, RunError> {
        let Some(outsourced) = self.parts.outsourced.clone() else { return Ok(None) };
        if self.remote.is_none() && self.trusted.is_some() {
            self.totals.degraded = Some("the accelerator's part was never trained".to_owned());
            return Ok(None);
        }
        let asked = ask(self, host, &outsourced);
        self.or_degraded(host, asked)
    }

    /// Logits of the test records from the accelerator.
    fn ask_tests(&mut self, host: &mut dyn Host, outsourced: &Outsourced) -> Result<Vec<f32>, RunError> {
        if let Some(model) = &mut self.trusted {
            model.freeze_backbone();
        }
        let (messenger, mut ledger) = self.messenger(host, outsourced)?;
        let mut link = self.connect(host, outsourced)?;
        let tests = self.data.get(RecordSet::Test).len();
        let records = self.data.get(RecordSet::Test);
        let receipt = messenger.charge(&mut ledger, records, 0, "test records, released once")?;
        let mut logits = Vec::new();
        for chunk in Messenger::chunks(RecordSet::Test, 0, tests) {
            let mut trusted = self.trusted.take();
            let source = (self.data.get(RecordSet::Test), receipt.as_ref());
            let messages = messenger.chunk(host, trusted.as_mut(), source, &chunk, &self.context());
            self.trusted = trusted;
            logits.extend(link.answer(&messages?, self.spec.graph.classes())?);
            let (set, records) = (RecordSet::Test, chunk.range.end);
            let epsilon = self.epsilon(ledger.ledger());
            host.report(Event::Released { set, records, total: tests, epsilon }, &[]);
        }
        link.finish();
        self.totals.account(&mut link);
        self.totals.untrusted_cpu_seconds = link.cpu_seconds();
        Ok(logits)
    }

    /// Scores of the test records, with the accelerator's logits where there are some; `None` without test records.
    pub(crate) fn score_tests(&mut self, residual: Option<&[f32]>) -> Result<Option<Scores>, RunError> {
        let tests = self.data.get(RecordSet::Test).len();
        let classes = self.spec.graph.classes();
        if tests == 0 {
            return Ok(None);
        }
        let all: Vec<u32> = (0..tests as u32).collect();
        let labels = self.data.get(RecordSet::Test).labels_of(&all).collect::<Vec<_>>();
        let trusted = self.trusted_logits(RecordSet::Test)?;
        let alone = trusted
            .as_ref()
            .map(|logits| softmax_cross_entropy::correct(logits, &labels, classes) as f64 / tests as f64);
        let mut merged = trusted.unwrap_or_else(|| vec![0.0; tests * classes]);
        merged.iter_mut().zip(residual.unwrap_or_default()).for_each(|(sum, r)| *sum += r);
        let mut grad = vec![0.0; merged.len()];
        let loss = softmax_cross_entropy::loss_and_gradient(&merged, &labels, classes, &mut grad);
        Ok(Some(Scores {
            records: tests,
            loss: f64::from(loss),
            accuracy: softmax_cross_entropy::correct(&merged, &labels, classes) as f64 / tests as f64,
            accuracy_trusted_only: alone,
        }))
    }

    /// Logits of the trusted part alone, in evaluation mode; `None` if there is no trusted part.
    pub(crate) fn trusted_logits(&mut self, set: RecordSet) -> Result<Option<Vec<f32>>, RunError> {
        let Some(model) = &mut self.trusted else { return Ok(None) };
        let records = self.data.get(set);
        let batch = self.spec.train.batch_size;
        let mut logits = Vec::with_capacity(records.len() * self.spec.graph.classes());
        for first in (0..records.len()).step_by(batch) {
            let range = first..(first + batch).min(records.len());
            let count = range.len();
            records.fill(&self.pixels, range.map(Chosen::plain), model.input_mut(count));
            logits.extend_from_slice(model.predict(count, &self.threads)?);
        }
        Ok(Some(logits))
    }
}
