//! The one matrix product, behind one small interface; the only `unsafe` of the enclave.
//!
//! Micro-kernels come from the crate `gemm-f32`, chosen at run time ([`instruction_set`]); blocking and packing are
//! ours, with fixed block sizes and scratch memory from [`Threads`]. That crate's own blocking is left aside:
//! with its feature `std` it reads `/sys` and may start `lscpu`, without it it falls back to scalar code (no
//! detection of instructions), and it allocates in every call. Products of operands rounded to bf16 have kernels of our
//! own (`bf16`) under the same blocking.

pub(crate) mod bf16;
mod blocks;
mod kernel;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod twin;

use std::ops::Range;

pub(crate) use blocks::multiply as multiply_panels;
pub(crate) use blocks::{Output, Panels, ROWS_STRIP, multiply_packed, scratch_len, tile_rows};
pub(crate) use kernel::{Kernel, MAX_WIDTH, Tile};

use crate::{Scratch, Threads};

/// A borrowed matrix with any non-negative strides, checked to lie inside its slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Multiply-adds from which a product is divided among threads.
const WORTH_DIVIDING: usize = 1 << 16;

/// The instruction set the products use, such as `avx512f`, `fma`, `neon` or `scalar`.
pub fn instruction_set() -> &'static str {
    Kernel::detected().name()
}

/// The instruction set the products of bf16 operands use: `amx-bf16`, `avx512bf16` or `portable`.
///
/// The first call may ask the operating system for the use of the instructions.
pub fn bf16_instruction_set() -> &'static str {
    Kernel::bf16().name()
}

/// `c = scale · a · b + keep · c`; `c` is row-major `[a.rows, b.cols]`. With `keep` 0, `c` may hold anything.
///
/// The result does not depend on the number of threads.
///
/// # Panics
/// If the sizes do not fit together.
pub fn multiply(threads: &Threads, scale: f32, a: Matrix<'_>, b: Matrix<'_>, keep: f32, c: &mut [f32]) {
    multiply_by(Kernel::detected(), threads, scale, a, b, keep, c);
}

/// [`multiply`] by some kernel; its operands are what that kernel multiplies.
fn multiply_by(
    kernel: &Kernel,
    threads: &Threads,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    keep: f32,
    c: &mut [f32],
) {
    assert!(a.cols == b.rows, "a has {} columns, b has {} rows", a.cols, b.rows);
    assert!(Some(c.len()) == a.rows.checked_mul(b.cols), "c holds {} elements", c.len());
    if c.is_empty() {
        return;
    }
    let work = a.rows.saturating_mul(b.cols).saturating_mul(a.cols.max(1));
    let parts = if work < WORTH_DIVIDING { 1 } else { threads.count() };
    // The kernel writes along panels. Those are columns of `b`, except where `b` would have to be transposed for a few
    // rows of `a`: there `b` is read in place, once, and the product is made transposed.
    if b.row_stride == 1 && a.rows <= MAX_WIDTH && 4 * a.rows <= b.cols {
        by_rows(kernel, threads, parts, scale, a, b, keep, c);
    } else {
        by_columns(kernel, threads, parts, scale, a, b, keep, c);
    }
}

/// Scratch memory that [`multiply`] takes for `a` `[m, depth]` and `b` `[depth, n]`, or fewer rows of `a`.
pub fn scratch(sizes: [usize; 3]) -> Scratch {
    scratch_by(Kernel::detected(), sizes)
}

fn scratch_by(kernel: &Kernel, [m, depth, n]: [usize; 3]) -> Scratch {
    let by_columns = Scratch::each([scratch_len(kernel, n, depth)]);
    let few = m.min(MAX_WIDTH).min(n / 4);
    let by_rows = Scratch::each([scratch_len(kernel, few, depth)]).and(Scratch::shared([few * n]));
    by_columns.or(by_rows)
}

#[allow(clippy::too_many_arguments)]
fn by_columns(
    kernel: &Kernel,
    threads: &Threads,
    parts: usize,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    keep: f32,
    c: &mut [f32],
) {
    let (panels, n) = (b.transposed(), b.cols);
    let rows = a.rows.div_ceil(parts).next_multiple_of(kernel.cols());
    threads.for_each_chunk(c, rows * n, |part, chunk| {
        let right = a.row_range(part * rows..part * rows + chunk.len() / n).transposed();
        let out = Output { data: chunk, row_stride: 1, col_stride: n, place: |r| r, keep };
        let mut scratch = threads.scratch(scratch_len(kernel, n, a.cols));
        multiply_panels(kernel, &panels, 0..n, right, scale, out, &mut scratch);
    });
}

#[allow(clippy::too_many_arguments)]
fn by_rows(
    kernel: &Kernel,
    threads: &Threads,
    parts: usize,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    keep: f32,
    c: &mut [f32],
) {
    let (m, n) = (a.rows, b.cols);
    let columns = n.div_ceil(parts).next_multiple_of(kernel.cols());
    let mut transposed = threads.scratch(n * m);
    threads.for_each_chunk(&mut transposed, columns * m, |part, chunk| {
        let right = b.columns(part * columns..part * columns + chunk.len() / m);
        let out = Output { data: chunk, row_stride: 1, col_stride: m, place: |r| r, keep: 0.0 };
        let mut scratch = threads.scratch(scratch_len(kernel, m, a.cols));
        multiply_panels(kernel, &a, 0..m, right, scale, out, &mut scratch);
    });
    for (row, c) in c.chunks_mut(n).enumerate() {
        for (c, &x) in c.iter_mut().zip(transposed[row..].iter().step_by(m)) {
            *c = if keep == 0.0 { x } else { keep * *c + x };
        }
    }
}

impl<'a> Matrix<'a> {
    /// A row-major matrix.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows × cols` elements.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert!(Some(data.len()) == rows.checked_mul(cols), "{rows} × {cols} in {} elements", data.len());
        Matrix { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// A matrix whose element `(r, c)` is `data[r · row_stride + c · col_stride]`.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn strided(data: &'a [f32], [rows, cols]: [usize; 2], [row_stride, col_stride]: [usize; 2]) -> Self {
        let last = |n: usize, stride: usize| n.saturating_sub(1).saturating_mul(stride);
        let inside = last(rows, row_stride).saturating_add(last(cols, col_stride)) < data.len();
        assert!(rows == 0 || cols == 0 || inside, "{rows} × {cols} does not fit {} elements", data.len());
        Matrix { data, rows, cols, row_stride, col_stride }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Some of the columns.
    pub(crate) fn columns(self, columns: Range<usize>) -> Self {
        self.transposed().row_range(columns).transposed()
    }

    /// Number of columns.
    pub(crate) fn cols(self) -> usize {
        self.cols
    }

    /// Number of rows.
    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    /// From the first element on.
    pub(crate) fn data(self) -> &'a [f32] {
        self.data
    }

    /// From one row to the next, and from one column to the next.
    pub(crate) fn strides(self) -> [usize; 2] {
        [self.row_stride, self.col_stride]
    }

    /// Some of the rows.
    pub(crate) fn row_range(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        let start = (rows.start * self.row_stride).min(self.data.len());
        Matrix { data: &self.data[start..], rows: rows.len(), ..self }
    }
}
