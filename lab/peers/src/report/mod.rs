//! What came out: table.md, table.csv, chart.svg.

mod chart;
mod csv;
mod table;

use std::path::Path;

use anyhow::{Context, Result};

use crate::bench::{Measured, Results, Runs};

/// Ours.
const OWN: &str = "asymflow";

/// Writes all three files, replacing those of an earlier case.
///
/// # Errors
/// If the folder cannot be written.
pub(crate) fn write(folder: &Path, results: &Results) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (name, text) in [
        ("table.md", table::text(results)),
        ("table.csv", csv::text(results)),
        ("chart.svg", chart::svg(results)?),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// One line of progress.
pub(crate) fn line(measured: &Measured, results: &Results) -> String {
    let ratios = results.peers.iter().skip(1).map(|(name, _)| match measured.ratio(name, Runs::wall) {
        Some(ratio) => format!("{name} {ratio:.2}"),
        None => format!("{name} –"),
    });
    let own = measured.runs.get(OWN).and_then(Runs::wall).unwrap_or(f64::NAN);
    format!(
        "{} thread(s) {:<34} {:9.2} ms   {}",
        measured.threads,
        measured.case.id(),
        1e3 * own,
        ratios.collect::<Vec<_>>().join("  ")
    )
}

impl Measured {
    /// A peer's median over ours: above 1, asymflow is faster.
    pub(crate) fn ratio(&self, peer: &str, of: fn(&Runs) -> Option<f64>) -> Option<f64> {
        Some(of(self.runs.get(peer)?)? / of(self.runs.get(OWN)?)?)
    }

    /// Operations per second of a peer's median repetition.
    pub(crate) fn speed(&self, peer: &str) -> Option<f64> {
        Some(self.case.operations() / self.runs.get(peer)?.wall()?)
    }

    /// Our operations over what the processor can do at most in the processor time they took.
    pub(crate) fn share_of_peak(&self) -> Option<f64> {
        Some(self.case.operations() / self.runs.get(OWN)?.cpu()? / median(&self.peak)?)
    }
}

impl Runs {
    /// Median seconds by the clock.
    pub(crate) fn wall(&self) -> Option<f64> {
        median(&self.wall)
    }

    /// Median seconds of processor time.
    pub(crate) fn cpu(&self) -> Option<f64> {
        median(&self.cpu)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len(), sorted.len() % 2) {
        (0, _) => None,
        (_, 1) => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// `None` if there is nothing to take it of.
fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let sum: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (sum / ratios.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(geometric_mean(&[]), None);
        assert!((geometric_mean(&[0.5, 8.0]).unwrap() - 2.0).abs() < 1e-12);
    }
}
