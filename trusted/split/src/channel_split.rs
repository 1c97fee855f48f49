//! The split of a layer's input, record by record: what stays, and what leaves encoded.

use kernels::compact::Format;
use kernels::denormals::Flushed;
use kernels::parts::{Chunks, Parts};
use kernels::{Scratch, Threads};
use serde::{Deserialize, Serialize};
use tensor::{Shape, View};

use crate::SplitError;
use crate::asymmetric::{batch, checked_len, checked_rank, samples};
use crate::channels::{exact_basis, light_basis, light_macs, light_scratch};
use crate::record::{self, Record};
use crate::subspace::{subspace_basis, subspace_macs, subspace_scratch};

/// How the principal channels of a record are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Finding {
    /// [`light_basis`]: Algorithm 1 of AsymML, through the smaller Gram matrix.
    Light {
        /// Rounds per principal channel, at least 1.
        iterations: usize,
    },
    /// [`subspace_basis`]: blocked subspace iteration on the record itself.
    Subspace {
        /// Rounds, at least 1; each reads the record once.
        iterations: usize,
    },
    /// One basis of the layer for all records ([`SharedBasis`](crate::SharedBasis)): nothing is found.
    Shared,
    /// [`exact_basis`]: eigenvectors, in double precision; slow, and its time depends on the data.
    Exact,
}

/// Splits records `X` `[C, P]` (`P = H·W`) of one shape into `Û V`, `V = Ûᵀ X`, and a residual `X − Û V`.
///
/// Nothing but [`Finding::Exact`] branches on the data, and results do not depend on the number of threads or on a
/// record's batch. One pass over a record in memory makes both parts: a block of pixels is projected, and its residual
/// encoded, while it is in the cache; `int8` takes a second pass, since its scales come first.
#[derive(Clone, Debug)]
pub struct ChannelSplit {
    finding: Finding,
    rank: usize,
    sample: [usize; 3],
}

impl ChannelSplit {
    /// A split of records `[C, H, W]`, with `rank` in `1..=min(C, H·W)`.
    ///
    /// # Errors
    /// [`SplitError::Rank`] or [`SplitError::Iterations`] if either does not fit; [`SplitError::Shape`] without three axes.
    pub fn new(finding: Finding, rank: usize, sample: Shape) -> Result<Self, SplitError> {
        let sample = checked_rank(rank, sample)?;
        if let Finding::Light { iterations: 0 } | Finding::Subspace { iterations: 0 } = finding {
            return Err(SplitError::Iterations);
        }
        Ok(ChannelSplit { finding, rank, sample })
    }

    /// How the principal channels are found.
    pub fn finding(&self) -> Finding {
        self.finding
    }

    /// Number of principal channels.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Shape of one record, `[C, H, W]`.
    pub fn sample_shape(&self) -> Shape {
        Shape::from(self.sample)
    }

    /// Shape of the principal channels of one record, `[r, H, W]`.
    pub fn principal_shape(&self) -> Shape {
        Shape::from([self.rank, self.sample[1], self.sample[2]])
    }

    /// Shape of a basis, `[C, r]`.
    pub fn basis_shape(&self) -> Shape {
        Shape::from([self.sample[0], self.rank])
    }

    /// Bases for `records` records: 1 if shared, else one per record.
    pub fn bases(&self, records: usize) -> usize {
        if self.finding == Finding::Shared { 1 } else { records }
    }

    /// Multiply-adds of splitting one record: finding, projection, residual.
    pub fn macs(&self) -> u64 {
        let ([c, p], r) = (self.size(), self.rank);
        let finding = match self.finding {
            Finding::Light { iterations } => light_macs([c, p], r, iterations),
            Finding::Subspace { iterations } => subspace_macs([c, p], r, iterations),
            Finding::Shared => 0,
            // The Gram matrix, its reduction, and about as much again for each of both kinds of vectors.
            Finding::Exact => c.min(p).pow(2) * (c.max(p) / 2 + 4 * c.min(p)),
        };
        (finding + 2 * r * c * p) as u64
    }

    /// Scratch memory that [`ChannelSplit::forward`] takes for any number of records; [`Finding::Exact`] allocates beside it.
    pub fn scratch(&self, records: usize) -> Scratch {
        let ([c, p], r) = (self.size(), self.rank);
        if records == 0 {
            return Scratch::NONE;
        }
        let finding = match self.finding {
            Finding::Light { .. } => light_scratch([c, p], r),
            Finding::Subspace { .. } => subspace_scratch([c, p], r),
            Finding::Shared | Finding::Exact => Scratch::NONE,
        };
        finding.or(record::scratch([c, p], r))
    }

    /// Splits a batch.
    ///
    /// - Shapes: `x` `[N, C, H, W]`; `bases` `[N, C, r]`, written, or `[C, r]`, read, if shared; `principal` `[N, r, H, W]`,
    ///   written; `residual` of each record as [`Format::encode`] makes it, written where it is wanted
    /// - Privacy: none: an encoded residual is still private
    ///
    /// # Errors
    /// [`SplitError::Shape`] if a buffer has another length than its shape says; [`SplitError::Encoded`] if that of the
    /// residual has.
    pub fn forward(
        &self,
        threads: &Threads,
        x: View<'_>,
        bases: &mut [f32],
        principal: &mut [f32],
        residual: Option<(Format, &mut [u8])>,
    ) -> Result<(), SplitError> {
        let n = batch(x.shape, self.sample_shape(), "input of a split")?;
        let (len, apart) = (self.sample_shape().len(), n < threads.count());
        checked_len(x.data.len(), n, self.sample_shape())?;
        checked_len(bases.len(), self.bases(n), self.basis_shape())?;
        let principal = samples(principal, n, self.principal_shape())?;
        let format = residual.as_ref().map_or(Format::F32, |(format, _)| *format);
        let residual = residual.map(|(_, bytes)| self.records(format, n, bytes)).transpose()?;
        let split = |i: usize, basis: &[f32], principal: &mut [f32], bytes: Option<&mut [u8]>| {
            let [c, p] = self.size();
            let record = Record::new(&x.data[i * len..][..len], [c, p], basis);
            let encoder = bytes.map(|bytes| format.encoder(c, p, bytes));
            match apart {
                true => record.split_among(threads, principal, encoder),
                false => record.split(threads, principal, encoder),
            }
        };
        if self.finding == Finding::Shared {
            each(threads, apart, (principal, residual), |i, (v, bytes)| split(i, bases, v, bytes));
        } else {
            let bases = samples(bases, n, self.basis_shape())?;
            each(threads, apart, (bases, (principal, residual)), |i, (basis, (v, bytes))| {
                self.find(threads, &x.data[i * len..][..len], basis);
                split(i, basis, v, bytes);
            });
        }
        Ok(())
    }

    fn size(&self) -> [usize; 2] {
        [self.sample[0], self.sample[1] * self.sample[2]]
    }

    /// The bytes of each record.
    fn records<'a>(
        &self,
        format: Format,
        n: usize,
        bytes: &'a mut [u8],
    ) -> Result<Chunks<'a, u8>, SplitError> {
        let [c, p] = self.size();
        let len = format.encoded_len(c, p);
        if bytes.len() != n * len {
            return Err(SplitError::Encoded {
                format: format.name(),
                records: n,
                expected: n * len,
                found: bytes.len(),
            });
        }
        Ok(Chunks { data: bytes, len })
    }

    fn find(&self, threads: &Threads, x: &[f32], basis: &mut [f32]) {
        let (size, r) = (self.size(), self.rank);
        match self.finding {
            Finding::Light { iterations } => light_basis(threads, x, size, r, iterations, basis),
            Finding::Subspace { iterations } => subspace_basis(threads, x, size, r, iterations, basis),
            Finding::Exact => exact_basis(x, size, r, basis),
            Finding::Shared => {}
        }
    }
}

/// Runs `job(i, part i)`: by several threads, or in order, so that the threads may divide each.
fn each<P: Parts>(threads: &Threads, in_order: bool, parts: P, job: impl Fn(usize, P::Part) + Send + Sync) {
    if !in_order {
        return threads.for_each_part(parts, job);
    }
    let _flushed = Flushed::new();
    let mut rest = parts;
    for i in 0..rest.count() {
        let (part, after) = rest.divide(1);
        job(i, part.only());
        rest = after;
    }
}
