use engine::Precision;
use engine::{Augment, Decay, OptimiserConfig, Schedule};
use model::{Graph, Norm, Parameters, zoo};
use tensor::Shape;
use wire::RunSpec;
use wire::layers::Format;
use wire::spec::{
    Accelerator, Address, Asymml, Clip, Decomposition, Delta, Finding, Flow, Labels, NoiseShare, OnFailure,
    Privacy, Protection, Ranks, Release, ReleaseShape, Side, Train,
};

/// `cnn-small` on 16×16 colour images with 10 classes.
pub fn small_graph() -> Graph {
    zoo::build("cnn-small", Shape::from([3, 16, 16]), 10).expect("cnn-small takes 16×16 images")
}

/// A short run of `flow`, with nothing allowed.
pub fn spec(flow: Flow, epochs: usize) -> RunSpec {
    RunSpec {
        graph: small_graph(),
        flow,
        privacy: Privacy {
            protection: Protection::NothingReleased,
            delta: 1e-5,
            clip: Clip::Norm(2.0),
            release: Release::Views(1),
            labels: Labels::Public,
            allow: Vec::new(),
        },
        train: Train {
            epochs,
            batch_size: 16,
            schedule: Schedule { base: 0.05, epochs, warmup_epochs: 0, decay: Decay::Cosine { min: 0.0 } },
            optimiser: OptimiserConfig::Sgd { momentum: 0.9, weight_decay: 5e-4, nesterov: false },
            augment: Augment { flip: true, crop: 2 },
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            seed: 7,
            checkpoint_steps: None,
        },
        threads: 1,
        precision: Precision::F32,
        memory: None,
        accelerator: Accelerator {
            address: Some(Address::Unix("memory".into())),
            threads: 1,
            timeout_seconds: 5.0,
            on_failure: OnFailure::Stop,
        },
    }
}

/// Everything in the enclave.
pub fn enclave(epochs: usize) -> RunSpec {
    spec(Flow::Enclave, epochs)
}

/// The same run with products of operands rounded to bf16.
pub fn bf16(mut spec: RunSpec) -> RunSpec {
    spec.precision = Precision::Bf16;
    spec
}

/// The same run with another norm in the place of batch norm.
pub fn normed(mut spec: RunSpec, norm: Norm) -> RunSpec {
    let parameters = Parameters::init(&spec.graph, spec.train.seed);
    spec.graph = norm.convert(&spec.graph, parameters).expect("the graph was built").0;
    spec
}

/// Everything on the accelerator, with what that needs allowed by name.
pub fn plain(epochs: usize) -> RunSpec {
    let mut spec = spec(Flow::Plain, epochs);
    spec.privacy.allow = vec!["inputs".into(), "labels".into()];
    spec
}

/// AsymML with ranks for all four convolutions but the first, without noise, and with what that needs allowed by name.
pub fn asymml(epochs: usize) -> RunSpec {
    let flow = Flow::Asymml(Asymml {
        ranks: Ranks::Energy(0.9),
        half: false,
        finding: Some(Finding::Shared),
        residuals: Format::F32,
        products: Format::F32,
        backward: Side::Accelerator,
        piece: Some(5),
        calibration: 16,
        noise: NoiseShare::Equal,
    });
    let mut spec = spec(flow, epochs);
    spec.privacy.protection = Protection::NoNoise;
    spec.privacy.allow =
        ["plain-residuals", "output-gradients", "weight-updates"].map(str::to_owned).to_vec();
    spec
}

/// [`asymml`] with another choice of something.
pub fn asymml_with(epochs: usize, change: impl FnOnce(&mut Asymml)) -> RunSpec {
    let mut spec = asymml(epochs);
    if let Flow::Asymml(asymml) = &mut spec.flow {
        change(asymml);
    }
    spec
}

/// [`asymml`] with noise on residuals.
pub fn asymml_noised(epochs: usize, epsilon: f64) -> RunSpec {
    let mut spec = asymml(epochs);
    spec.privacy.protection = Protection::Epsilon(epsilon);
    spec.privacy.clip = Clip::Norm(0.05);
    spec.privacy.allow = ["output-gradients", "weight-updates"].map(str::to_owned).to_vec();
    spec
}

/// Delta with one epoch of stage 1; `protection` and permissions are still to be chosen.
pub fn delta(epochs: usize, shape: ReleaseShape) -> RunSpec {
    let decomposition = Decomposition::Light { iterations: 2 };
    let flow = Flow::Delta(Delta {
        rank: 4,
        decomposition,
        block: 8,
        keep: 4,
        shape,
        width: 1.0,
        stage1_epochs: 1,
        orthogonality: 0.0,
        own_loss: 0.5,
    });
    spec(flow, epochs)
}

/// Delta at ε = 8, with labels allowed.
pub fn with_epsilon(epochs: usize) -> RunSpec {
    let mut spec = delta(epochs, ReleaseShape::Full);
    spec.privacy.protection = Protection::Epsilon(8.0);
    spec.privacy.allow = vec!["labels".into()];
    spec
}

/// Everything on the accelerator, on images noised at this ε, with labels allowed.
pub fn dp_input(epochs: usize, epsilon: f64) -> RunSpec {
    let mut spec = spec(Flow::DpInput, epochs);
    spec.privacy.protection = Protection::Epsilon(epsilon);
    spec.privacy.allow = vec!["labels".into()];
    spec
}

/// Delta without noise, with that and labels allowed.
pub fn without_noise(epochs: usize) -> RunSpec {
    let mut spec = delta(epochs, ReleaseShape::Full);
    spec.privacy.protection = Protection::NoNoise;
    spec.privacy.allow = vec!["labels".into(), "plain-residuals".into()];
    spec
}

/// `count` records for [`small_graph`] as a `Records` body: bright squares whose place is the label, in noise.
pub fn records(count: usize, seed: u64) -> Vec<u8> {
    let mut stream = engine::random::Stream::new(seed, engine::random::Purpose::Order, 0, 0);
    let mut pixels = vec![0u8; count * 3 * 256];
    let mut labels = Vec::new();
    for image in pixels.chunks_exact_mut(3 * 256) {
        image.iter_mut().for_each(|p| *p = stream.below(120) as u8);
        let label = stream.below(10) as usize;
        let (top, left) = (label / 5 * 8, label % 5 * 3);
        for c in 0..3 {
            for y in top..top + 6 {
                image[c * 256 + y * 16 + left..][..3].iter_mut().for_each(|p| *p += 120);
            }
        }
        labels.extend((label as u16).to_le_bytes());
    }
    pixels.extend(labels);
    pixels
}

/// [`with_epsilon`] where every epoch has a fresh view of each record.
pub fn per_step(epochs: usize) -> RunSpec {
    let mut spec = with_epsilon(epochs);
    spec.privacy.release = Release::PerStep;
    spec
}

/// [`with_epsilon`] with two views of each record.
pub fn two_views(epochs: usize) -> RunSpec {
    let mut spec = with_epsilon(epochs);
    spec.privacy.release = Release::Views(2);
    spec
}

/// [`with_epsilon`] with labels after randomised response, and nothing allowed.
pub fn randomised_labels(epochs: usize) -> RunSpec {
    let mut spec = with_epsilon(epochs);
    spec.privacy.labels = Labels::Randomised { epsilon: 2.0 };
    spec.privacy.allow.clear();
    spec
}

/// [`with_epsilon`] with gradients in place of labels, and nothing allowed.
pub fn withheld_labels(epochs: usize) -> RunSpec {
    let mut spec = with_epsilon(epochs);
    spec.privacy.labels = Labels::Withheld { epsilon: 3.0, clip: 1.0 };
    spec.privacy.allow.clear();
    spec
}

/// [`with_epsilon`] with a clipping norm found by a private quantile.
pub fn quantile_clip(epochs: usize) -> RunSpec {
    let mut spec = with_epsilon(epochs);
    spec.privacy.clip = Clip::Quantile { quantile: 0.5, epsilon: 0.5 };
    spec
}

/// All of it: a fresh view for every epoch, withheld labels, a private clipping norm.
pub fn everything(epochs: usize) -> RunSpec {
    let mut spec = withheld_labels(epochs);
    spec.privacy.release = Release::PerStep;
    spec.privacy.clip = Clip::Quantile { quantile: 0.5, epsilon: 0.5 };
    spec
}
