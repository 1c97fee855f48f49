//! One basis for all records of a layer, kept up while it trains.

use kernels::denormals::Flushed;
use kernels::gemm::{self, Matrix, multiply};
use kernels::{Scratch, Threads};
use tensor::View;

use crate::SplitError;
use crate::dense::{add_scaled, orthonormalise, transpose};
use crate::eigen;
use crate::subspace::start;

/// The running principal basis of a layer: the leading directions of the second moments of its channels, a moving average
/// over the batches that were observed.
///
/// After `t` observations a batch counts `max(1/t, 0.05)`: a plain mean at first, then what is 20 observations back
/// counts a third. The directions follow by subspace iteration from where they were, a fixed number of rounds for each
/// observation. The basis is always orthonormal, whatever was observed.
///
/// - Privacy: the basis depends on every record that was observed; it stays in the enclave
pub struct SharedBasis {
    channels: usize,
    rank: usize,
    /// How often [`SharedBasis::observe`] was called; it stops where an `f32` can count no further.
    observations: u32,
    /// Mean product of two channels, `[C, C]`.
    moments: Vec<f32>,
    /// `[r, C]`.
    directions: Vec<f32>,
    /// `[C, r]`.
    basis: Vec<f32>,
}

/// The least that an observation counts.
const WEIGHT: f32 = 0.05;

/// Rounds of subspace iteration after the first observation, and after every other.
const FIRST_ROUNDS: usize = 16;
const ROUNDS: usize = 2;

/// Added to the moments, as a part of their trace: directions without energy stay what they are, and none is lost.
const SHIFT: f32 = 1e-6;

/// The same where there is no energy at all.
const LEAST_SHIFT: f32 = 1e-12;

/// Pixels that an observation takes at least, if there are so many, and for each channel.
const LEAST_PIXELS: usize = 4096;
const PIXELS_PER_CHANNEL: usize = 8;

/// Neighbouring pixels that are taken together, and such runs in one product.
const RUN: usize = 64;
const RUNS_AT_ONCE: usize = 16;

/// Observations that an `f32` counts.
const MOST_OBSERVATIONS: u32 = 1 << 24;

impl SharedBasis {
    /// Before the first observation: the unit vectors of the first `rank` channels.
    ///
    /// # Panics
    /// Unless `rank` is in `1..=channels`.
    pub fn new(channels: usize, rank: usize) -> Self {
        assert!((1..=channels).contains(&rank), "rank {rank} of {channels} channels");
        let mut shared = Self::without_basis(vec![0.0; channels * channels], channels, 0);
        let unit = |at: usize| if at / channels == at % channels { 1.0 } else { 0.0 };
        shared.set_directions((0..rank * channels).map(unit).collect());
        shared
    }

    /// From second moments `[C, C]` that count as one observation: their leading eigenvectors.
    ///
    /// # Panics
    /// If there are not `channels²` moments, or unless `rank` is in `1..=channels`.
    pub fn from_moments(moments: Vec<f32>, channels: usize, rank: usize) -> Self {
        assert!(moments.len() == channels * channels, "{} moments of {channels} channels", moments.len());
        let mut shared = Self::without_basis(moments, channels, 1);
        shared.set_rank(rank);
        shared
    }

    fn without_basis(moments: Vec<f32>, channels: usize, observations: u32) -> Self {
        SharedBasis { channels, rank: 0, observations, moments, directions: Vec::new(), basis: Vec::new() }
    }

    /// Directions `[r, C]` that are orthonormal.
    fn set_directions(&mut self, directions: Vec<f32>) {
        let c = self.channels;
        self.rank = directions.len() / c;
        self.directions = directions;
        self.basis = vec![0.0; self.directions.len()];
        transpose(&self.directions, [self.rank, c], &mut self.basis);
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Number of principal channels.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The basis, `[C, r]`, orthonormal.
    pub fn basis(&self) -> &[f32] {
        &self.basis
    }

    /// Another rank, from the same moments: their leading eigenvectors.
    ///
    /// # Panics
    /// Unless `rank` is in `1..=channels`.
    pub fn set_rank(&mut self, rank: usize) {
        let c = self.channels;
        assert!((1..=c).contains(&rank), "rank {rank} of {c} channels");
        let vectors = eigen::vectors(self.moments.iter().map(|&m| m.into()).collect(), c);
        let mut directions: Vec<f32> = vectors.iter().take(rank * c).map(|&u| u as f32).collect();
        orthonormalise(&mut directions, c);
        self.set_directions(directions);
    }

    /// Takes a batch into account: at most `max(4096, 8·C)` of its pixels, in runs spread evenly over the records, other ones
    /// each time. Results do not depend on the number of threads.
    ///
    /// - Shapes: `x` `[n, C, H, W]`; nothing happens where it is empty
    ///
    /// # Panics
    /// If `x` has other channels.
    pub fn observe(&mut self, threads: &Threads, x: View<'_>) {
        let &[n, c, h, w] = x.shape.dims() else { panic!("a batch of images, not {}", x.shape) };
        assert!(c == self.channels, "{c} channels, not {}", self.channels);
        if x.data.is_empty() {
            return;
        }
        let _flushed = Flushed::new();
        let first = self.observations == 0;
        self.observations = (self.observations + 1).min(MOST_OBSERVATIONS);
        let weight = WEIGHT.max(1.0 / self.observations as f32);
        self.average(threads, x.data, [n, h * w], weight);
        if first {
            start(c, &mut self.directions);
        }
        for _ in 0..if first { FIRST_ROUNDS } else { ROUNDS } {
            self.round(threads);
        }
        transpose(&self.directions, [self.rank, c], &mut self.basis);
    }

    /// `moments = (1 − weight) · moments + weight · mean of x xᵀ over pixels`.
    fn average(&mut self, threads: &Threads, x: &[f32], [n, p]: [usize; 2], weight: f32) {
        let c = self.channels;
        let taken = Taken::of(c, [n, p], self.observations as usize);
        let scale = weight / (taken.runs * taken.len) as f32;
        let mut gathered = threads.scratch(c * RUNS_AT_ONCE * taken.len);
        let mut keep = 1.0 - weight;
        for from in (0..taken.runs).step_by(RUNS_AT_ONCE) {
            let runs = from..taken.runs.min(from + RUNS_AT_ONCE);
            let (len, width) = (taken.len, runs.len() * taken.len);
            for (i, run) in runs.enumerate() {
                let [record, pixel] = taken.place(run);
                for (to, row) in
                    gathered.chunks_exact_mut(width).zip(x[record * c * p..].chunks_exact(p)).take(c)
                {
                    to[i * len..][..len].copy_from_slice(&row[pixel..pixel + len]);
                }
            }
            let taken = Matrix::new(&gathered[..c * width], c, width);
            multiply(threads, scale, taken, taken.transposed(), keep, &mut self.moments);
            keep = 1.0;
        }
    }

    /// One round: `Q ← orth((M + shift · I) Q)`.
    fn round(&mut self, threads: &Threads) {
        let (c, r) = (self.channels, self.rank);
        let trace: f32 = self.moments.iter().step_by(c + 1).sum();
        let shift = (SHIFT * trace).max(LEAST_SHIFT);
        let mut images = threads.scratch(r * c);
        let moments = Matrix::new(&self.moments, c, c);
        multiply(threads, 1.0, Matrix::new(&self.directions, r, c), moments, 0.0, &mut images);
        add_scaled(&mut images, shift, &self.directions);
        self.directions.copy_from_slice(&images);
        orthonormalise(&mut self.directions, c);
    }

    /// Scratch memory that [`SharedBasis::observe`] takes, for any batch.
    pub fn scratch(&self) -> Scratch {
        let (c, r, width) = (self.channels, self.rank, RUN * RUNS_AT_ONCE);
        let average = gemm::scratch([c, width, c]).and(Scratch::shared([c * width]));
        average.or(gemm::scratch([r, c, c]).and(Scratch::shared([r * c])))
    }

    /// Everything that later results depend on: with [`SharedBasis::restore`], the same bits afterwards.
    pub fn state(&self) -> Vec<f32> {
        let mut state = vec![self.observations as f32];
        state.extend(self.directions.iter().chain(&self.moments));
        state
    }

    /// Puts a state back.
    ///
    /// # Errors
    /// [`SplitError::State`] if it is not that of a basis of as many channels and this rank, or not finite.
    pub fn restore(&mut self, state: &[f32]) -> Result<(), SplitError> {
        let (c, r) = (self.channels, self.rank);
        let expected = 1 + self.directions.len() + self.moments.len();
        if state.len() != expected || !state.iter().all(|x| x.is_finite()) {
            return Err(SplitError::State { channels: c, rank: r, expected, found: state.len() });
        }
        self.observations = state[0] as u32;
        self.directions.copy_from_slice(&state[1..=r * c]);
        self.moments.copy_from_slice(&state[1 + r * c..]);
        transpose(&self.directions, [r, c], &mut self.basis);
        Ok(())
    }
}

/// The runs of pixels that one observation takes.
struct Taken {
    /// How many, and how long each is.
    runs: usize,
    len: usize,
    /// Runs of one record, and of all.
    per_record: usize,
    all: usize,
    /// Where the first begins.
    offset: usize,
}

impl Taken {
    fn of(c: usize, [n, p]: [usize; 2], observation: usize) -> Self {
        let len = RUN.min(p);
        let (per_record, most) = (p / len, LEAST_PIXELS.max(PIXELS_PER_CHANNEL * c));
        let all = n * per_record;
        Taken { runs: all.min(most / len), len, per_record, all, offset: observation % all }
    }

    /// Record and first pixel of a run.
    fn place(&self, run: usize) -> [usize; 2] {
        let run = (run * self.all / self.runs + self.offset) % self.all;
        [run / self.per_record, run % self.per_record * self.len]
    }
}
