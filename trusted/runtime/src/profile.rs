//! Where the trusted side's time goes, told to the owner alone: times depend on nothing but shapes, but what the
//! accelerator need not know it is not told.

use wire::owner::{Event, Profile};

use crate::Host;
use crate::run::Run;
use crate::trusted_model::TrustedModel;

impl Run {
    /// From now on training, evaluation and inference report where their time goes, by `clock`: seconds since any moment.
    ///
    /// The clock may be one that is not trusted: nothing is computed from it.
    pub fn profile(&mut self, clock: fn() -> f64) {
        self.threads.trace(clock);
    }

    /// Reports the graphs whose nodes the spans name; nothing if there is no profile.
    pub(crate) fn report_graphs(&self, host: &mut dyn Host) {
        if self.threads.take_spans().is_some() {
            let parts = self.trusted.iter().flat_map(TrustedModel::parts);
            let parts = parts.map(|(name, graph, _)| (name.to_owned(), graph.clone())).collect();
            host.report(Event::Profile(Profile::Graphs(parts)), &[]);
        }
    }

    /// Reports the spans since the last report: those of one step of so many records, or what was done between steps.
    pub(crate) fn report_spans(&self, host: &mut dyn Host, step: Option<usize>) {
        if let Some(spans) = self.threads.take_spans().filter(|spans| !spans.is_empty()) {
            host.report(Event::Profile(Profile::Spans { step, spans }), &[]);
        }
    }
}
