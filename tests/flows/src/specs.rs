use engine::{Augment, Decay, OptimiserConfig, Schedule};
use model::{Graph, zoo};
use tensor::Shape;
use wire::RunSpec;
use wire::spec::{
    Accelerator, Address, Decomposition, Delta, Flow, OnFailure, Privacy, Protection, ReleaseShape, Train,
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
            clip: 2.0,
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

/// Everything on the accelerator, with what that needs allowed by name.
pub fn plain(epochs: usize) -> RunSpec {
    let mut spec = spec(Flow::Plain, epochs);
    spec.privacy.allow = vec!["inputs".into(), "labels".into()];
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
