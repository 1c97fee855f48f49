//! A flow as data: which part of the model runs where, and in what form records leave.

use engine::InputForm;
use kernels::Precision;
use ledger::Kind;
use mechanism::ReleaseShape;
use model::{Graph, derive};
use split::{AsymmetricSplit, Method, SplitConfig};
use tensor::Shape;
use wire::RunSpec;
use wire::spec::{Asymml, Decomposition, Delta, Flow, Protection};

use crate::RunError;
use crate::asymml::layers::Settings;
use crate::asymml::placements::Placements;
use crate::asymml::rewrite::Placing;

/// Where a node of the (rewritten) graph runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In the enclave.
    Trusted,
    /// On the accelerator.
    Untrusted,
}

impl Placement {
    /// The placement's name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Placement::Trusted => "trusted",
            Placement::Untrusted => "untrusted",
        }
    }
}

/// The model, rewritten for a flow: what the enclave computes, what the accelerator computes; their logits are added.
#[derive(Clone, Debug)]
pub struct Parts {
    pub trusted: Option<TrustedGraphs>,
    pub outsourced: Option<Outsourced>,
}

/// What the enclave computes.
#[derive(Clone, Debug)]
pub enum TrustedGraphs {
    /// The whole model.
    Whole(Graph),
    /// Backbone → split → small main model (Delta).
    Split(Box<SplitGraphs>),
    /// The whole model, with a split before its convolutions (AsymML).
    Layered(Box<LayeredGraphs>),
}

/// AsymML's trusted graph, with its places, and how it exchanges.
#[derive(Clone, Debug)]
pub struct LayeredGraphs {
    pub(crate) placing: Placing,
    pub(crate) settings: Settings,
}

/// Delta's trusted graphs, and the split between them.
#[derive(Clone, Debug)]
pub struct SplitGraphs {
    pub backbone: Graph,
    pub split: AsymmetricSplit,
    pub config: SplitConfig,
    pub main: Graph,
    /// Weight of `‖WWᵀ − I‖²` over the main model's convolutions.
    pub orthogonality: f32,
}

/// What the accelerator computes, and what it is sent for each record.
#[derive(Clone, Debug)]
pub struct Outsourced {
    pub graph: Graph,
    pub input: InputForm,
    /// The kind of message a record leaves as.
    pub kind: Kind,
    /// For releases: the shape that leaves.
    pub shape: Option<ReleaseShape>,
    /// Epoch of the run in which the accelerator starts.
    pub first_epoch: usize,
}

impl Parts {
    /// Rewrites the model of `spec` for its flow.
    ///
    /// # Errors
    /// [`RunError::Request`] if the model has no place to split, or the split does not fit it.
    pub fn of(spec: &RunSpec) -> Result<Self, RunError> {
        match &spec.flow {
            // Until it is known where it is split: `Parts::placed`.
            Flow::Asymml(_) => {
                let graph = spec.graph.clone().with_precision(spec.precision);
                Ok(Parts { trusted: Some(TrustedGraphs::Whole(graph)), outsourced: None })
            }
            Flow::Enclave => {
                let graph = spec.graph.clone().with_precision(spec.precision);
                Ok(Parts { trusted: Some(TrustedGraphs::Whole(graph)), outsourced: None })
            }
            Flow::Plain | Flow::DpInput if spec.precision != Precision::F32 => {
                Err(RunError::Request(format!(
                    "trusted.precision: `{}` has no trusted part that could compute in {}",
                    spec.flow.name(),
                    spec.precision.name()
                )))
            }
            Flow::Plain => Ok(Parts { trusted: None, outsourced: Some(everything(spec)?) }),
            Flow::DpInput => Ok(Parts { trusted: None, outsourced: Some(noised_inputs(spec)?) }),
            Flow::Delta(delta) => delta_parts(spec, delta),
        }
    }
}

impl Parts {
    /// The model of an `asymml` run, split as `placements` say.
    ///
    /// # Errors
    /// [`RunError::Request`] if a split does not fit.
    pub(crate) fn placed(spec: &RunSpec, asymml: &Asymml, placements: &Placements) -> Result<Self, RunError> {
        let graph = spec.graph.clone().with_precision(spec.precision);
        let settings = Settings::of(asymml, spec.train.batch_size);
        let placing = Placing::of(&graph, placements, settings.own_gradients)?;
        let graphs = LayeredGraphs { placing, settings };
        Ok(Parts { trusted: Some(TrustedGraphs::Layered(Box::new(graphs))), outsourced: None })
    }
}

/// The instructions that products of this precision are made of on this processor.
pub(crate) fn instructions(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => kernels::gemm::instruction_set(),
        Precision::Bf16 => kernels::gemm::bf16_instruction_set(),
    }
}

fn everything(spec: &RunSpec) -> Result<Outsourced, RunError> {
    let input = pixels(spec)?;
    Ok(Outsourced { graph: spec.graph.clone(), input, kind: Kind::Inputs, shape: None, first_epoch: 0 })
}

/// The whole model, on images that leave after noise.
fn noised_inputs(spec: &RunSpec) -> Result<Outsourced, RunError> {
    if !matches!(spec.privacy.protection, Protection::Epsilon(_)) {
        return Err(RunError::Request(
            "the flow `dp-input` adds noise to every image, so it needs an `epsilon`; without noise it is `plain`"
                .to_owned(),
        ));
    }
    let input = InputForm::Numbers { shape: record_shape(spec.graph.input())? };
    let shape = Some(ReleaseShape::Full);
    Ok(Outsourced { input, kind: Kind::NoisedInputs, shape, ..everything(spec)? })
}

/// How images become inputs of the model.
pub(crate) fn pixels(spec: &RunSpec) -> Result<InputForm, RunError> {
    let form = InputForm::Pixels {
        shape: record_shape(spec.graph.input())?,
        mean: spec.train.mean.clone(),
        std: spec.train.std.clone(),
    };
    form.check().map_err(request)?;
    Ok(form)
}

fn delta_parts(spec: &RunSpec, delta: &Delta) -> Result<Parts, RunError> {
    let at = derive::split_point(&spec.graph).map_err(request)?;
    let backbone = derive::backbone(&spec.graph, at).map_err(request)?;
    let sample = backbone.shape(backbone.output(), 1).record();
    let (method, iterations) = match delta.decomposition {
        Decomposition::Light { iterations } => (Method::Light, iterations),
        Decomposition::Exact => (Method::Exact, 1),
    };
    let config = SplitConfig { rank: delta.rank, method, iterations, block: delta.block, keep: delta.keep };
    let split = AsymmetricSplit::new(config, sample).map_err(request)?;
    let main =
        derive::main_model(&spec.graph, at, split.main_shape(), delta.rank, delta.width).map_err(request)?;
    let shape = release_shape(delta);
    let outsourced = residual_part(spec, delta, at, record_shape(sample)?, shape)?;
    Ok(Parts {
        trusted: Some(TrustedGraphs::Split(Box::new(SplitGraphs {
            backbone: backbone.with_precision(spec.precision),
            split,
            config,
            main: main.with_precision(spec.precision),
            orthogonality: delta.orthogonality,
        }))),
        outsourced: Some(outsourced),
    })
}

fn residual_part(
    spec: &RunSpec,
    delta: &Delta,
    at: model::ValueId,
    sample: [usize; 3],
    shape: ReleaseShape,
) -> Result<Outsourced, RunError> {
    let released = shape.output(sample).map_err(request)?;
    // A small map may vanish in the model's strides: then every number covers several pixels, as few as will do.
    let widest = (sample[1] / released[1]).max(1);
    let mut fits = (1..=widest).filter(|repeat| widest.is_multiple_of(*repeat)).map(|repeat| {
        let [c, h, w] = released;
        (repeat, derive::residual_model(&spec.graph, at, Shape::from([c, h * repeat, w * repeat])))
    });
    let (repeat, graph) =
        fits.find(|(repeat, graph)| graph.is_ok() || *repeat == widest).expect("the widest is always tried");
    let image_side = spec.graph.input().dims()[1];
    let input = InputForm::Bits { shape: released, repeat, shift: (image_side / released[1]).max(1) };
    let kind = match spec.privacy.protection {
        Protection::NoNoise => Kind::PlainResiduals,
        _ => Kind::ResidualBits,
    };
    let graph = graph.map_err(request)?;
    Ok(Outsourced { graph, input, kind, shape: Some(shape), first_epoch: delta.stage1_epochs })
}

fn release_shape(delta: &Delta) -> ReleaseShape {
    match delta.shape {
        wire::spec::ReleaseShape::Full => ReleaseShape::Full,
        wire::spec::ReleaseShape::Mean => ReleaseShape::Mean,
        wire::spec::ReleaseShape::Pooled(side) => ReleaseShape::Pooled(side),
    }
}

/// `[C, H, W]` of an image or map.
fn record_shape(shape: Shape) -> Result<[usize; 3], RunError> {
    shape
        .dims()
        .try_into()
        .map_err(|_| RunError::Request(format!("an image has three axes, {shape} has not")))
}

pub(crate) fn request(error: impl std::fmt::Display) -> RunError {
    RunError::Request(error.to_string())
}
