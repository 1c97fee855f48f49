//! Loops over slices, compiled for the instructions this processor has.

/// `function(arguments)`, compiled for the widest vectors this processor has.
///
/// `function` is a plain loop and must be marked `#[inline(always)]`: only what is inlined is compiled that way.
#[inline(always)]
pub(crate) fn vectorised<A, R>(function: impl FnOnce(A) -> R, arguments: A) -> R {
    pulp::Arch::new().dispatch(Call { function, arguments })
}

struct Call<F, A> {
    function: F,
    arguments: A,
}

impl<A, R, F: FnOnce(A) -> R> pulp::WithSimd for Call<F, A> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> R {
        (self.function)(self.arguments)
    }
}
