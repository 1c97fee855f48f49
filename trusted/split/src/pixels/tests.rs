use super::*;
use crate::dense::fixed_factor;

fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| 4.0 * fixed_factor(seed, i) - 3.0).collect()
}

fn near(found: f32, expected: f64) {
    assert!((f64::from(found) - expected).abs() < 1e-4, "{found} {expected}");
}

/// Sizes on both sides of every block's edges; pixels from a first one to a last one.
#[test]
fn both_passes_agree_with_the_sums() {
    for (c, p, rank) in [(1, 1, 1), (5, 70, 3), (9, 200, 6), (40, 64, 8), (13, 131, 9), (6, 15, 2)] {
        let (x, basis) = (numbers(1, c * p), numbers(2, c * rank));
        for pixels in [0..p, p / 3..p, 0..p - p / 4, p..p] {
            let (len, stride) = (pixels.len(), pixels.len() + LONGEST);
            let mut v = vec![f32::NAN; rank * stride];
            project(&x, [c, p], pixels.clone(), &basis, &mut v, stride);
            let x_at = |c: usize, at: usize| f64::from(x[c * p + pixels.start + at]);
            let weight = |c: usize, i: usize| f64::from(basis[c * rank + i]);
            for (i, at) in (0..rank).flat_map(|i| (0..len).map(move |at| (i, at))) {
                near(v[i * stride + at], (0..c).map(|c| x_at(c, at) * weight(c, i)).sum());
            }
            for first in (0..c).step_by(TOGETHER) {
                let some = [first..c.min(first + TOGETHER), pixels.clone()];
                let mut found = vec![f32::NAN; TOGETHER * stride];
                residual(&x, [c, p], some.clone(), [&basis, &v], stride, &mut found);
                for (k, at) in some[0].clone().flat_map(|k| (0..len).map(move |at| (k, at))) {
                    let low: f64 = (0..rank).map(|i| weight(k, i) * f64::from(v[i * stride + at])).sum();
                    near(found[(k - first) * stride + at], x_at(k, at) - low);
                }
            }
        }
    }
}

/// Runs a job with some vectors; `false` where this processor has none of them.
fn run_with<J: WithSimd<Output = ()>>(vectors: &str, job: J) -> bool {
    #[cfg(target_arch = "x86_64")]
    match (vectors, kernels::pulp::x86::V3::try_new()) {
        ("256 bits", Some(simd)) => {
            Simd::vectorize(simd, job);
            return true;
        }
        ("256 bits", None) => return false,
        _ => {}
    }
    match vectors {
        "none" => kernels::pulp::Scalar.vectorize(job),
        "widest" => kernels::dispatch(job),
        _ => return false,
    }
    true
}

/// `V` and the residual of four channels, as [`project`] and [`residual`] make them.
fn both_with(vectors: &str, x: &[f32], [c, p]: [usize; 2], basis: &[f32]) -> Option<[Vec<f32>; 2]> {
    let (rank, stride) = (basis.len() / c, p + LONGEST);
    let (mut v, mut found) = (vec![0.0; rank * stride], vec![0.0; TOGETHER * stride]);
    for goes_on in [false, true] {
        let rows = Rows { data: x, stride: p };
        let job = Project { x: rows, pixels: p, basis, rank, goes_on, v: &mut v, stride };
        if !run_with(vectors, job) {
            return None;
        }
    }
    let (basis, rows) = (&basis[..TOGETHER * rank], Rows { data: x, stride: p });
    let residual = &mut found[..];
    run_with(
        vectors,
        Residual { x: rows, channels: TOGETHER, pixels: p, basis, rank, v: &v, residual, stride },
    );
    let pixels = |rows: &[f32]| rows.chunks_exact(stride).flat_map(|row| row[..p].to_vec()).collect();
    Some([pixels(&v), pixels(&found)])
}

#[test]
fn vectors_of_any_length_agree() {
    for (c, p, rank) in [(4, 1, 1), (5, 77, 3), (9, 200, 6), (6, 15, 4)] {
        let (x, basis) = (numbers(1, c * p), numbers(2, c * rank));
        let [widest, narrow, none] =
            ["widest", "256 bits", "none"].map(|vectors| both_with(vectors, &x, [c, p], &basis));
        let (widest, none) = (widest.expect("every processor"), none.expect("every processor"));
        match narrow {
            Some(narrow) => assert!(narrow == widest, "the same bits, both with fused sums"),
            None => println!("skipped: no vectors of 256 bits"),
        }
        for (found, expected) in none.concat().iter().zip(widest.concat()) {
            near(*found, expected.into());
        }
    }
}

#[test]
fn blocks_cover_the_pixels_once() {
    for (c, p, rank) in [(1, 1, 1), (64, 50_176, 4), (512, 196, 32), (3000, 65, 64), (1, 9000, 1), (5, 64, 5)]
    {
        let blocks = Blocks::new([c, p], rank);
        assert!(blocks.iter().flatten().eq(0..p));
        assert!(blocks.iter().all(|block| block.len() <= blocks.len()));
        assert!(blocks.pixels(blocks.count()).is_empty());
    }
}
