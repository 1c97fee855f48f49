//! Runs one operator the way an executor does, for tests.

use proptest::prelude::*;
use tensor::compare::{Tolerance, assert_close};
use tensor::{Shape, Tensor, View};

use crate::{Backward, Forward, GradInput, Mode, Operator, Recompute, Saved, SavedLen, SavedMut, Threads};

pub(crate) const TRAIN: Mode = Mode::Train { seed: 7 };

/// Rounding of a few hundred `f32` additions, relative to the largest element.
pub(crate) const ROUNDING: Tolerance = Tolerance { relative: 1e-5, absolute: 1e-6 };

/// An operator with everything its passes read, and the results of both.
pub(crate) struct Node<'a> {
    pub op: &'a dyn Operator,
    pub inputs: Vec<Tensor>,
    pub params: Vec<Tensor>,
    pub buffers: Vec<Tensor>,
    pub mode: Mode,
    pub threads: usize,
}

/// What a forward pass left for its backward pass.
pub(crate) struct Kept {
    pub floats: Vec<f32>,
    pub indices: Vec<u32>,
}

impl Kept {
    /// Full of what nobody may read.
    fn new(len: SavedLen) -> Self {
        Kept { floats: vec![f32::NAN; len.floats], indices: vec![u32::MAX; len.indices] }
    }
}

/// Results of a backward pass.
pub(crate) struct Gradients {
    pub inputs: Vec<Tensor>,
    pub params: Vec<Tensor>,
}

impl<'a> Node<'a> {
    pub(crate) fn new(op: &'a dyn Operator, inputs: Vec<Tensor>, params: Vec<Tensor>) -> Self {
        let buffers = op.buffers().into_iter().map(|b| Tensor::zeros(b.shape)).collect();
        Node { op, inputs, params, buffers, mode: TRAIN, threads: 1 }
    }

    /// A node whose parameters are drawn from `seed`.
    pub(crate) fn random(op: &'a dyn Operator, inputs: Vec<Tensor>, seed: u64) -> Self {
        let params = op.params().into_iter().enumerate();
        let params = params.map(|(i, p)| random(p.shape.dims(), seed + i as u64)).collect();
        Node::new(op, inputs, params)
    }

    pub(crate) fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Output and what was saved. Both start full of NaN, so that anything not written shows.
    pub(crate) fn forward(&mut self) -> (Tensor, Kept) {
        let shapes: Vec<_> = self.inputs.iter().map(Tensor::shape).collect();
        let shape = self.op.infer(&shapes).expect("shapes fit");
        let mut output = Tensor::from_fn(shape, |_| f32::NAN);
        let mut len = self.op.saved_len(&shapes);
        // An executor sizes this for its largest batch.
        len.floats += 3;
        len.indices += 3;
        let mut saved = Kept::new(len);
        let inputs: Vec<_> = self.inputs.iter().map(Tensor::view).collect();
        let threads = self.reserved_threads();
        self.op.forward(Forward {
            inputs: &inputs,
            params: &self.params,
            buffers: &mut self.buffers,
            output: output.view_mut(),
            saved: SavedMut { floats: &mut saved.floats, indices: &mut saved.indices },
            mode: self.mode,
            threads: &threads,
        });
        if self.op.is_cheap() {
            self.assert_recomputed(&output, &saved, &threads);
        }
        assert_eq!(threads.grown(), 0, "{}: `scratch` tells too little for {shapes:?}", self.op.name());
        (output, saved)
    }

    fn assert_recomputed(&self, output: &Tensor, saved: &Kept, threads: &Threads) {
        let mut again = Tensor::from_fn(output.shape(), |_| f32::NAN);
        let inputs: Vec<_> = self.inputs.iter().map(Tensor::view).collect();
        self.op.recompute(Recompute {
            inputs: &inputs,
            params: &self.params,
            output: again.view_mut(),
            saved: Saved { floats: &saved.floats, indices: &saved.indices },
            mode: self.mode,
            threads,
        });
        let bits = |t: &Tensor| t.data().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(output), "{} computed again", self.op.name());
    }

    /// Gradients after a forward pass. Every pass runs three times: overwriting, accumulating, and with nothing wanted;
    /// the first two must agree.
    pub(crate) fn backward(&mut self, grad_output: &Tensor) -> Gradients {
        let (output, saved) = self.forward();
        let overwritten = self.run_backward(&output, &saved, grad_output, f32::NAN, false);
        let added = self.run_backward(&output, &saved, grad_output, 2.0, true);
        for (a, b) in overwritten.inputs.iter().zip(&added.inputs) {
            let shifted: Vec<f32> = a.data().iter().map(|x| x + 2.0).collect();
            assert_close("accumulated input gradient", b.data(), &shifted, ROUNDING);
        }
        assert_eq!(overwritten.params, added.params, "parameter gradients are overwritten");
        self.run_frozen(&output, &saved, grad_output, &overwritten.inputs);
        overwritten
    }

    fn run_backward(
        &self,
        output: &Tensor,
        saved: &Kept,
        grad_output: &Tensor,
        before: f32,
        accumulate: bool,
    ) -> Gradients {
        let full = |t: &Tensor, value| Tensor::from_fn(t.shape(), |_| value);
        let mut inputs: Vec<_> = self.inputs.iter().map(|x| full(x, before)).collect();
        let mut params: Vec<_> = self.params.iter().map(|p| full(p, f32::NAN)).collect();
        let mut wanted: Vec<_> =
            inputs.iter_mut().map(|g| Some(GradInput { data: g.data_mut(), accumulate })).collect();
        self.pass(output, saved, grad_output, &mut wanted, &mut params);
        Gradients { inputs, params }
    }

    /// Nothing wanted, then only the inputs' gradients, whichever way frozen parameters are told.
    fn run_frozen(&self, output: &Tensor, saved: &Kept, grad_output: &Tensor, expected: &[Tensor]) {
        let empty: Vec<_> = self.params.iter().map(|_| Tensor::zeros([0])).collect();
        for mut params in [empty, Vec::new()] {
            let mut wanted: Vec<_> = self.inputs.iter().map(|_| None).collect();
            self.pass(output, saved, grad_output, &mut wanted, &mut params);
            let mut inputs: Vec<_> = self.inputs.iter().map(|x| Tensor::zeros(x.shape())).collect();
            let mut wanted: Vec<_> = inputs
                .iter_mut()
                .map(|g| Some(GradInput { data: g.data_mut(), accumulate: false }))
                .collect();
            self.pass(output, saved, grad_output, &mut wanted, &mut params);
            assert_eq!(inputs, expected, "input gradients with frozen parameters");
        }
    }

    fn pass(
        &self,
        output: &Tensor,
        saved: &Kept,
        grad_output: &Tensor,
        grad_inputs: &mut [Option<GradInput<'_>>],
        grad_params: &mut [Tensor],
    ) {
        // Shortens the borrow of each gradient to this call.
        let mut wanted: Vec<_> = grad_inputs
            .iter_mut()
            .map(|g| g.as_mut().map(|g| GradInput { data: &mut *g.data, accumulate: g.accumulate }))
            .collect();
        let reads = self.op.backward_reads();
        let inputs: Vec<_> = self.inputs.iter().zip(reads.inputs).map(|(x, read)| given(x, read)).collect();
        let threads = self.reserved_threads();
        self.op.backward(Backward {
            inputs: &inputs,
            params: &self.params,
            buffers: &self.buffers,
            output: given(output, reads.output),
            grad_output: grad_output.view(),
            saved: Saved { floats: &saved.floats, indices: &saved.indices },
            grad_inputs: &mut wanted,
            grad_params,
            mode: self.mode,
            threads: &threads,
        });
        assert_eq!(threads.grown(), 0, "{}: `scratch` tells too little", self.op.name());
    }

    /// Threads with as much scratch memory as the operator says it takes.
    fn reserved_threads(&self) -> Threads {
        let shapes: Vec<_> = self.inputs.iter().map(Tensor::shape).collect();
        let threads = Threads::new(self.threads);
        threads.reserve(&self.op.scratch(&shapes, self.threads));
        threads
    }
}

/// A value as a backward pass gets it: without data where it is not read.
fn given(value: &Tensor, read: bool) -> View<'_> {
    View { shape: value.shape(), data: if read { value.data() } else { &[] } }
}

/// Numbers between −1 and 1, none of them 0, from a counter.
pub(crate) fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Tensor::from_fn(Shape::new(dims), |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 + 0.5) / (1u64 << 23) as f32 - 1.0
    })
}

/// In `f64`.
pub(crate) fn doubles(data: &[f32]) -> Vec<f64> {
    data.iter().map(|&x| f64::from(x)).collect()
}

/// Rounded to `f32`.
pub(crate) fn floats(data: &[f64]) -> Vec<f32> {
    data.iter().map(|&x| x as f32).collect()
}

/// `Σ a·b` in `f64`.
pub(crate) fn inner(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Checks a gradient against central differences of `f` at `x`, all in `f64`.
pub(crate) fn assert_central_differences(what: &str, x: &[f32], gradient: &[f32], f: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    let mut x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let differences: Vec<f32> = (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = f(&x);
            x[i] = at - STEP;
            let below = f(&x);
            x[i] = at;
            ((above - below) / (2.0 * STEP)) as f32
        })
        .collect();
    assert_close(what, gradient, &differences, Tolerance { relative: 1e-4, absolute: 1e-6 });
}

/// Runs both passes with 1, 2 and 3 threads and checks that every bit is the same.
pub(crate) fn assert_same_for_any_threads(node: impl Fn() -> Node<'static>) {
    let run = |threads| {
        let mut node = node().threads(threads);
        let (output, _) = node.forward();
        let gradients = node.backward(&random(output.shape().dims(), 99));
        (output, gradients.inputs, gradients.params, node.buffers)
    };
    let one = run(1);
    assert_eq!(one, run(2), "2 threads");
    assert_eq!(one, run(3), "3 threads");
}

/// A configuration with a fixed seed: a failure is the same failure again.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, failure_persistence: None, rng_seed: prop_seed(), ..Default::default() }
}

fn prop_seed() -> proptest::test_runner::RngSeed {
    proptest::test_runner::RngSeed::Fixed(20_261_103)
}
