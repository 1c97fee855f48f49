//! Quality on the test records, with and without the untrusted part.

use kernels::softmax_cross_entropy;
use wire::accelerator::RecordSet;
use wire::owner::{Event, Scores, Summary};

use crate::messages::Messenger;
use crate::records::Chosen;
use crate::run::Run;
use crate::trusted_model::TrustedModel;
use crate::{Host, Outsourced, RunError};

/// Sends something to the accelerator and returns its logits; those of the trusted part that come along are added to the
/// last argument.
type Ask = fn(&mut Run, &mut dyn Host, &Outsourced, &mut Vec<f32>) -> Result<Vec<f32>, RunError>;

/// Logits of both parts for the first records of a set, or for all.
#[derive(Default)]
pub(crate) struct Answers {
    /// The trusted part's, `[N, K]`.
    pub(crate) own: Vec<f32>,
    /// The accelerator's, `[N, K]`; `None` if the trusted part answers alone.
    pub(crate) residual: Option<Vec<f32>>,
}

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
        self.open_layers(host, false)?;
        let answers = self.ask_accelerator(host, Run::ask_tests)?;
        self.totals.scores = self.score_tests(answers)?;
        self.totals.trusted_cpu_seconds = host.cpu_seconds() - started;
        self.score_low_rank()?;
        self.close_layers();
        self.report_spans(host, None);
        self.totals.images = tests as u64;
        self.training_summary(host)
    }

    /// The accelerator's logits for what `ask` sends it, and the trusted part's that came along; no accelerator's if there
    /// is no such part, or if the trusted part answers alone, which the run then says.
    pub(crate) fn ask_accelerator(&mut self, host: &mut dyn Host, ask: Ask) -> Result<Answers, RunError> {
        let mut answers = Answers::default();
        let Some(outsourced) = self.parts.outsourced.clone() else { return Ok(answers) };
        if self.remote.is_none() && self.trusted.is_some() {
            self.totals.degraded = Some("the accelerator's part was never trained".to_owned());
            return Ok(answers);
        }
        let asked = ask(self, host, &outsourced, &mut answers.own);
        answers.residual = self.or_degraded(host, asked)?;
        Ok(answers)
    }

    /// Logits of the test records from the accelerator; the trusted part runs once for what is sent and for `own`.
    fn ask_tests(
        &mut self,
        host: &mut dyn Host,
        outsourced: &Outsourced,
        own: &mut Vec<f32>,
    ) -> Result<Vec<f32>, RunError> {
        if let Some(model) = &mut self.trusted {
            model.freeze_backbone();
        }
        let (messenger, mut ledger) = self.messenger(host, outsourced)?;
        let mut link = self.connect(host, outsourced)?;
        let (tests, classes) = (self.data.get(RecordSet::Test).len(), self.spec.graph.classes());
        let records = self.data.get(RecordSet::Test);
        let receipt = messenger.charge(&mut ledger, records, 0, "test records, released once")?;
        own.reserve_exact(tests * classes);
        let mut logits = Vec::with_capacity(tests * classes);
        for chunk in Messenger::chunks(RecordSet::Test, 0, tests) {
            let mut trusted = self.trusted.take();
            let source = (self.data.get(RecordSet::Test), receipt.as_ref());
            let messages =
                messenger.chunk(host, trusted.as_mut(), source, &chunk, Some(own), &self.context());
            self.trusted = trusted;
            let messages = messages?;
            // Where messages were stored already, nothing was computed for them.
            self.complete(own, RecordSet::Test, chunk.range.end)?;
            logits.extend(link.answer(&messages, classes)?);
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
    pub(crate) fn score_tests(&mut self, answers: Answers) -> Result<Option<Scores>, RunError> {
        let tests = self.data.get(RecordSet::Test).len();
        let classes = self.spec.graph.classes();
        if tests == 0 {
            return Ok(None);
        }
        let all: Vec<u32> = (0..tests as u32).collect();
        let labels = self.data.get(RecordSet::Test).labels_of(&all).collect::<Vec<_>>();
        let Answers { mut own, residual } = answers;
        self.complete(&mut own, RecordSet::Test, tests)?;
        let correct = |logits: &[f32]| softmax_cross_entropy::correct(logits, &labels, classes);
        // What a split model predicts is of both parts already.
        let trusted = self.trusted.as_ref().filter(|model| !matches!(model, TrustedModel::Layered(_)));
        let alone = trusted.map(|_| correct(&own) as f64 / tests as f64);
        let merged = Answers { own, residual }.merged();
        let mut grad = vec![0.0; merged.len()];
        let loss = softmax_cross_entropy::loss_and_gradient(&merged, &labels, classes, &mut grad);
        Ok(Some(Scores {
            records: tests,
            loss: f64::from(loss),
            accuracy: correct(&merged) as f64 / tests as f64,
            accuracy_trusted_only: alone,
        }))
    }

    /// Adds to the scores what a split model's low-rank parts achieve alone: residuals are left out.
    pub(crate) fn score_low_rank(&mut self) -> Result<(), RunError> {
        let degraded = self.totals.degraded.is_some();
        let Some(TrustedModel::Layered(model)) = &mut self.trusted else { return Ok(()) };
        if degraded {
            if let Some(scores) = &mut self.totals.scores {
                scores.accuracy_trusted_only = Some(scores.accuracy);
            }
            return Ok(());
        }
        model.layers.set_alone(true);
        let alone = self.score_tests(Answers::default());
        if let Some(TrustedModel::Layered(model)) = &mut self.trusted {
            model.layers.set_alone(false);
        }
        if let (Some(scores), Some(alone)) = (&mut self.totals.scores, alone?) {
            scores.accuracy_trusted_only = Some(alone.accuracy);
        }
        Ok(())
    }

    /// Adds to `own`, the trusted part's logits for the first records of a set, those of the records up to `end`; zeros where
    /// there is no trusted part.
    pub(crate) fn complete(
        &mut self,
        own: &mut Vec<f32>,
        set: RecordSet,
        end: usize,
    ) -> Result<(), RunError> {
        let classes = self.spec.graph.classes();
        if self.trusted.is_none() {
            own.resize(end * classes, 0.0);
            return Ok(());
        }
        let batch = self.spec.train.batch_size;
        own.reserve_exact(end * classes - own.len());
        while own.len() < end * classes {
            let first = own.len() / classes;
            let range = first..(first + batch).min(end);
            let count = range.len();
            self.begin_pass(set, range.start as u64..range.end as u64, "evaluation");
            let (records, Some(model)) = (self.data.get(set), &mut self.trusted) else { return Ok(()) };
            records.fill(&self.pixels, range.map(Chosen::plain), model.input_mut(count));
            own.extend_from_slice(model.predict(count, &self.threads)?);
        }
        Ok(())
    }
}

impl Answers {
    /// The sum of both parts' logits.
    pub(crate) fn merged(self) -> Vec<f32> {
        let mut sum = self.own;
        sum.iter_mut().zip(self.residual.unwrap_or_default()).for_each(|(sum, r)| *sum += r);
        sum
    }
}
