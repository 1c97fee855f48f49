//! Comparison with decompositions made elsewhere in double precision.

use asymflow_split as split;
use kernels::Threads;
use serde_json::Value;
use split::{AsymmetricSplit, Dct, Moments, SplitConfig, SplitOutput, channels, spectrum};
use tensor::Shape;
use tensor::View;
use tensor::compare::{Tolerance, assert_close};
use vectors::Tensors;

/// Single precision after sums of a few thousand products.
const TOLERANCE: Tolerance = Tolerance::relative(1e-5);

/// How much energy the light method may lose to the exact decomposition, as a fraction of all, by iterations.
const LIGHT_MARGINS: [(usize, f64); 4] = [(1, 0.01), (2, 0.005), (4, 0.005), (8, 0.002)];

/// The same for subspace iteration.
const SUBSPACE_MARGINS: [(usize, f64); 4] = [(1, 0.015), (2, 0.001), (4, 0.0003), (8, 0.0001)];

/// Of a direction: rounding of the input in single precision, as a fraction of its gap to the next one.
const DIRECTION: f64 = 1e-6;

struct Reference {
    cases: Vec<(String, Value)>,
    tensors: Tensors,
}

fn reference() -> Option<Reference> {
    let folder = vectors::folder("decomposition")?;
    let index = vectors::index(&folder.join("decomposition.json"));
    let cases = index["cases"].as_object().expect("cases by name").clone().into_iter().collect();
    Some(Reference { cases, tensors: vectors::tensors(&folder.join("decomposition.safetensors")) })
}

impl Reference {
    /// Cases that have all of `with` and none of `without`.
    fn cases(&self, with: &[&str], without: &[&str]) -> Vec<(&str, &Value)> {
        let has = |case: &Value, keys: &[&str]| keys.iter().filter(|key| case.get(key).is_some()).count();
        let fits = |case: &Value| has(case, with) == with.len() && has(case, without) == 0;
        let found: Vec<_> =
            self.cases.iter().filter(|(_, c)| fits(c)).map(|(name, case)| (name.as_str(), case)).collect();
        assert!(!found.is_empty(), "no case has {with:?} without {without:?}");
        found
    }

    /// The input of a case, its own or the one it names.
    fn input(&self, name: &str, case: &Value) -> (Shape, Vec<f32>) {
        let key = case["X"].as_str().map_or_else(|| format!("{name}/X"), str::to_owned);
        let (shape, data) = self.tensors.f32(&key);
        (Shape::new(&shape), data)
    }
}

fn size(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap_or_else(|| panic!("{key} is no size")) as usize
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// Share of the energy of `x` that `low`, a projection of it, keeps.
fn energy(x: &[f32], low: &[f32]) -> f64 {
    1.0 - (norm(&minus(x, low)) / norm(x)).powi(2)
}

fn minus(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// `Û Ûᵀ X`.
fn low_rank(x: &[f32], [c, p]: [usize; 2], rank: usize, basis: &[f32]) -> Vec<f32> {
    let (mut v, mut low) = (vec![0.0f64; rank * p], vec![0.0; c * p]);
    for (channel, weights) in x.chunks_exact(p).zip(basis.chunks_exact(rank)) {
        for (v, &u) in v.chunks_exact_mut(p).zip(weights) {
            v.iter_mut().zip(channel).for_each(|(v, &x)| *v += f64::from(u) * f64::from(x));
        }
    }
    for (channel, weights) in low.chunks_exact_mut(p).zip(basis.chunks_exact(rank)) {
        for (i, out) in channel.iter_mut().enumerate() {
            *out = weights.iter().enumerate().map(|(k, &u)| f64::from(u) * v[k * p + i]).sum::<f64>() as f32;
        }
    }
    low
}

fn near(found: f64, expected: f64, what: &str) {
    assert!((found / expected - 1.0).abs() < 1e-5, "{what}: found {found}, expected {expected}");
}

#[test]
fn vectors_decomposition_svd() {
    let Some(reference) = reference() else { return };
    for (name, case) in reference.cases(&["ranks"], &[]) {
        let (shape, x) = reference.input(name, case);
        let (c, p) = (shape.dims()[0], shape.record_len());
        let singular = channels::singular_values(&x, [c, p]);
        let (_, expected) = reference.tensors.f32(&format!("{name}/singular_values"));
        let found: Vec<f32> = singular.iter().map(|&s| s as f32).collect();
        assert_close(&format!("{name} singular values"), &found, &expected, TOLERANCE);
        for row in case["ranks"].as_array().expect("ranks") {
            let rank = size(row, "r");
            let kept = row["energy_kept"].as_f64().expect("energy");
            near(spectrum::energy_kept(&singular, rank), kept, name);
            assert_eq!(spectrum::rank_for_energy(&singular, kept - 1e-6), rank);
            let mut basis = vec![0.0; c * rank];
            channels::exact_basis(&x, [c, p], rank, &mut basis);
            let low = low_rank(&x, [c, p], rank, &basis);
            near(norm(&minus(&x, &low)), row["frob_residual"].as_f64().expect("norm"), name);
            let key = format!("{name}/low_rank_r{rank}");
            if reference.tensors.has(&key) {
                assert_close(&key, &low, &reference.tensors.f32(&key).1, TOLERANCE);
            }
        }
    }
}

/// A way to find a basis of `[C, P]` of some rank, by so many iterations.
type Method = fn(&Threads, &[f32], [usize; 2], usize, usize, &mut [f32]);

#[test]
fn vectors_decomposition_iterations_are_near_exact() {
    let Some(reference) = reference() else { return };
    let threads = Threads::new(1);
    let methods: [(&str, Method, _); 2] = [
        ("light", channels::light_basis, LIGHT_MARGINS),
        ("subspace", channels::subspace_basis, SUBSPACE_MARGINS),
    ];
    for (name, case) in reference.cases(&["ranks"], &[]) {
        let (shape, x) = reference.input(name, case);
        let (c, p) = (shape.dims()[0], shape.record_len());
        for row in case["ranks"].as_array().expect("ranks") {
            let (rank, exact) = (size(row, "r"), row["energy_kept"].as_f64().expect("energy"));
            for (method, find, margins) in methods {
                for (iterations, margin) in margins {
                    let mut basis = vec![0.0; c * rank];
                    find(&threads, &x, [c, p], rank, iterations, &mut basis);
                    let kept = energy(&x, &low_rank(&x, [c, p], rank, &basis));
                    let what = format!("{name}, {method}, rank {rank}, {iterations} iterations");
                    println!("{what}: {kept:.5} of {exact:.5}");
                    assert!(kept <= exact + 1e-5, "{what} keeps more than the best possible");
                    assert!(kept > exact - margin, "{what}: {kept} of {exact}");
                }
            }
        }
    }
}

/// Directions and principal channels themselves, up to a sign each.
#[test]
fn vectors_decomposition_directions() {
    let Some(reference) = reference() else { return };
    for (name, case) in reference.cases(&["ranks"], &[]) {
        let (shape, x) = reference.input(name, case);
        let (c, p) = (shape.dims()[0], shape.record_len());
        let (u_shape, u) = reference.tensors.f32(&format!("{name}/U"));
        let (_, v) = reference.tensors.f32(&format!("{name}/V"));
        let singular = reference.tensors.f32(&format!("{name}/singular_values")).1;
        let rank = u_shape[1];
        let mut basis = vec![0.0; c * rank];
        channels::exact_basis(&x, [c, p], rank, &mut basis);
        let column = |matrix: &[f32], i: usize| -> Vec<f64> {
            matrix.chunks_exact(rank).map(|row| row[i].into()).collect()
        };
        for i in 0..rank {
            let (found, expected) = (column(&basis, i), column(&u, i));
            let along: f64 = found.iter().zip(&expected).map(|(a, b)| a * b).sum();
            // By the smaller gap to a neighbour.
            let (before, s, after) =
                (singular[i.max(1) - 1], f64::from(singular[i]), f64::from(singular[i + 1]));
            let gap = if i == 0 { s - after } else { (f64::from(before) - s).min(s - after) };
            let bound = DIRECTION * f64::from(singular[0]) / gap;
            let difference =
                found.iter().zip(&expected).map(|(a, b)| (a - along.signum() * b).powi(2)).sum::<f64>();
            assert!(difference.sqrt() < bound, "{name}, direction {i}: {} over {bound}", difference.sqrt());
            // The principal channel is σ v.
            let principal =
                (0..p).map(|pixel| (0..c).map(|c| found[c] * f64::from(x[c * p + pixel])).sum::<f64>());
            let difference: f64 =
                principal.zip(column(&v, i)).map(|(found, v)| (found - along.signum() * s * v).powi(2)).sum();
            assert!(
                difference.sqrt() < 2.0 * bound * f64::from(singular[0]),
                "{name}, principal channel {i}"
            );
        }
    }
}

#[test]
fn vectors_decomposition_curves() {
    let Some(reference) = reference() else { return };
    let threads = Threads::new(2);
    for (name, case) in reference.cases(&["ranks"], &[]) {
        let (shape, x) = reference.input(name, case);
        let mut moments = Moments::new(shape);
        moments.add(&threads, &x);
        for row in case["ranks"].as_array().expect("ranks") {
            let (rank, kept) = (size(row, "r"), row["energy_kept"].as_f64().expect("energy"));
            // One record shares with nobody.
            for curve in [moments.per_record().clone(), moments.shared()] {
                near(curve.kept(rank), kept, name);
                assert_eq!(curve.rank_for(kept - 1e-6), rank);
            }
        }
    }
}

#[test]
fn vectors_decomposition_dct() {
    let Some(reference) = reference() else { return };
    let threads = Threads::new(1);
    for (name, case) in reference.cases(&["block", "keep"], &["r"]) {
        let dct = Dct::new(size(case, "block"), size(case, "keep")).expect("block and keep");
        let (shape, x) = reference.input(name, case);
        let image = [shape.dims()[1], shape.dims()[2]];
        let (low_shape, expected) = reference.tensors.f32(&format!("{name}/low"));
        assert_eq!(dct.low_size(image).expect("blocks tile"), low_shape[1..]);
        let mut low = vec![0.0; expected.len()];
        dct.low(&threads, &x, image, &mut low);
        assert_close(&format!("{name} low"), &low, &expected, TOLERANCE);
        near(norm(&low), case["frob_low"].as_f64().expect("norm"), name);
        let mut up = vec![0.0; x.len()];
        dct.up(&threads, &low, image, &mut up);
        let (_, residual) = reference.tensors.f32(&format!("{name}/residual"));
        assert_close(&format!("{name} residual"), &minus(&x, &up), &residual, TOLERANCE);
    }
}

#[test]
fn vectors_decomposition_svd_dct() {
    let Some(reference) = reference() else { return };
    for (name, case) in reference.cases(&["block", "keep", "r"], &[]) {
        let (shape, x) = reference.input(name, case);
        let rank = size(case, "r");
        let (block, keep) = (size(case, "block"), size(case, "keep"));
        let config = SplitConfig { rank, method: split::Method::Exact, iterations: 1, block, keep };
        let split = AsymmetricSplit::new(config, shape).expect("the split fits");
        let mut principal = vec![0.0; split.principal_shape().len()];
        let mut basis = vec![0.0; split.basis_shape().len()];
        let mut residual = vec![0.0; x.len()];
        let output = SplitOutput {
            principal: &mut principal,
            basis: &mut basis,
            main: None,
            residual: Some(&mut residual),
        };
        let view = View { shape: shape.batched(1), data: &x };
        split.forward(view, output, &Threads::new(1)).expect("buffers fit");
        let (_, main) = reference.tensors.f32(&format!("{name}/main"));
        assert_close(&format!("{name} main"), &minus(&x, &residual), &main, TOLERANCE);
        near(norm(&main), case["frob_main"].as_f64().expect("norm"), name);
        near(norm(&residual), case["frob_residual"].as_f64().expect("norm"), name);
        // Principal channels are fixed up to a sign each.
        let (_, expected) = reference.tensors.f32(&format!("{name}/principal_low"));
        let one = principal.len() / rank;
        for (found, expected) in principal.chunks_exact_mut(one).zip(expected.chunks_exact(one)) {
            let sign = found.iter().zip(expected).map(|(f, e)| f * e).sum::<f32>().signum();
            found.iter_mut().for_each(|f| *f *= sign);
            assert_close(&format!("{name} principal channel"), found, expected, Tolerance::relative(1e-4));
        }
    }
}
