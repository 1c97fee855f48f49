//! What the figures say: means over seeds, a yardstick, and one sentence for each ε.

use super::experiment::{Epsilon, Experiment, Shape};
use super::figures::{Figures, Finished};

/// A difference counts if it is more than so many yardsticks.
pub(super) const YARDSTICKS: f64 = 2.0;

/// All finished runs of one ε and one shape.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) epsilon: Epsilon,
    pub(super) shape: Shape,
    pub(super) runs: Vec<Figures>,
}

/// A mean over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mean {
    pub(super) mean: f64,
    /// Standard deviation over seeds, with n − 1; nothing for one seed.
    pub(super) spread: Option<f64>,
}

impl Group {
    /// Accuracy of the merged model, in percent.
    pub(super) fn accuracy(&self) -> Mean {
        self.mean(|f| 100.0 * f.accuracy)
    }

    /// Accuracy of the trusted part alone, in percent.
    pub(super) fn trusted_only(&self) -> Mean {
        self.mean(|f| 100.0 * f.accuracy_trusted_only)
    }

    /// What the residual buys, in percentage points.
    pub(super) fn bought(&self) -> Mean {
        self.mean(Figures::bought)
    }

    /// Mean of any figure.
    pub(super) fn mean(&self, figure: impl Fn(&Figures) -> f64) -> Mean {
        Mean::of(&self.runs.iter().map(figure).collect::<Vec<_>>())
    }

    /// Standard error of the accuracy on so many test images, `sqrt(p(1 − p)/n)`, in percentage points.
    pub(super) fn sampling_error(&self) -> f64 {
        let p = self.accuracy().mean / 100.0;
        let n = self.runs[0].test_records.max(1) as f64;
        100.0 * (p * (1.0 - p) / n).sqrt()
    }

    /// The larger of sampling error and spread over seeds of what the residual buys. More seeds do not make the
    /// sampling error smaller: the test images are the same.
    pub(super) fn yardstick(&self) -> f64 {
        self.sampling_error().max(self.bought().spread.unwrap_or(0.0))
    }

    fn beyond_noise(&self) -> bool {
        self.bought().mean.abs() > YARDSTICKS * self.yardstick()
    }
}

impl Mean {
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Mean { mean, spread: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) }
    }
}

/// Groups with at least one finished run, in the order of the experiment.
pub(super) fn groups(experiment: &Experiment, finished: &[Finished]) -> Vec<Group> {
    let mut groups = Vec::new();
    for &epsilon in &experiment.epsilons {
        for shape in &experiment.shapes {
            let of_group = |f: &&Finished| f.cell.epsilon == epsilon && f.cell.shape == *shape;
            let runs: Vec<Figures> = finished.iter().filter(of_group).map(|f| f.figures.clone()).collect();
            if !runs.is_empty() {
                groups.push(Group { epsilon, shape: shape.clone(), runs });
            }
        }
    }
    groups
}

/// One sentence for each ε that has results: the shape that buys most, or that none does.
pub(super) fn sentences(experiment: &Experiment, groups: &[Group]) -> Vec<String> {
    let of = |epsilon: Epsilon| groups.iter().filter(move |g| g.epsilon == epsilon).collect::<Vec<_>>();
    experiment.epsilons.iter().filter_map(|&epsilon| sentence(&of(epsilon))).collect()
}

fn sentence(shapes: &[&Group]) -> Option<String> {
    let best = *shapes.iter().max_by(|a, b| a.bought().mean.total_cmp(&b.bought().mean))?;
    let (epsilon, bought, yardstick) = (best.epsilon, best.bought().mean, best.yardstick());
    if bought < 0.0 && shapes.iter().all(|g| g.beyond_noise()) {
        return Some(format!(
            "ε = {epsilon}: no shape buys anything; each costs accuracy beyond noise, the least {bought:+.2} points with \
             `{}` (yardstick {yardstick:.2} points).",
            best.shape
        ));
    }
    if bought < 0.0 || !best.beyond_noise() {
        return Some(format!(
            "ε = {epsilon}: no shape buys anything beyond noise; the largest difference is {bought:+.2} points with \
             `{}`, and the yardstick is {yardstick:.2} points.",
            best.shape
        ));
    }
    let near: Vec<String> = shapes
        .iter()
        .filter(|g| g.shape != best.shape && bought - g.bought().mean <= YARDSTICKS * yardstick)
        .map(|g| format!("`{}` ({:+.2})", g.shape, g.bought().mean))
        .collect();
    let near = if near.is_empty() {
        "no other shape comes within noise of it".to_owned()
    } else {
        format!("within noise of it: {}", near.join(", "))
    };
    Some(format!(
        "ε = {epsilon}: `{}` buys most, {bought:+.2} points ({:.2} % merged, {:.2} % the trusted part alone; yardstick \
         {yardstick:.2} points); {near}.",
        best.shape,
        best.accuracy().mean,
        best.trusted_only().mean,
    ))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn said(shapes: &str, seeds: &str, figures: impl Fn(&str, u64) -> (f64, f64)) -> String {
        let experiment = samples::experiment("8", shapes, seeds);
        let finished = samples::all(&experiment, |cell| figures(cell.shape.text(), cell.seed));
        let sentences = sentences(&experiment, &groups(&experiment, &finished));
        assert_eq!(sentences.len(), 1);
        sentences[0].clone()
    }

    #[test]
    fn the_best_shape_is_named() {
        let said = said("full,mean,pooled:4", "0", |shape, _| match shape {
            "full" => (0.50, 0.50),
            "mean" => (0.63, 0.50),
            _ => (0.64, 0.50),
        });
        // sqrt(0.64 · 0.36 / 2000) = 1.0733 points: 13 is within noise of 14, 0 is not.
        assert_eq!(
            said,
            "ε = 8: `pooled:4` buys most, +14.00 points (64.00 % merged, 50.00 % the trusted part alone; yardstick 1.07 \
             points); within noise of it: `mean` (+13.00)."
        );
    }

    #[test]
    fn within_noise_nothing_is_bought() {
        let said =
            said("full,mean", "0", |shape, _| if shape == "full" { (0.5, 0.52) } else { (0.51, 0.50) });
        assert!(said.contains("no shape buys anything beyond noise"), "{said}");
        assert!(said.contains("+1.00 points with `mean`") && said.contains("1.12 points"), "{said}");
    }

    #[test]
    fn a_loss_is_called_one() {
        let both =
            said("full,mean", "0", |shape, _| if shape == "full" { (0.40, 0.50) } else { (0.45, 0.50) });
        assert!(
            both.contains("each costs accuracy beyond noise, the least -5.00 points with `mean`"),
            "{both}"
        );
        let one =
            said("full,mean", "0", |shape, _| if shape == "full" { (0.40, 0.50) } else { (0.49, 0.50) });
        assert!(
            one.contains("no shape buys anything beyond noise; the largest difference is -1.00"),
            "{one}"
        );
    }

    #[test]
    fn spread_over_seeds_counts_as_noise() {
        // +8 and −2: mean +3, more than two sampling errors; the spread of 7.07 says otherwise.
        let wide = said("full", "0,1", |_, seed| if seed == 0 { (0.58, 0.50) } else { (0.48, 0.50) });
        assert!(wide.contains("no shape buys anything") && wide.contains("7.07 points"), "{wide}");
        let narrow = said("full", "0,1", |_, seed| if seed == 0 { (0.53, 0.50) } else { (0.531, 0.50) });
        assert!(narrow.contains("`full` buys most"), "{narrow}");
    }

    #[test]
    fn groups_collect_seeds() {
        let experiment = samples::experiment("2,none", "full,mean", "0,1,2");
        let mut finished = samples::all(&experiment, |cell| (0.5 + 0.1 * cell.seed as f64, 0.5));
        let all = groups(&experiment, &finished);
        assert_eq!(all.iter().map(|g| g.runs.len()).collect::<Vec<_>>(), [3; 4]);
        let accuracy = all[0].accuracy();
        assert!((accuracy.mean - 60.0).abs() < 1e-9 && (accuracy.spread.unwrap() - 10.0).abs() < 1e-9);
        finished.retain(|f| f.cell.epsilon == Epsilon::None);
        assert_eq!(groups(&experiment, &finished).len(), 2);
        assert_eq!(sentences(&experiment, &groups(&experiment, &finished)).len(), 1);
    }
}
