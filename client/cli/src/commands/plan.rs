//! `asymflow plan`.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use model::Parameters;
use serde::Serialize;
use wire::RunSpec;
use wire::owner::{Event, Plan, PlannedLayer, PlannedRelease, Request};

use super::{answer, must_exist};
use crate::config::{Config, Loaded, Model};
use crate::session::{Session, unexpected};
use crate::terminal::{self, bytes, grouped};
use crate::{models, prepare};

/// Training records that the energy of the split is measured on.
const MEASURED: usize = 256;

/// Show how a model would be split, and what would cross the boundary
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  asymflow plan examples/delta.toml\n  asymflow plan model.onnx --json")]
pub(super) struct Arguments {
    /// A configuration, or an ONNX file, which is planned for the delta flow with its defaults
    #[arg(value_name = "RUN.toml|MODEL.onnx")]
    subject: PathBuf,
}

#[derive(Serialize)]
struct Output<'a> {
    flow: &'a str,
    model: &'a str,
    layers: Vec<Layer<'a>>,
    precision: &'a str,
    instructions: &'a str,
    peak_trusted_bytes: u64,
    peak_step: &'a str,
    recompute: bool,
    memory: Vec<Memory<'a>>,
    energy_costs: Vec<EnergyCost>,
    releases: Vec<Release<'a>>,
}

#[derive(Serialize)]
struct EnergyCost {
    energy: f64,
    cost: f64,
}

#[derive(Serialize)]
struct Layer<'a> {
    part: &'a str,
    name: &'a str,
    op: &'a str,
    placement: &'a str,
    method: Option<&'a str>,
    rank: Option<usize>,
    energy: Option<f64>,
    entropy: Option<f64>,
    entropy_bound: Option<f64>,
    cost: Option<f64>,
    trusted_macs: u64,
    untrusted_macs: u64,
    bytes_out: u64,
    bytes_in: u64,
}

#[derive(Serialize)]
struct Memory<'a> {
    name: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct Release<'a> {
    kind: &'a str,
    class: &'a str,
    numbers: usize,
    bytes: usize,
    epsilon: Option<f64>,
    sigma: Option<f64>,
    information_bits: Option<f64>,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    must_exist(&arguments.subject)?;
    let onnx = arguments.subject.extension().is_some_and(|extension| extension == "onnx");
    let subject = if onnx { of_onnx(arguments)? } else { of_config(arguments)? };
    let (flow, model) = (subject.spec.flow.name().to_owned(), subject.spec.graph.name().to_owned());
    let mut session = Session::start()?;
    let (version, spec, records) = (wire::VERSION, Box::new(subject.spec), subject.records);
    let request = Request::Plan { version, spec, records };
    session.send(&request, &[&wire::body::from_parameters(&subject.parameters), &subject.pixels])?;
    let plan = match answer(&mut session)?.0 {
        Event::Plan(plan) => plan,
        other => return Err(unexpected("`plan`", &other).into()),
    };
    session.close();
    let output = Output {
        flow: &flow,
        model: &model,
        layers: plan.layers.iter().map(layer).collect(),
        precision: plan.precision.name(),
        instructions: &plan.instructions,
        peak_trusted_bytes: plan.peak_trusted_bytes,
        peak_step: &plan.peak_step,
        recompute: plan.recompute,
        memory: plan.memory.iter().map(|part| Memory { name: &part.name, bytes: part.bytes }).collect(),
        energy_costs: plan
            .energy_costs
            .iter()
            .map(|point| EnergyCost { energy: point.energy, cost: point.cost })
            .collect(),
        releases: plan.releases.iter().map(release).collect(),
    };
    terminal::note(table(&flow, &model, &plan).trim_end());
    if json {
        terminal::print_json(&output)?;
    }
    Ok(())
}

/// What is planned.
struct Subject {
    spec: RunSpec,
    parameters: Parameters,
    /// Records to measure energy on; may be empty.
    pixels: Vec<u8>,
    /// Training and test records that a run would hold.
    records: [usize; 2],
}

fn of_config(arguments: &Arguments) -> Result<Subject> {
    let mut loaded = Loaded::read(&arguments.subject)?;
    let mut source = prepare::source(&loaded)?;
    let records_of = |split| data::count(&source, split);
    let counts = [records_of(data::Split::Train)?, records_of(data::Split::Test)?];
    source.limit_train = Some(source.limit_train.map_or(MEASURED, |limit| limit.min(MEASURED)));
    let mut records = data::load(&source, data::Split::Train)?;
    records.pixels.truncate(MEASURED * records.shape.iter().product::<usize>());
    let model = prepare::build_model(&loaded, records.shape, records.classes.len())?;
    prepare::complete(&mut loaded, &model.graph)?;
    let spec = prepare::run_spec(&loaded.config, model.graph, None);
    Ok(Subject { spec, parameters: model.parameters, pixels: records.pixels, records: counts })
}

fn of_onnx(arguments: &Arguments) -> Result<Subject> {
    let (model, warnings) = models::read_onnx(&arguments.subject)?;
    warnings.iter().for_each(|text| terminal::note(&format!("warning: {text}")));
    let settings = Model { onnx: Some(arguments.subject.clone()), ..Model::default() };
    let mut config = Config::new(settings, "delta");
    config.privacy.noise = Some(0.0);
    config.privacy.allow = vec!["plain-residuals".into(), "labels".into()];
    let mut loaded = Loaded::built(config);
    prepare::complete(&mut loaded, &model.graph)?;
    let spec = prepare::run_spec(&loaded.config, model.graph, None);
    Ok(Subject { spec, parameters: model.parameters, pixels: Vec::new(), records: [0; 2] })
}

fn layer(layer: &PlannedLayer) -> Layer<'_> {
    Layer {
        part: &layer.part,
        name: &layer.name,
        op: &layer.op,
        placement: &layer.placement,
        method: layer.method.as_deref(),
        rank: layer.rank,
        energy: layer.energy,
        entropy: layer.entropy,
        entropy_bound: layer.entropy_bound,
        cost: layer.cost,
        trusted_macs: layer.trusted_macs,
        untrusted_macs: layer.untrusted_macs,
        bytes_out: layer.bytes_out,
        bytes_in: layer.bytes_in,
    }
}

fn release(release: &PlannedRelease) -> Release<'_> {
    Release {
        kind: &release.kind,
        class: &release.class,
        numbers: release.numbers,
        bytes: release.bytes,
        epsilon: release.epsilon,
        sigma: release.sigma,
        information_bits: release.information_bits,
    }
}

/// The plan for people, ending in a line break. Writing to a String cannot fail.
fn table(flow: &str, model: &str, plan: &Plan) -> String {
    let mut text = format!("{flow} · {model}\n");
    let header = [
        "part",
        "layer",
        "op",
        "placement",
        "method",
        "rank",
        "energy",
        "entropy",
        "bound",
        "cost",
        "trusted",
        "untrusted",
        "out",
        "in",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(plan.layers.iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let padded =
            cells.map(|(i, (cell, &w))| if i < 5 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    let total = |of: fn(&PlannedLayer) -> u64| grouped(plan.layers.iter().map(of).sum());
    let (trusted, untrusted) = (total(|l| l.trusted_macs), total(|l| l.untrusted_macs));
    let _ = writeln!(text, "multiply-adds per image: trusted {trusted}, untrusted {untrusted}");
    let _ = writeln!(text, "trusted products: {}, by {}", plan.precision.name(), plan.instructions);
    text.push_str(&chart(plan));
    text.push_str(&memory(plan));
    plan.releases.iter().for_each(|release| text.push_str(&release_line(release)));
    text
}

/// Energy that stays against what it costs the trusted side, as bars; empty without figures.
fn chart(plan: &Plan) -> String {
    const WIDTH: f64 = 50.0;
    if plan.energy_costs.is_empty() {
        return String::new();
    }
    let mut text =
        "energy that stays, and the estimated trusted time of convolutions (1.00: no splits)\n".to_owned();
    for point in &plan.energy_costs {
        let bar = "█".repeat((point.cost.clamp(0.0, 1.0) * WIDTH).round() as usize);
        let _ = writeln!(text, "  {:>4.0} %  {bar} {:.2}", point.energy * 100.0, point.cost);
    }
    text
}

/// The peak of trusted memory, what it is made of, and where it is.
fn memory(plan: &Plan) -> String {
    let mut text = format!("peak trusted memory: {}\n", bytes(plan.peak_trusted_bytes as f64));
    for part in &plan.memory {
        let _ = writeln!(text, "  {:>10}  {}", bytes(part.bytes as f64), part.name);
    }
    if !plan.peak_step.is_empty() {
        let _ = writeln!(text, "  most activations are alive at {}", plan.peak_step);
    }
    if plan.recompute {
        text.push_str(
            "  cheap activations are computed again in the backward pass, to fit [trusted] memory\n",
        );
    }
    text
}

fn cells(layer: &PlannedLayer) -> [String; 14] {
    let fraction = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.3}"));
    let count = |value: u64| if value == 0 { String::new() } else { grouped(value) };
    [
        layer.part.clone(),
        layer.name.clone(),
        layer.op.clone(),
        layer.placement.clone(),
        layer.method.clone().unwrap_or_default(),
        layer.rank.map_or(String::new(), |rank| rank.to_string()),
        fraction(layer.energy),
        fraction(layer.entropy),
        fraction(layer.entropy_bound),
        fraction(layer.cost),
        count(layer.trusted_macs),
        count(layer.untrusted_macs),
        count(layer.bytes_out),
        count(layer.bytes_in),
    ]
}

fn release_line(release: &PlannedRelease) -> String {
    let mut text = format!(
        "release {} ({}): {} numbers in {} bytes",
        release.kind, release.class, release.numbers, release.bytes
    );
    if let Some(epsilon) = release.epsilon {
        let _ = write!(text, ", ε = {epsilon}");
    }
    if let Some(sigma) = release.sigma {
        let _ = write!(text, ", σ = {sigma:.4}");
    }
    if let Some(bits) = release.information_bits {
        let _ = write!(text, ", at most {bits:.2} bits about the record");
    }
    text + "\n"
}
