//! What calibration records say about a layer: energy kept by rank, per record and shared, and entropy.

use kernels::Threads;
use kernels::parts::Chunks;
use tensor::Shape;

use crate::eigen;
use crate::gram::{gram, gram_of_smaller};
use crate::{SharedBasis, spectrum};

/// Energy kept by rank: the mean over records of the kept share of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// From rank 0 to the largest; never falls.
    kept: Vec<f64>,
}

impl Curve {
    /// Energy kept at rank `rank`, in [0, 1]; beyond the largest rank, as there.
    pub fn kept(&self, rank: usize) -> f64 {
        self.kept[rank.min(self.largest_rank())]
    }

    /// The smallest rank that keeps this energy; the largest rank if none does.
    pub fn rank_for(&self, energy: f64) -> usize {
        // A share that is whole but for rounding is whole.
        let enough = |kept: &f64| *kept >= energy - 1e-12;
        self.kept.iter().position(enough).unwrap_or(self.largest_rank())
    }

    /// `min(C, P)`.
    pub fn largest_rank(&self) -> usize {
        self.kept.len() - 1
    }
}

/// Spectra and second moments of a layer's input `[C, H, W]`, over calibration records, in double precision.
pub struct Moments {
    channels: usize,
    plane: usize,
    records: usize,
    /// Means over records.
    curve: Curve,
    entropy: f64,
    /// Mean over records of `X Xᵀ`, and of `X Xᵀ/‖X‖²`, `[C, C]` each.
    products: Vec<f64>,
    shares: Vec<f64>,
}

/// One record's part.
struct One {
    singular: Vec<f64>,
    products: Vec<f64>,
}

impl Moments {
    /// Of no records yet: every rank keeps all of nothing.
    ///
    /// # Panics
    /// Unless `sample` is `[C, H, W]`, not empty.
    pub fn new(sample: Shape) -> Self {
        let &[c, h, w] = sample.dims() else { panic!("a sample has three axes, not {sample}") };
        assert!(!sample.is_empty(), "a sample has numbers, {sample} has none");
        let curve = Curve { kept: vec![1.0; c.min(h * w) + 1] };
        let zeros = vec![0.0; c * c];
        Moments {
            channels: c,
            plane: h * w,
            records: 0,
            curve,
            entropy: 0.0,
            products: zeros.clone(),
            shares: zeros,
        }
    }

    /// Takes records into account; results do not depend on the number of threads.
    ///
    /// - Shapes: `x` `[any, C, H, W]`
    ///
    /// # Panics
    /// If `x` is not whole records.
    pub fn add(&mut self, threads: &Threads, x: &[f32]) {
        let (size, len) = ([self.channels, self.plane], self.channels * self.plane);
        assert!(x.len().is_multiple_of(len), "{} numbers in records of {len}", x.len());
        for some in x.chunks(threads.count() * len) {
            let mut parts: Vec<Option<One>> = some.chunks_exact(len).map(|_| None).collect();
            threads.for_each_part(Chunks { data: &mut parts, len: 1 }, |i, part| {
                part[0] = Some(One::of(&some[i * len..][..len], size));
            });
            parts.into_iter().flatten().for_each(|one| self.add_one(&one));
        }
    }

    fn add_one(&mut self, one: &One) {
        self.records += 1;
        let weight = 1.0 / self.records as f64;
        let towards = |mean: &mut f64, x: f64| *mean += weight * (x - *mean);
        towards(&mut self.entropy, spectrum::channel_entropy(&one.singular));
        let total: f64 = one.singular.iter().map(|s| s * s).sum();
        // A record of zeros has nothing to lose.
        let share = |energy: f64| if total > 0.0 { energy / total } else { 1.0 };
        let mut energy = 0.0;
        let (first, rest) = self.curve.kept.split_at_mut(1);
        towards(&mut first[0], share(0.0));
        for (kept, s) in rest.iter_mut().zip(&one.singular) {
            energy += s * s;
            towards(kept, share(energy));
        }
        let inverse = if total > 0.0 { 1.0 / total } else { 0.0 };
        for ((mean, of_shares), product) in self.products.iter_mut().zip(&mut self.shares).zip(&one.products)
        {
            towards(mean, *product);
            towards(of_shares, product * inverse);
        }
    }

    /// Records so far.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Energy kept by a basis for each record.
    pub fn per_record(&self) -> &Curve {
        &self.curve
    }

    /// Energy kept by one basis for all records, [`Moments::shared_basis`].
    pub fn shared(&self) -> Curve {
        let c = self.channels;
        let vectors = eigen::vectors(self.products.clone(), c);
        let trace: f64 = self.shares.iter().step_by(c + 1).sum();
        // Records of zeros keep all; the rest of the trace is theirs.
        let mut kept = vec![1.0 - trace];
        for u in vectors.chunks_exact(c).take(self.curve.largest_rank()) {
            let image = self.shares.chunks_exact(c).map(|row| dot(row, u));
            let along: f64 = image.zip(u).map(|(image, u)| image * u).sum();
            kept.push((kept[kept.len() - 1] + along.max(0.0)).min(1.0));
        }
        Curve { kept }
    }

    /// Mean SVD-channel entropy of the records, in bits.
    pub fn entropy(&self) -> f64 {
        self.entropy
    }

    /// The leading directions of all records together.
    ///
    /// # Panics
    /// Unless `rank` is in `1..=C`.
    pub fn shared_basis(&self, rank: usize) -> SharedBasis {
        let per_pixel = |product: &f64| (product / self.plane as f64) as f32;
        SharedBasis::from_moments(self.products.iter().map(per_pixel).collect(), self.channels, rank)
    }
}

impl One {
    fn of(x: &[f32], [c, p]: [usize; 2]) -> Self {
        let products = gram(x, [c, p]);
        let smaller = if c <= p { products.clone() } else { gram_of_smaller(x, [c, p]) };
        let squares = eigen::values(smaller, c.min(p));
        One { singular: squares.into_iter().map(|square| square.max(0.0).sqrt()).collect(), products }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
