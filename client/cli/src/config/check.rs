use data::Format;
use engine::Precision;
use ledger::Kind;
use wire::spec::ReleaseShape;

use super::Decomposition::{Exact, Light};
use super::error::unknown_value;
use super::{
    Accelerator, Clip, Config, Data, Flow, Labels, Privacy, Quantile, Release, Schedule, Train, Trusted,
    parse_size,
};

/// Flows that can be run.
pub const FLOWS: [&str; 5] = ["plain", "enclave", "asymml", "delta", "dp-input"];

/// Flows that are planned.
const LATER_FLOWS: [&str; 1] = ["slalom"];

/// What is wrong with the value of one key.
pub(super) struct Problem {
    pub(super) key: &'static str,
    pub(super) problem: String,
}

type Checked = Result<(), Problem>;

/// Everything that can be said without looking at the data or the model.
pub(super) fn check(config: &Config) -> Checked {
    check_model(config)?;
    check_data(&config.data)?;
    check_flow(&config.flow, &config.train)?;
    check_privacy(&config.privacy, &config.flow)?;
    check_train(&config.train)?;
    check_trusted(&config.trusted, &config.flow)?;
    check_accelerator(&config.accelerator)
}

/// What can be said of a configuration for a model that is not trained, and has no data.
///
/// # Errors
/// A sentence that names the key.
pub fn check_untrained(config: &Config) -> Result<(), String> {
    check_split(&config.flow)
        .and_then(|()| check_privacy(&config.privacy, &config.flow))
        .and_then(|()| check_accelerator(&config.accelerator))
        .map_err(|problem| format!("{}: {}", problem.key, problem.problem))
}

/// The shape a residual leaves in: `full`, `mean` or `pooled:P`.
pub fn parse_shape(text: &str) -> Option<ReleaseShape> {
    match text {
        "full" => Some(ReleaseShape::Full),
        "mean" => Some(ReleaseShape::Mean),
        _ => {
            let side = text.strip_prefix("pooled:")?.parse().ok().filter(|&p| p > 0)?;
            Some(ReleaseShape::Pooled(side))
        }
    }
}

/// The augmentation of a list such as `["flip", "crop4"]`; the word that is wrong otherwise.
pub fn parse_augment(words: &[String]) -> Result<engine::Augment, &str> {
    let mut augment = engine::Augment::default();
    for word in words {
        match word.strip_prefix("crop").map(str::parse::<u32>) {
            None if word == "flip" => augment.flip = true,
            Some(Ok(padding @ 1..=64)) => augment.crop = padding,
            _ => return Err(word),
        }
    }
    Ok(augment)
}

fn ensure(holds: bool, key: &'static str, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Problem { key, problem: problem() }) }
}

fn one_of(key: &'static str, found: &str, known: &[&str]) -> Checked {
    ensure(known.contains(&found), key, || unknown_value(found, known))
}

fn positive(key: &'static str, value: usize) -> Checked {
    ensure(value > 0, key, || "must be at least 1".into())
}

fn above_zero(key: &'static str, value: f64) -> Checked {
    ensure(value.is_finite() && value > 0.0, key, || format!("{value} is not a number above 0"))
}

fn not_negative(key: &'static str, value: f64) -> Checked {
    ensure(value.is_finite() && value >= 0.0, key, || format!("{value} is not a number from 0"))
}

fn check_model(config: &Config) -> Checked {
    let model = &config.model;
    match (&model.architecture, &model.onnx) {
        (Some(name), None) => one_of("model.architecture", name, model::zoo::ARCHITECTURES)?,
        (None, Some(_)) => {}
        (None, None) => ensure(false, "model", || "needs `architecture` or `onnx`".into())?,
        (Some(_), Some(_)) => {
            ensure(false, "model.onnx", || "give `architecture` or `onnx`, not both".into())?
        }
    }
    positive("model.classes", model.classes.unwrap_or(1))
}

fn check_data(data: &Data) -> Checked {
    let names = Format::ALL.map(Format::name);
    one_of("data.format", &data.format, &names)?;
    let synthetic = data.format == Format::Synthetic.name();
    ensure(synthetic || data.path.is_some(), "data.path", || {
        format!("is missing; `{}` is read from a folder", data.format)
    })?;
    parse_augment(&data.augment).map(|_| ()).map_err(|word| Problem {
        key: "data.augment",
        problem: format!("`{word}` is not known; there are `flip` and `crop1` to `crop64`"),
    })?;
    positive("data.train_records", data.train_records.unwrap_or(1))?;
    positive("data.test_records", data.test_records.unwrap_or(1))?;
    positive("data.resize", data.resize.unwrap_or(1))?;
    positive("data.crop", data.crop.unwrap_or(1))?;
    let Some(normalise) = &data.normalise else { return Ok(()) };
    let finite = normalise.mean.iter().all(|m| m.is_finite());
    ensure(finite, "data.normalise", || "`mean` must be finite numbers".into())?;
    let above = normalise.std.iter().all(|s| s.is_finite() && *s > 0.0);
    ensure(above, "data.normalise", || "`std` must be numbers above 0".into())
}

fn check_flow(flow: &Flow, train: &Train) -> Checked {
    ensure(!LATER_FLOWS.contains(&flow.kind.as_str()), "flow.kind", || {
        format!("`{}` is not available yet; there are {}", flow.kind, FLOWS.join(", "))
    })?;
    one_of("flow.kind", &flow.kind, &FLOWS)?;
    positive("flow.rank", flow.rank)?;
    check_split(flow)?;
    ensure((1..=100).contains(&flow.iterations), "flow.iterations", || "must be from 1 to 100".into())?;
    ensure(parse_shape(&flow.shape).is_some(), "flow.shape", || {
        format!("`{}` is not known; there are `full`, `mean` and `pooled:P`", flow.shape)
    })?;
    let (block, keep) = (flow.dct_block, flow.dct_keep);
    positive("flow.dct_block", block.unwrap_or(1))?;
    positive("flow.dct_keep", keep.unwrap_or(1))?;
    ensure(keep.is_none() || block.is_some(), "flow.dct_keep", || "needs `dct_block` beside it".into())?;
    ensure(keep.unwrap_or(1) <= block.unwrap_or(1), "flow.dct_keep", || {
        "must not be larger than `dct_block`".into()
    })?;
    above_zero("flow.main_width", f64::from(flow.main_width))?;
    not_negative("flow.orthogonality", f64::from(flow.orthogonality))?;
    ensure((0.0..=1.0).contains(&flow.own_loss), "flow.own_loss", || "must be from 0 to 1".into())?;
    ensure(flow.stage1_epochs.unwrap_or(0) < train.epochs.max(1), "flow.stage1_epochs", || {
        format!("must be below train.epochs ({}): the rest trains both parts", train.epochs)
    })
}

fn check_split(flow: &Flow) -> Checked {
    let known = flow.kind != "delta" || matches!(flow.decomposition, None | Some(Light | Exact));
    ensure(known, "flow.decomposition", || "`delta` has `light` and `exact`".into())?;
    let energy = flow.energy.unwrap_or(1.0);
    ensure(energy > 0.0 && energy <= 1.0, "flow.energy", || {
        format!("{energy} is not above 0 and at most 1")
    })?;
    ensure(flow.energy.is_none() || flow.ranks.is_none(), "flow.ranks", || {
        "give `energy` or `ranks`, not both".into()
    })?;
    positive("flow.micro_batch", flow.micro_batch.unwrap_or(1))?;
    positive("flow.calibration", flow.calibration)
}

fn check_privacy(privacy: &Privacy, flow: &Flow) -> Checked {
    let unprotected: Vec<&str> = Kind::unprotected().map(Kind::name).collect();
    for kind in &privacy.allow {
        one_of("privacy.allow", kind, &unprotected)?;
    }
    ensure(privacy.delta > 0.0 && privacy.delta < 1.0, "privacy.delta", || {
        format!("{} is not between 0 and 1", privacy.delta)
    })?;
    if let Some(epsilon) = privacy.epsilon {
        above_zero("privacy.epsilon", epsilon)?;
    }
    check_clip(privacy)?;
    check_release(privacy)?;
    check_labels(privacy)?;
    ensure(privacy.noise.is_none_or(|noise| noise == 0.0), "privacy.noise", || {
        "only 0.0 (no noise) can be given; state `epsilon` and the noise follows from it".into()
    })?;
    match (flow.kind.as_str(), privacy.epsilon, privacy.noise) {
        (_, Some(_), Some(_)) => {
            ensure(false, "privacy.noise", || "give `epsilon` or `noise`, not both".into())
        }
        ("dp-input", None, noise) => {
            let key = if noise.is_some() { "privacy.noise" } else { "privacy" };
            ensure(false, key, || {
                "`dp-input` adds noise to every image: state `epsilon = …`; without noise it is the flow `plain`"
                    .into()
            })
        }
        (flow @ ("delta" | "asymml"), None, None) => ensure(false, "privacy", || {
            format!("`{flow}` releases messages: state `epsilon = …`, or `noise = 0.0` for no protection")
        }),
        _ => Ok(()),
    }
}

fn check_clip(privacy: &Privacy) -> Checked {
    match privacy.clip {
        Clip::Norm(norm) => above_zero("privacy.clip", norm),
        Clip::Quantile(Quantile { quantile, epsilon }) => {
            ensure(quantile > 0.0 && quantile < 1.0, "privacy.clip", || {
                format!("the quantile {quantile} is not between 0 and 1")
            })?;
            above_zero("privacy.clip", epsilon)?;
            ensure(privacy.noise.is_none(), "privacy.clip", || {
                "without noise nothing is clipped: give a number, or an `epsilon` in place of `noise`".into()
            })?;
            below_budget(privacy, "privacy.clip", epsilon)
        }
    }
}

fn check_release(privacy: &Privacy) -> Checked {
    ensure((1..=10_000).contains(&privacy.views), "privacy.views", || "must be from 1 to 10,000".into())?;
    ensure(privacy.release == Release::Once || privacy.views == 1, "privacy.views", || {
        "needs `release = \"once\"`: with \"per-step\" every epoch has a view of its own".into()
    })
}

fn check_labels(privacy: &Privacy) -> Checked {
    above_zero("privacy.gradient_clip", privacy.gradient_clip)?;
    match (privacy.labels, privacy.label_epsilon) {
        (Labels::Public, None) => Ok(()),
        (Labels::Public, Some(_)) => ensure(false, "privacy.label_epsilon", || {
            "needs `labels = \"randomised\"` or `\"withheld\"`".into()
        }),
        (Labels::Randomised | Labels::Withheld, None) => ensure(false, "privacy.labels", || {
            "needs `label_epsilon = …`: how much may be told about one label in all, as a part of `epsilon`"
                .into()
        }),
        (Labels::Randomised | Labels::Withheld, Some(epsilon)) => {
            above_zero("privacy.label_epsilon", epsilon)?;
            below_budget(privacy, "privacy.label_epsilon", epsilon)
        }
    }
}

/// A part of the budget is smaller than the whole.
fn below_budget(privacy: &Privacy, key: &'static str, part: f64) -> Checked {
    let whole = privacy.epsilon.unwrap_or(f64::INFINITY);
    ensure(part < whole, key, || format!("{part} is a part of `epsilon`, and must be below {whole}"))
}

fn check_train(train: &Train) -> Checked {
    positive("train.epochs", train.epochs)?;
    positive("train.batch_size", train.batch_size)?;
    positive("train.checkpoint_steps", train.checkpoint_steps.unwrap_or(1))?;
    above_zero("train.learning_rate", train.learning_rate.unwrap_or(1.0))?;
    not_negative("train.weight_decay", f64::from(train.weight_decay.unwrap_or(0.0)))?;
    not_negative("train.min_rate", train.min_rate)?;
    above_zero("train.gamma", train.gamma)?;
    ensure((0.0..1.0).contains(&train.momentum), "train.momentum", || {
        format!("{} is not from 0 to below 1", train.momentum)
    })?;
    ensure(!train.nesterov || train.momentum > 0.0, "train.nesterov", || "needs `momentum` above 0".into())?;
    ensure(train.schedule != Schedule::Step || !train.milestones.is_empty(), "train.schedule", || {
        "`step` needs `milestones = [epoch, …]`".into()
    })?;
    ensure(train.warmup_epochs <= train.epochs, "train.warmup_epochs", || "is more than `epochs`".into())
}

fn check_trusted(trusted: &Trusted, flow: &Flow) -> Checked {
    ensure(trusted.place == "this-machine", "trusted.where", || {
        format!("`{}` is not available yet; there is `this-machine`", trusted.place)
    })?;
    ensure((1..=1024).contains(&trusted.threads), "trusted.threads", || "must be from 1 to 1024".into())?;
    let used = trusted.precision == Precision::F32 || !flow.is_outsourced();
    ensure(used, "trusted.precision", || {
        let precision = trusted.precision.name();
        format!("the flow `{}` has no trusted part that could compute in `{precision}`", flow.kind)
    })?;
    ensure(trusted.memory.as_deref().is_none_or(|text| parse_size(text).is_some()), "trusted.memory", || {
        format!("`{}` is not a size; write it like `128 MiB`", trusted.memory.as_deref().unwrap_or_default())
    })
}

fn check_accelerator(accelerator: &Accelerator) -> Checked {
    let address = accelerator.address.as_str();
    let known = match address.split_once(':') {
        Some(("spawn", device)) => device == "cpu",
        Some(("unix", path)) => !path.is_empty(),
        Some(("tcp", host)) => host
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)),
        _ => false,
    };
    ensure(known, "accelerator.address", || {
        format!("`{address}` is not an address; there are `spawn:cpu`, `unix:PATH` and `tcp:HOST:PORT`")
    })?;
    let threads = accelerator.threads.unwrap_or(1);
    ensure((1..=1024).contains(&threads), "accelerator.threads", || "must be from 1 to 1024".into())?;
    let in_range = accelerator.timeout > 0.0 && accelerator.timeout <= 1e6;
    ensure(in_range, "accelerator.timeout", || "must be seconds above 0 and up to 1,000,000".into())
}
