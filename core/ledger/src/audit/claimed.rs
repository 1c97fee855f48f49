//! What summary.json states, against what the ledger and the boundary log amount to.

use super::crossed::Crossed;
use super::{Claims, Disagreement, Findings, voids_the_guarantee};

/// How far the summary's ε may lie from the recomputed one, relative to it: versions of the accountant may differ in
/// their last digits.
const AGREEMENT: f64 = 1e-6;

/// `epsilon`: recomputed; `None` where nothing is guaranteed.
pub(super) fn compare(claims: &Claims, epsilon: Option<f64>, crossed: &Crossed, findings: &mut Findings) {
    let Some(summary) = &claims.summary else {
        findings.note("there is no summary.json: the run is not finished, and states no epsilon yet");
        return;
    };
    if summary.flow != claims.flow {
        let (summary, config) = (summary.flow.clone(), claims.flow.clone());
        findings.disagree(Disagreement::Flow { summary, config });
    }
    if let Some(delta) = summary.delta.filter(|delta| *delta != claims.delta) {
        findings.disagree(Disagreement::Delta { summary: delta, config: claims.delta });
    }
    match (summary.epsilon, epsilon) {
        (Some(stated), Some(found)) if stated < found * (1.0 - AGREEMENT) => {
            findings.disagree(Disagreement::Understated { stated, found });
        }
        (Some(stated), Some(found)) if stated * (1.0 - AGREEMENT) > found => {
            findings.disagree(Disagreement::Overstated { stated, found });
        }
        (Some(stated), None) => {
            let kinds: Vec<&str> = crossed
                .unprotected()
                .filter(|kind| voids_the_guarantee(*kind))
                .map(|kind| kind.name())
                .collect();
            findings.disagree(Disagreement::NoGuarantee { stated, kinds: kinds.join(" and ") });
        }
        _ => {}
    }
    let listed = |name: &str| summary.not_covered.iter().any(|sentence| sentence.contains(name));
    for kind in crossed.unprotected().filter(|kind| !listed(kind.name())) {
        findings.disagree(Disagreement::Unlisted { kind });
    }
}
