//! The audit for people.

use std::fmt::Write;

use ledger::Direction;
use ledger::audit::{DatasetReport, KindReport, MechanismReport};

use super::{Found, conditions};
use crate::config::Config;
use crate::run_dir::RunDir;
use crate::summary::list;
use crate::terminal::{bytes, grouped};

/// Purposes of a data set that are shown; `--json` has all.
const PURPOSES: usize = 3;
/// Disagreements that are shown one by one; `--json` has all.
const SHOWN: usize = 20;

impl Found {
    /// The table, ending in a line break. Writing to a String cannot fail.
    pub(super) fn table(&self, config: &Config, run: &RunDir) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<16}{value}");
        };
        row("run", &format!("{} · {}", config.flow.kind, run.path().display()));
        row("privacy", &self.privacy_text());
        for data in &self.audit.datasets {
            row("data set", &dataset_text(data));
        }
        for mechanism in &self.audit.mechanisms {
            row("mechanism", &self.mechanism_text(mechanism));
        }
        text.push_str(&kinds_table(&self.audit.kinds));
        list(&mut text, "not covered", &conditions::not_covered(&self.audit));
        list(&mut text, "on condition", &conditions::conditions(config, &self.audit));
        list(&mut text, "note", &self.audit.notes);
        list(&mut text, "DISAGREEMENT", &self.shown());
        if self.disagreements.is_empty() {
            let charges = count(self.audit.ledger_head.sequence, "charge");
            let messages = count(self.audit.kinds.iter().map(|kind| kind.messages).sum(), "message");
            let _ = writeln!(
                text,
                "{:<16}yes: {charges} in the ledger, {messages} in the boundary log",
                "consistent"
            );
        } else {
            let _ = writeln!(text, "{:<16}NO: do not rely on what these files state", "consistent");
        }
        text
    }

    fn privacy_text(&self) -> String {
        let delta = self.audit.delta;
        match (self.audit.epsilon, self.audit.epsilon_zero_record) {
            (Some(0.0), _) => "ε = 0: nothing that depends on a record left through a mechanism".to_owned(),
            (Some(epsilon), Some(zero)) => format!(
                "ε = {epsilon:.4}, δ = {delta:e} per record (replaced by any other); against an all-zero record {zero:.4}"
            ),
            _ => "NO GUARANTEE can be derived from these files".to_owned(),
        }
    }

    fn mechanism_text(&self, mechanism: &MechanismReport) -> String {
        let MechanismReport { entries, records, epsilon, epsilon_zero_record, .. } = mechanism;
        let mut text = format!(
            "{}\n{:16}{} for {}; one release: ε = {epsilon:.4}, against an all-zero record {epsilon_zero_record:.4}",
            mechanism.mechanism,
            "",
            count(*entries, "charge"),
            count(*records, "record")
        );
        if let (Some(bits), Some(numbers)) = (mechanism.information_bits, mechanism.numbers) {
            let _ = write!(
                text,
                "\n{:16}a message of {} numbers tells at most {bits:.3} bits about its record",
                "",
                grouped(numbers)
            );
        }
        if let (Some(paper), Some(rate)) = (self.papers(mechanism), self.rate) {
            let _ = write!(
                text,
                "\n{:16}the papers' ε of the same noise, NOT A GUARANTEE: {paper:.4} at sampling rate {rate:.4}",
                ""
            );
        }
        text
    }

    fn shown(&self) -> Vec<String> {
        let mut shown: Vec<String> = self.disagreements.iter().take(SHOWN).cloned().collect();
        let more = self.disagreements.len() - shown.len();
        if more > 0 {
            shown.push(format!("and {} more; --json lists all", grouped(more as u64)));
        }
        shown
    }
}

fn dataset_text(data: &DatasetReport) -> String {
    let root = data.dataset.to_string();
    format!(
        "{} ({}…): {} charged; the most, ε = {:.4}, for {}",
        purposes(&data.purposes),
        &root[..8],
        count(data.records, "record"),
        data.epsilon,
        data.worst
    )
}

/// The first of them, and how many more.
fn purposes(all: &[String]) -> String {
    let shown = all[..all.len().min(PURPOSES)].join("; ");
    if all.len() > PURPOSES { format!("{shown} and {} more", all.len() - PURPOSES) } else { shown }
}

/// `1 record`, `2 records`.
fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// One row per kind; columns as wide as they must be.
fn kinds_table(kinds: &[KindReport]) -> String {
    let header = ["kind", "", "class", "messages", "records", "bytes", "ε per record"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(kinds.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut text = String::new();
    for row in rows.iter().filter(|_| !kinds.is_empty()) {
        let cells = row.iter().zip(&widths).enumerate();
        let padded =
            cells.map(|(i, (cell, &w))| if i < 3 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn cells(kind: &KindReport) -> [String; 7] {
    let way = match kind.direction {
        Direction::Outward => "out",
        Direction::Inward => "in",
    };
    [
        kind.kind.to_string(),
        way.to_owned(),
        kind.class.to_string(),
        grouped(kind.messages),
        grouped(kind.records),
        bytes(kind.bytes as f64),
        kind.epsilon.map_or("none".to_owned(), |epsilon| format!("{epsilon:.4}")),
    ]
}
