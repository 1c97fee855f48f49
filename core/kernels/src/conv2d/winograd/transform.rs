//! The matrices of Winograd's minimal filtering `F(M×M, 3×3)` as short programs on vectors.
//!
//! `y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A` for a tile `d` of `T×T` inputs, `T = M + 2` (Lavin & Gray 2016, equation 8), and the
//! adjoint of the map from `g` for the weight's gradient: `dg = Gᵀ[(A dy Aᵀ) ⊙ (Bᵀ d B)]G`.

use pulp::Simd;

/// One-dimensional transforms; each is applied along both axes of a tile.
pub(in super::super) trait Transform<const M: usize, const T: usize>:
    Copy + Send + Sync
{
    /// `Bᵀ d`.
    fn input<S: Simd>(self, simd: S, d: [S::f32s; T]) -> [S::f32s; T];
    /// `Aᵀ m`.
    fn output<S: Simd>(self, simd: S, m: [S::f32s; T]) -> [S::f32s; M];
    /// `A y`.
    fn output_adjoint<S: Simd>(self, simd: S, y: [S::f32s; M]) -> [S::f32s; T];
    /// `G g`.
    fn kernel<S: Simd>(self, simd: S, g: [S::f32s; 3]) -> [S::f32s; T];
    /// `Gᵀ u`.
    fn kernel_adjoint<S: Simd>(self, simd: S, u: [S::f32s; T]) -> [S::f32s; 3];
}

/// `F(2×2, 3×3)`: 2.25 times fewer products. Points 0, ±1, ∞.
#[derive(Clone, Copy)]
pub(in super::super) struct F2;

impl Transform<2, 4> for F2 {
    #[inline(always)]
    fn input<S: Simd>(self, simd: S, [d0, d1, d2, d3]: [S::f32s; 4]) -> [S::f32s; 4] {
        [simd.sub_f32s(d0, d2), simd.add_f32s(d1, d2), simd.sub_f32s(d2, d1), simd.sub_f32s(d3, d1)]
    }

    #[inline(always)]
    fn output<S: Simd>(self, simd: S, [m0, m1, m2, m3]: [S::f32s; 4]) -> [S::f32s; 2] {
        [simd.add_f32s(m0, simd.add_f32s(m1, m2)), simd.add_f32s(simd.sub_f32s(m1, m2), m3)]
    }

    #[inline(always)]
    fn output_adjoint<S: Simd>(self, simd: S, [y0, y1]: [S::f32s; 2]) -> [S::f32s; 4] {
        [y0, simd.add_f32s(y0, y1), simd.sub_f32s(y0, y1), y1]
    }

    #[inline(always)]
    fn kernel<S: Simd>(self, simd: S, [g0, g1, g2]: [S::f32s; 3]) -> [S::f32s; 4] {
        let half = simd.splat_f32s(0.5);
        let (even, odd) = (simd.mul_f32s(half, simd.add_f32s(g0, g2)), simd.mul_f32s(half, g1));
        [g0, simd.add_f32s(even, odd), simd.sub_f32s(even, odd), g2]
    }

    #[inline(always)]
    fn kernel_adjoint<S: Simd>(self, simd: S, [u0, u1, u2, u3]: [S::f32s; 4]) -> [S::f32s; 3] {
        let half = simd.splat_f32s(0.5);
        let even = simd.mul_f32s(half, simd.add_f32s(u1, u2));
        let odd = simd.mul_f32s(half, simd.sub_f32s(u1, u2));
        [simd.add_f32s(u0, even), odd, simd.add_f32s(u3, even)]
    }
}

/// `F(4×4, 3×3)`: 4 times fewer products. Points 0, ±3/4, ±3/2, ∞.
///
/// With these points the error is half of that with the usual 0, ±1, ±2, ∞, and every constant of `A` and `B` is exact.
#[derive(Clone, Copy)]
pub(in super::super) struct F4;

/// The two pairs of points.
const P: f32 = 0.75;
const Q: f32 = 1.5;
const PP: f32 = P * P;
const QQ: f32 = Q * Q;

/// Denominators of `G`: `∏ (p − q)` over the other points `q`.
const N0: f32 = 1.0 / (PP * QQ);
const NP: f32 = 1.0 / (2.0 * PP * (PP - QQ));
const NQ: f32 = 1.0 / (2.0 * QQ * (QQ - PP));

impl Transform<4, 6> for F4 {
    #[inline(always)]
    fn input<S: Simd>(self, simd: S, [d0, d1, d2, d3, d4, d5]: [S::f32s; 6]) -> [S::f32s; 6] {
        let (even_p, odd_p) = (axpy(simd, -QQ, d2, d4), axpy(simd, -QQ, d1, d3));
        let (even_q, odd_q) = (axpy(simd, -PP, d2, d4), axpy(simd, -PP, d1, d3));
        [
            axpy(simd, PP * QQ, d0, axpy(simd, -(PP + QQ), d2, d4)),
            axpy(simd, P, odd_p, even_p),
            axpy(simd, -P, odd_p, even_p),
            axpy(simd, Q, odd_q, even_q),
            axpy(simd, -Q, odd_q, even_q),
            axpy(simd, PP * QQ, d1, axpy(simd, -(PP + QQ), d3, d5)),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(self, simd: S, [m0, m1, m2, m3, m4, m5]: [S::f32s; 6]) -> [S::f32s; 4] {
        let (even_p, odd_p) = (simd.add_f32s(m1, m2), simd.sub_f32s(m1, m2));
        let (even_q, odd_q) = (simd.add_f32s(m3, m4), simd.sub_f32s(m3, m4));
        [
            simd.add_f32s(m0, simd.add_f32s(even_p, even_q)),
            axpy(simd, Q, odd_q, scale(simd, P, odd_p)),
            axpy(simd, QQ, even_q, scale(simd, PP, even_p)),
            axpy(simd, Q * QQ, odd_q, axpy(simd, P * PP, odd_p, m5)),
        ]
    }

    #[inline(always)]
    fn output_adjoint<S: Simd>(self, simd: S, [y0, y1, y2, y3]: [S::f32s; 4]) -> [S::f32s; 6] {
        let (even_p, odd_p) = (axpy(simd, PP, y2, y0), axpy(simd, P * PP, y3, scale(simd, P, y1)));
        let (even_q, odd_q) = (axpy(simd, QQ, y2, y0), axpy(simd, Q * QQ, y3, scale(simd, Q, y1)));
        [
            y0,
            simd.add_f32s(even_p, odd_p),
            simd.sub_f32s(even_p, odd_p),
            simd.add_f32s(even_q, odd_q),
            simd.sub_f32s(even_q, odd_q),
            y3,
        ]
    }

    #[inline(always)]
    fn kernel<S: Simd>(self, simd: S, [g0, g1, g2]: [S::f32s; 3]) -> [S::f32s; 6] {
        let (even_p, odd_p) = (axpy(simd, NP * PP, g2, scale(simd, NP, g0)), scale(simd, NP * P, g1));
        let (even_q, odd_q) = (axpy(simd, NQ * QQ, g2, scale(simd, NQ, g0)), scale(simd, NQ * Q, g1));
        [
            scale(simd, N0, g0),
            simd.add_f32s(even_p, odd_p),
            simd.sub_f32s(even_p, odd_p),
            simd.add_f32s(even_q, odd_q),
            simd.sub_f32s(even_q, odd_q),
            g2,
        ]
    }

    #[inline(always)]
    fn kernel_adjoint<S: Simd>(self, simd: S, [u0, u1, u2, u3, u4, u5]: [S::f32s; 6]) -> [S::f32s; 3] {
        let (even_p, odd_p) = (simd.add_f32s(u1, u2), simd.sub_f32s(u1, u2));
        let (even_q, odd_q) = (simd.add_f32s(u3, u4), simd.sub_f32s(u3, u4));
        [
            axpy(simd, NQ, even_q, axpy(simd, NP, even_p, scale(simd, N0, u0))),
            axpy(simd, NQ * Q, odd_q, scale(simd, NP * P, odd_p)),
            axpy(simd, NQ * QQ, even_q, axpy(simd, NP * PP, even_p, u5)),
        ]
    }
}

/// `a·x + y`.
#[inline(always)]
fn axpy<S: Simd>(simd: S, a: f32, x: S::f32s, y: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(a), x, y)
}

/// `a·x`.
#[inline(always)]
fn scale<S: Simd>(simd: S, a: f32, x: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(a), x)
}

/// `R·x·Rᵀ`, `B×B`, for an `A×A` tile `x` and the matrix `R` that `transform` applies to a column.
///
/// No `from_fn` and no iterator here or in what is called: their shims would be compiled without vector instructions.
#[inline(always)]
pub(super) fn both_axes<S: Simd, const A: usize, const B: usize>(
    simd: S,
    transform: impl Fn([S::f32s; A]) -> [S::f32s; B],
    read: impl Fn(usize, usize) -> S::f32s,
    mut write: impl FnMut(usize, usize, S::f32s),
) {
    let zero = simd.splat_f32s(0.0);
    let mut half = [[zero; A]; B];
    for j in 0..A {
        let mut column = [zero; A];
        for (i, x) in column.iter_mut().enumerate() {
            *x = read(i, j);
        }
        for (half, x) in half.iter_mut().zip(transform(column)) {
            half[j] = x;
        }
    }
    for (i, half) in half.into_iter().enumerate() {
        for (j, x) in transform(half).into_iter().enumerate() {
            write(i, j, x);
        }
    }
}
