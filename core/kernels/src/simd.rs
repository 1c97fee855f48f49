//! Loops over slices, compiled for the instructions this processor has.

/// Defines a function whose body is compiled several times, for different vector instructions; a call runs the one for
/// the widest vectors this processor has.
///
/// The body is a plain loop: only what is inlined into it (closures as small as `f` below, functions marked
/// `#[inline(always)]`) is compiled that way. All borrows share the one lifetime.
///
/// ```text
/// vectorised! {
///     /// `y[i] = f(x[i])`.
///     fn map<'a, F: Fn(f32) -> f32>(x: &'a [f32], y: &'a mut [f32], f: &'a F) -> () {
///         y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x));
///     }
/// }
/// ```
// A function passed to a dispatcher would not do: the shim that calls it is not inlined.
#[macro_export]
macro_rules! vectorised {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$life:lifetime $(, $generic:ident: $bound:path)?>(
            $($argument:ident: $type:ty),* $(,)?
        ) -> $output:ty $body:block
    ) => {
        $(#[$attribute])*
        #[allow(clippy::unused_unit, clippy::too_many_arguments)]
        $visibility fn $name<$life $(, $generic: $bound)?>($($argument: $type),*) -> $output {
            struct Arguments<$life $(, $generic: $bound)?> {
                $($argument: $type),*
            }

            impl<$life $(, $generic: $bound)?> $crate::pulp::WithSimd for Arguments<$life $(, $generic)?> {
                type Output = $output;

                #[inline(always)]
                fn with_simd<S: $crate::pulp::Simd>(self, _: S) -> $output {
                    let Self { $($argument),* } = self;
                    $body
                }
            }

            $crate::pulp::Arch::new().dispatch(Arguments { $($argument),* })
        }
    };
}

pub(crate) use vectorised;
