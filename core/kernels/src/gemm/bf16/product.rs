//! `c = a · b` of matrices in `f32`, rounded while they are paired.

use super::{halves_by, halves_of_rows, pairs_of};
use crate::gemm::{self, Kernel, Matrix, Panels};
use crate::{Scratch, Threads};

/// `c = a · b + keep · c`, of operands rounded to bf16; `c` is row-major `[a.rows, b.cols]`. With `keep` 0, `c` may hold
/// anything. One of the strides of each operand is 1.
///
/// The result does not depend on the number of threads.
///
/// # Panics
/// If the sizes do not fit together.
pub(crate) fn multiply(threads: &Threads, a: Matrix<'_>, b: Matrix<'_>, keep: f32, c: &mut [f32]) {
    let depth = pairs_of(a.cols);
    let mut left = threads.scratch(a.rows * depth);
    pair_rows(threads, a, &mut left);
    let mut right = threads.scratch(b.cols * depth);
    let b_rows = b.transposed();
    let right = if b_rows.col_stride == 1 {
        pair_rows(threads, b_rows, &mut right);
        Matrix::new(&right, b.cols, depth).transposed()
    } else {
        pair_columns(threads, b_rows, &mut right);
        Matrix::new(&right, depth, b.cols)
    };
    gemm::multiply_by(Kernel::bf16(), threads, 1.0, Matrix::new(&left, a.rows, depth), right, keep, c);
}

/// Scratch memory that [`multiply`] takes for `a` `[m, depth]` and `b` `[depth, n]`, or fewer rows of `a`.
pub(crate) fn scratch([m, depth, n]: [usize; 3]) -> Scratch {
    let pairs = pairs_of(depth);
    let operands = Scratch::shared([m * pairs, n * pairs, m * pairs]);
    gemm::scratch_by(Kernel::bf16(), [m, pairs, n]).and(operands)
}

/// Pairs of each row, `[rows, ⌈cols/2⌉]`.
fn pair_rows(threads: &Threads, matrix: Matrix<'_>, pairs: &mut [f32]) {
    if matrix.col_stride == 1 && matrix.row_stride == matrix.cols {
        return halves_of_rows(threads, matrix.data, matrix.cols, 1, pairs);
    }
    let made = pairs_of(matrix.cols);
    if made == 0 {
        return;
    }
    let mut columns = threads.scratch(made * matrix.rows);
    pair_columns(threads, matrix, &mut columns);
    let columns = Matrix::new(&columns, made, matrix.rows);
    columns.pack(0..made, 0..matrix.rows, made, pairs);
}

/// Pairs of each row of a matrix stored by columns, `[⌈cols/2⌉, rows]`.
fn pair_columns(threads: &Threads, matrix: Matrix<'_>, pairs: &mut [f32]) {
    assert!(matrix.row_stride == 1 && matrix.col_stride == matrix.rows, "a matrix of whole rows or columns");
    halves_by(threads, &matrix.data[..matrix.rows * matrix.cols], matrix.rows, pairs);
}
