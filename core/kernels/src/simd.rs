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

            $crate::dispatch(Arguments { $($argument),* })
        }
    };
}

pub(crate) use vectorised;

/// Runs a job with the widest vectors this processor has.
#[doc(hidden)]
#[inline]
pub fn dispatch<J: pulp::WithSimd>(job: J) -> J::Output {
    #[cfg(all(test, target_arch = "x86_64"))]
    match (limit(), pulp::x86::V3::try_new()) {
        (Some("fma"), Some(simd)) => return pulp::Simd::vectorize(simd, job),
        (Some("scalar"), _) => return pulp::Simd::vectorize(pulp::Scalar, job),
        _ => {}
    }
    pulp::Arch::new().dispatch(job)
}

/// The instruction set that the tests of this process are limited to, by its name in [`crate::gemm`]; none in a program.
/// The name of one for bf16 limits products of bf16 only; another's leaves them the portable one.
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // The environment says what a test runs.
pub(crate) fn limit() -> Option<&'static str> {
    static LIMIT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    LIMIT.get_or_init(|| std::env::var("LIMIT_ISA").ok()).as_deref()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::gemm::Kernel;

    /// All tests of this crate again, with each narrower instruction set; `EXPECT_ISA` names one that must have run.
    #[test]
    #[allow(clippy::disallowed_methods)] // Starts this program again.
    fn every_path_passes_its_tests_with_every_instruction_set() {
        let fastest = [Kernel::detected().name(), Kernel::bf16().name()];
        let mut ran = fastest.to_vec();
        let all = Kernel::available().map(|kernel| (kernel.name(), ""));
        let all = all.chain(Kernel::bf16_available().map(|kernel| (kernel.name(), "bf16")));
        for (name, tests) in all.filter(|(name, _)| !fastest.contains(name)) {
            let program = std::env::current_exe().expect("a test is a program");
            let again = Command::new(program)
                .args(["--skip", "with_every_instruction_set", tests])
                .env("LIMIT_ISA", name)
                .output()
                .expect("it starts again");
            assert!(again.status.success(), "{name}:\n{}", String::from_utf8_lossy(&again.stdout));
            ran.push(name);
        }
        println!("ran: {ran:?}");
        if let Ok(expected) = std::env::var("EXPECT_ISA") {
            assert!(ran.contains(&expected.as_str()), "{expected} did not run, only {ran:?}");
        }
    }
}
