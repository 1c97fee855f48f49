//! The synthetic set: the same bytes everywhere, balanced, and no matter for a linear model.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use asymflow_data::{DataError, Format, Images, Source, Split, load};

fn source(seed: u64, train: usize, test: usize) -> Source {
    Source { seed, records: (train, test), ..Source::new(Format::Synthetic, "") }
}

fn train(seed: u64, records: usize) -> Images {
    load(&source(seed, records, 1), Split::Train).unwrap()
}

#[test]
fn defaults_are_balanced_and_use_the_whole_range() {
    let source = Source::new(Format::Synthetic, "");
    for (split, records) in [(Split::Train, 4000), (Split::Test, 1000)] {
        let images = load(&source, split).unwrap();
        assert_eq!((images.len(), images.shape, images.classes.len()), (records, [3, 32, 32], 10));
        for class in 0..10 {
            assert_eq!(images.labels.iter().filter(|&&label| label == class).count(), records / 10);
        }
        let (mean, std) = images.mean_std();
        for c in 0..3 {
            assert!((mean[c] - 0.5).abs() < 0.02 && (0.2..0.35).contains(&std[c]), "{mean:?} {std:?}");
        }
    }
}

const PINNED: u64 = 0x929d_525d_c6f4_053a;

/// The hash of what one machine drew: another machine, or a changed generator, that draws otherwise fails here.
#[test]
fn bytes_are_the_same_on_every_machine() {
    let fnv = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = train(7, 200).pixels.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    assert_eq!(hash, PINNED, "{hash:#x}");
}
#[test]
fn a_record_depends_on_seed_split_and_place_alone() {
    let images = train(1, 30);
    let more = train(1, 60);
    assert_eq!(images.pixels, more.pixels[..images.pixels.len()]);
    let limited = Source { limit_train: Some(30), ..source(1, 60, 1) };
    assert_eq!(load(&limited, Split::Train).unwrap(), images);
    let test = load(&source(1, 1, 30), Split::Test).unwrap();
    let other = train(2, 30);
    for n in 0..30 {
        assert_ne!(images.record(n), test.record(n), "{n}");
        assert_ne!(images.record(n), other.record(n), "{n}");
    }
}

#[test]
fn no_records_are_an_error() {
    assert!(matches!(load(&source(0, 0, 1), Split::Train), Err(DataError::Setting { key: "records", .. })));
    let absurd = source(0, usize::MAX, 1);
    assert!(matches!(load(&absurd, Split::Train), Err(DataError::Memory { .. })));
}

#[test]
fn a_linear_model_of_the_pixels_fails() {
    let set = source(0, 4000, 1000);
    let (train, test) = (load(&set, Split::Train).unwrap(), load(&set, Split::Test).unwrap());
    let accuracy = Linear::fit(&train, 8).accuracy(&test);

    assert!(accuracy < 0.6, "{accuracy}");
}

/// The linear model of the test above does learn what is linear: the class as a bright block.
#[test]
fn the_linear_model_can_learn() {
    let mut images = train(0, 1000);
    for n in 0..1000 {
        let start = 3072 * n + 100 * usize::from(images.labels[n]);
        images.pixels[start..start + 60].fill(255);
    }
    let accuracy = Linear::fit(&images, 4).accuracy(&images);
    assert!(accuracy > 0.9, "{accuracy}");
}

/// Softmax regression on pixels scaled to [-1, 1].
struct Linear {
    /// `[10, 3072 + 1]`, the last column the bias.
    weights: Vec<Vec<f32>>,
}

impl Linear {
    fn fit(images: &Images, epochs: usize) -> Self {
        let mut model = Self { weights: vec![vec![0.0; 3073]; 10] };
        for step in 0..epochs * images.len() {
            let n = step % images.len();
            let rate = 1e-4 * (1.0 - step as f32 / (epochs * images.len()) as f32);
            let x = input(images.record(n));
            let logits = model.logits(&x);
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let exps: Vec<f32> = logits.iter().map(|z| (z - largest).exp()).collect();
            let sum: f32 = exps.iter().sum();
            for (class, row) in model.weights.iter_mut().enumerate() {
                let target = f32::from(usize::from(images.labels[n]) == class);
                let scale = rate * (target - exps[class] / sum);
                row.iter_mut().zip(&x).for_each(|(w, x)| *w += scale * x);
            }
        }
        model
    }

    fn logits(&self, x: &[f32]) -> Vec<f32> {
        let mut logits = Vec::new();
        for row in &self.weights {
            // Eight sums at once, which the compiler can keep in one register.
            let mut sums = [0f32; 8];
            for (w, x) in row.chunks(8).zip(x.chunks(8)) {
                sums.iter_mut().zip(w.iter().zip(x)).for_each(|(sum, (w, x))| *sum += w * x);
            }
            logits.push(sums.iter().sum());
        }
        logits
    }

    fn accuracy(&self, images: &Images) -> f64 {
        let right = |&n: &usize| {
            let logits = self.logits(&input(images.record(n)));
            let best = (0..10).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            best == Some(images.labels[n].into())
        };
        (0..images.len()).filter(right).count() as f64 / images.len() as f64
    }
}

fn input(record: &[u8]) -> Vec<f32> {
    record.iter().map(|&x| f32::from(x) / 127.5 - 1.0).chain([1.0]).collect()
}
