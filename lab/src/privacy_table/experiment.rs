//! What is run: one cell for every ε, shape and seed, each a RUN.toml.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use cli::config::{Loaded, parse_shape};
use cli::usage::Usage;

/// L2 clipping norm of one record's residual.
pub(super) const CLIP: f64 = 2.0;
/// δ of every guarantee.
pub(super) const DELTA: f64 = 1e-5;
const BATCH_SIZE: usize = 64;
const LEARNING_RATE: f64 = 0.05;

/// Settings of all cells.
#[derive(Clone, Debug)]
pub(super) struct Experiment {
    pub(super) architecture: String,
    pub(super) format: String,
    /// Absolute; nothing for a format that has no files.
    pub(super) data: Option<PathBuf>,
    pub(super) train_records: Option<usize>,
    pub(super) epochs: usize,
    pub(super) rank: usize,
    pub(super) epsilons: Vec<Epsilon>,
    pub(super) shapes: Vec<Shape>,
    pub(super) seeds: Vec<u64>,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) epsilon: Epsilon,
    pub(super) shape: Shape,
    pub(super) seed: u64,
}

/// The guarantee of one record, replace-one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Epsilon {
    /// ε in nats, above 0.
    Stated(f64),
    /// Without noise, so without a guarantee.
    None,
}

/// The shape a residual leaves in, as in RUN.toml.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape(String);

impl Experiment {
    /// All cells; those of one seed follow each other, so that a whole table is there early.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &seed in &self.seeds {
            for &epsilon in &self.epsilons {
                cells.extend(self.shapes.iter().map(|shape| Cell { epsilon, shape: shape.clone(), seed }));
            }
        }
        cells
    }

    /// Refuses, before anything runs, what cannot be run.
    ///
    /// # Errors
    /// The error of RUN.toml, or [`Usage`] for a value that is given twice.
    pub(super) fn check(&self) -> Result<()> {
        twice("--epsilons", &self.epsilons)?;
        twice("--shapes", &self.shapes)?;
        twice("--seeds", &self.seeds)?;
        for cell in self.cells() {
            Loaded::parse(&self.toml(&cell), Path::new(&format!("{cell}.toml")))?;
        }
        Ok(())
    }

    /// RUN.toml of one cell.
    pub(super) fn toml(&self, cell: &Cell) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let path = self
            .data
            .as_ref()
            .map_or(String::new(), |p| format!("path = {}\n", quoted(&p.to_string_lossy())));
        let records = self.train_records.map_or(String::new(), |n| format!("train_records = {n}\n"));
        let (protection, allow) = match cell.epsilon {
            Epsilon::Stated(epsilon) => (format!("epsilon = {epsilon:?}"), r#"["labels"]"#),
            Epsilon::None => ("noise = 0.0".to_owned(), r#"["labels", "plain-residuals"]"#),
        };
        format!(
            "\
# Cell {cell} of `asymflow-lab privacy-table`.

[model]
architecture = {architecture}

[data]
format = {format}
{path}{records}augment = [\"flip\", \"crop4\"]

[flow]
kind = \"delta\"
rank = {rank}
shape = {shape}
stage1_epochs = {stage1}

[privacy]
{protection}
delta = {DELTA:?}
clip = {CLIP:?}
allow = {allow}

[train]
epochs = {epochs}
batch_size = {BATCH_SIZE}
learning_rate = {LEARNING_RATE:?}
seed = {seed}

[accelerator]
address = \"spawn:cpu\"
on_failure = \"stop\"
",
            architecture = quoted(&self.architecture),
            format = quoted(&self.format),
            rank = self.rank,
            shape = quoted(cell.shape.text()),
            stage1 = self.stage1_epochs(),
            epochs = self.epochs,
            seed = cell.seed,
        )
    }

    /// Epochs of the trusted part alone: a third, rounded up.
    pub(super) fn stage1_epochs(&self) -> usize {
        self.epochs.div_ceil(3).min(self.epochs.saturating_sub(1))
    }

    /// The settings in one sentence, without the folders of this machine.
    pub(super) fn description(&self) -> String {
        let data = self.data.as_ref().and_then(|path| path.file_name());
        let data = data.map_or(String::new(), |name| format!(" `{}`", name.to_string_lossy()));
        let records = self.train_records.map_or("all".to_owned(), |n| format!("the first {n}"));
        format!(
            "Data{data} of format `{format}`, {records} training records, augmented by flips and crops; `{architecture}`, \
             flow `delta`, rank {rank}; {epochs} epochs, the first {stage1} for the trusted part alone; batches of \
             {BATCH_SIZE}, learning rate {LEARNING_RATE} with a cosine schedule; clipping norm {CLIP}, δ = {DELTA:e}; \
             labels in the clear.",
            format = self.format,
            architecture = self.architecture,
            rank = self.rank,
            epochs = self.epochs,
            stage1 = self.stage1_epochs(),
        )
    }

    /// The command line that makes this table again.
    pub(super) fn command(&self) -> String {
        let data = self.data.as_ref().and_then(|path| path.file_name());
        let data = data.map_or(String::new(), |name| format!(" --data {}", name.to_string_lossy()));
        let records = self.train_records.map_or(String::new(), |n| format!(" --train-records {n}"));
        format!(
            "cargo run --release -p asymflow-lab -- privacy-table{data} --format {}{records} --architecture {} --epochs {} \
             --rank {} --epsilons {} --shapes {} --seeds {} --out DIR",
            self.format,
            self.architecture,
            self.epochs,
            self.rank,
            joined(&self.epsilons),
            joined(&self.shapes),
            joined(&self.seeds),
        )
    }
}

fn twice<T: PartialEq + fmt::Display>(option: &str, values: &[T]) -> Result<(), Usage> {
    match values.iter().enumerate().find(|(i, value)| values[..*i].contains(value)) {
        Some((_, value)) => Err(Usage::new(format!("{option} has {value} twice"))),
        None => Ok(()),
    }
}

fn joined<T: fmt::Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// The name of its files: `eps8-pooled4-seed0`.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "eps{}-{}-seed{}", self.epsilon, self.shape.text().replace(':', ""), self.seed)
    }
}

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Epsilon::Stated(epsilon) => write!(f, "{epsilon}"),
            Epsilon::None => f.write_str("none"),
        }
    }
}

impl FromStr for Epsilon {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Epsilon::None);
        }
        match text.parse::<f64>() {
            Ok(epsilon) if epsilon.is_finite() && epsilon > 0.0 => Ok(Epsilon::Stated(epsilon)),
            _ => Err("is neither a number above 0 nor `none`".into()),
        }
    }
}

impl Shape {
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match parse_shape(text) {
            Some(_) => Ok(Shape(text.to_owned())),
            None => Err("is none of `full`, `mean` and `pooled:P`".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn config(experiment: &Experiment, cell: &Cell) -> cli::config::Config {
        Loaded::parse(&experiment.toml(cell), Path::new("RUN.toml")).unwrap().config
    }

    #[test]
    fn every_cell_is_a_run_toml() {
        let mut experiment = samples::experiment("2,0.5,none", "full,mean,pooled:4", "0,7");
        experiment.data = Some("/some \"where\"/cifar".into());
        experiment.train_records = Some(1000);
        let cells = experiment.cells();
        assert_eq!(cells.len(), 18);
        experiment.check().unwrap();
        let config = config(&experiment, &cells[11]);
        assert_eq!(cells[11].to_string(), "eps2-pooled4-seed7");
        assert_eq!(config.model.architecture.as_deref(), Some("resnet20"));
        assert_eq!(config.data.path.as_deref(), Some(Path::new("/some \"where\"/cifar")));
        assert_eq!((config.data.train_records, config.data.augment.len()), (Some(1000), 2));
        assert_eq!((config.flow.kind.as_str(), config.flow.rank), ("delta", 4));
        assert_eq!((config.flow.shape.as_str(), config.flow.stage1_epochs), ("pooled:4", Some(5)));
        assert_eq!((config.privacy.epsilon, config.privacy.noise), (Some(2.0), None));
        assert_eq!((config.privacy.delta, config.privacy.clip), (1e-5, cli::config::Clip::Norm(2.0)));
        assert_eq!(config.privacy.allow, ["labels"]);
        assert_eq!((config.train.epochs, config.train.batch_size, config.train.seed), (15, 64, 7));
        assert_eq!(config.train.learning_rate, Some(0.05));
        assert_eq!(config.accelerator.on_failure, cli::config::OnFailure::Stop);
    }

    #[test]
    fn without_noise_is_allowed_by_name() {
        let experiment = samples::experiment("none", "full", "0");
        let privacy = config(&experiment, &experiment.cells()[0]).privacy;
        assert_eq!((privacy.epsilon, privacy.noise), (None, Some(0.0)));
        assert_eq!(privacy.allow, ["labels", "plain-residuals"]);
    }

    #[test]
    fn the_first_stage_is_a_third() {
        let mut experiment = samples::experiment("8", "full", "0");
        let mut stage1 = |epochs| {
            experiment.epochs = epochs;
            experiment.check().unwrap();
            experiment.stage1_epochs()
        };
        assert_eq!([stage1(1), stage1(2), stage1(15), stage1(16)], [0, 1, 5, 6]);
    }

    #[test]
    fn wrong_use_is_refused_before_anything_runs() {
        let sample = samples::experiment("8", "full", "0");
        let wrong = [
            Experiment { architecture: "resnet21".into(), ..sample.clone() },
            Experiment { data: None, ..sample.clone() },
            Experiment { epochs: 0, ..sample.clone() },
            Experiment { seeds: vec![1, 1], ..sample.clone() },
        ];
        for (experiment, word) in wrong.iter().zip(["resnet20", "data.path", "train.epochs", "--seeds"]) {
            let error = experiment.check().unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(cli::usage::exit_status(&error), 2);
        }
        assert!(["0", "-1", "inf", "nan", "some"].iter().all(|text| text.parse::<Epsilon>().is_err()));
        assert!(["pooled:0", "half"].iter().all(|text| text.parse::<Shape>().is_err()));
    }
}
