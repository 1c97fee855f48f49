//! Forward and backward passes over a whole graph, in buffers allocated once.

use kernels::{Backward, Forward, GradInput, Mode, Saved, Threads};
use model::{Graph, Parameters, ValueId};
use tensor::{Tensor, View, ViewMut};

use crate::fuse;
use crate::random::{Purpose, Stream};

/// Runs one graph for batches of up to a fixed size; every buffer is allocated on construction.
pub struct Executor {
    graph: Graph,
    /// The graph with chains of operators fused: what runs.
    fused: Graph,
    batch: usize,
    values: Vec<Tensor>,
    saved: Vec<Saved>,
    training: Option<Training>,
}

/// Most inputs an operator has.
const MAX_INPUTS: usize = 2;

/// What only the backward pass needs.
struct Training {
    grad_params: Vec<Tensor>,
    /// Gradient buffers, shared by values that are never needed at the same time.
    slots: Vec<Vec<f32>>,
    slot_of: Vec<usize>,
}

/// What a forward pass ran on, which its backward pass must know.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Records in the batch.
    pub records: usize,
    pub mode: Mode,
}

impl Executor {
    /// An executor for inference and for training.
    pub fn for_training(graph: Graph, batch: usize) -> Self {
        let fused = fuse::for_training(&graph);
        Executor::training(graph, fused, batch)
    }

    /// [`Executor::for_training`] that runs `fused`, a rewrite of `graph`.
    pub(crate) fn training(graph: Graph, fused: Graph, batch: usize) -> Self {
        let grad_params = graph.param_specs().into_iter().map(|(_, shape)| Tensor::zeros(shape)).collect();
        let (slot_of, lengths) = plan_gradient_slots(&fused, batch);
        let slots = lengths.into_iter().map(|len| vec![0.0; len]).collect();
        let training = Some(Training { grad_params, slots, slot_of });
        Executor { training, ..Executor::new(graph, fused, batch) }
    }

    /// An executor without gradients, for evaluation mode.
    pub fn for_inference(graph: Graph, batch: usize) -> Self {
        let fused = fuse::for_inference(&graph);
        Executor::new(graph, fused, batch)
    }

    /// [`Executor::for_inference`] that runs `fused`, a rewrite of `graph`.
    pub(crate) fn new(graph: Graph, fused: Graph, batch: usize) -> Self {
        let batch = batch.max(1);
        let values = (0..fused.values()).map(|v| Tensor::zeros(fused.shape(ValueId(v), batch))).collect();
        let saved_len = |n: usize| fused.nodes()[n].op.operator().saved_len(&fused.input_shapes(n, batch));
        let saved = (0..fused.nodes().len()).map(|n| Saved::new(saved_len(n))).collect();
        Executor { graph, fused, batch, values, saved, training: None }
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Largest number of records a pass may have.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        let values: usize = self.values.iter().map(|v| v.shape().len()).sum();
        let saved: usize = self.saved.iter().map(|s| s.floats.len() + s.indices.len()).sum();
        let training = self.training.iter().flat_map(|t| {
            let grads = t.grad_params.iter().map(|g| g.shape().len());
            grads.chain(t.slots.iter().map(Vec::len))
        });
        4 * (values + saved + training.sum::<usize>())
    }

    /// Where the input of the next pass goes: `[records, C, H, W]`.
    ///
    /// # Panics
    /// If `records` exceeds [`Executor::batch`].
    pub fn input_mut(&mut self, records: usize) -> &mut [f32] {
        assert!(records <= self.batch, "a pass has at most {} records, not {records}", self.batch);
        let len = self.fused.shape(ValueId::INPUT, records).len();
        &mut self.values[0].data_mut()[..len]
    }

    /// Runs the graph on what [`Executor::input_mut`] holds; returns the output `[records, …]`.
    ///
    /// In [`Mode::Train`] the buffers of `parameters` (running statistics) are updated; the seed is the step's, and is
    /// made unique per node here.
    pub fn forward(&mut self, parameters: &mut Parameters, pass: Pass, threads: &Threads) -> &[f32] {
        for n in 0..self.fused.nodes().len() {
            self.forward_node(n, parameters, pass, threads);
        }
        self.output(pass.records).data
    }

    /// The output of the last forward pass, `[records, …]`.
    pub fn output(&self, records: usize) -> View<'_> {
        let output = self.fused.output();
        let shape = self.fused.shape(output, records);
        View { shape, data: &self.values[output.0].data()[..shape.len()] }
    }

    fn forward_node(&mut self, n: usize, parameters: &mut Parameters, pass: Pass, threads: &Threads) {
        let node = &self.fused.nodes()[n];
        let (before, after) = self.values.split_at_mut(n + 1);
        let view = |v: ValueId| {
            let shape = self.fused.shape(v, pass.records);
            View { shape, data: &before[v.0].data()[..shape.len()] }
        };
        let inputs: Vec<View<'_>> = node.inputs.iter().map(|&v| view(v)).collect();
        let shape = self.fused.shape(ValueId(n + 1), pass.records);
        node.op.operator().forward(Forward {
            inputs: &inputs,
            params: &parameters.params[node.params.clone()],
            buffers: &mut parameters.buffers[node.buffers.clone()],
            output: ViewMut { shape, data: &mut after[0].data_mut()[..shape.len()] },
            saved: &mut self.saved[n],
            mode: node_mode(pass.mode, node.origin),
            threads,
        });
    }

    /// Gradients of the parameters after [`Executor::backward`].
    ///
    /// # Panics
    /// If the executor was made for inference.
    pub fn grad_params(&self) -> &[Tensor] {
        &self.training.as_ref().expect("made for training").grad_params
    }

    /// The graph, and the gradients of its parameters to add to.
    ///
    /// # Panics
    /// If the executor was made for inference.
    pub fn graph_and_gradients(&mut self) -> (&Graph, &mut [Tensor]) {
        (&self.graph, &mut self.training.as_mut().expect("made for training").grad_params)
    }

    /// Propagates `grad_output` (shape of the output) back through the last forward pass, which was `pass`.
    ///
    /// Overwrites every parameter gradient; returns the gradient of the input `[records, C, H, W]` if asked for.
    ///
    /// # Panics
    /// If the executor was made for inference.
    pub fn backward(
        &mut self,
        parameters: &Parameters,
        grad_output: &[f32],
        pass: Pass,
        want_input: bool,
        threads: &Threads,
    ) -> Option<&[f32]> {
        let training = self.training.as_mut().expect("made for training");
        let output = self.fused.output();
        training.slots[training.slot_of[output.0]][..grad_output.len()].copy_from_slice(grad_output);
        let mut written = vec![false; self.fused.values()];
        written[output.0] = true;
        for n in (0..output.0).rev() {
            if written[n + 1] {
                self.backward_node(n, parameters, pass, want_input, &mut written, threads);
            }
        }
        let training = self.training.as_ref().expect("made for training");
        let len = self.fused.shape(ValueId::INPUT, pass.records).len();
        want_input.then(|| &training.slots[training.slot_of[0]][..len])
    }

    fn backward_node(
        &mut self,
        n: usize,
        parameters: &Parameters,
        pass: Pass,
        want_input: bool,
        written: &mut [bool],
        threads: &Threads,
    ) {
        let node = &self.fused.nodes()[n];
        let training = self.training.as_mut().expect("made for training");
        let view = |v: ValueId| {
            let shape = self.fused.shape(v, pass.records);
            View { shape, data: &self.values[v.0].data()[..shape.len()] }
        };
        let inputs: Vec<View<'_>> = node.inputs.iter().map(|&v| view(v)).collect();
        let output = view(ValueId(n + 1));
        // Taken out while the operator writes other slots; never shared with an input's slot (see the plan).
        let own = training.slot_of[n + 1];
        let grad = std::mem::take(&mut training.slots[own]);
        let mut wanted = WantedGradients::take(node.inputs.as_slice(), training, want_input);
        let mut grad_inputs = wanted.views(&inputs, written);
        node.op.operator().backward(Backward {
            inputs: &inputs,
            params: &parameters.params[node.params.clone()],
            buffers: &parameters.buffers[node.buffers.clone()],
            output,
            grad_output: View { shape: output.shape, data: &grad[..output.data.len()] },
            saved: &self.saved[n],
            grad_inputs: &mut grad_inputs[..inputs.len()],
            grad_params: &mut training.grad_params[node.params.clone()],
            mode: node_mode(pass.mode, node.origin),
            threads,
        });
        wanted.put_back(training, written);
        training.slots[own] = grad;
    }
}

/// Gradient buffers of a node's inputs, taken out of their slots for the time of one backward step.
struct WantedGradients<'a> {
    values: &'a [ValueId],
    buffers: Vec<Option<Vec<f32>>>,
}

impl<'a> WantedGradients<'a> {
    fn take(values: &'a [ValueId], training: &mut Training, want_input: bool) -> Self {
        let mut take = |(i, v): (usize, &ValueId)| {
            let slot = &mut training.slots[training.slot_of[v.0]];
            match (*v == ValueId::INPUT && !want_input, values[..i].contains(v)) {
                (true, _) => None,
                // The same value twice (x + x): a buffer of its own, added in `put_back`.
                (false, true) => Some(vec![0.0; slot.len().max(1)]),
                (false, false) => Some(std::mem::take(slot)),
            }
        };
        let buffers = values.iter().enumerate().map(&mut take).collect();
        WantedGradients { values, buffers }
    }

    fn views<'b>(&'b mut self, inputs: &[View<'_>], written: &[bool]) -> [Option<GradInput<'b>>; MAX_INPUTS] {
        let values = self.values;
        let mut views = [const { None }; MAX_INPUTS];
        for (i, (view, buffer)) in views.iter_mut().zip(&mut self.buffers).enumerate() {
            let accumulate = written[values[i].0] && !values[..i].contains(&values[i]);
            let len = inputs[i].data.len();
            *view = buffer.as_mut().map(|b| {
                b.resize(b.len().max(len), 0.0);
                GradInput { data: &mut b[..len], accumulate }
            });
        }
        views
    }

    fn put_back(self, training: &mut Training, written: &mut [bool]) {
        for (i, (value, buffer)) in self.values.iter().zip(self.buffers).enumerate() {
            let Some(buffer) = buffer else { continue };
            let slot = &mut training.slots[training.slot_of[value.0]];
            if self.values[..i].contains(value) {
                slot.iter_mut().zip(&buffer).for_each(|(sum, b)| *sum += b);
            } else {
                *slot = buffer;
            }
            written[value.0] = true;
        }
    }
}

/// The step's mode with a seed of its own for node `n`.
fn node_mode(mode: Mode, n: usize) -> Mode {
    match mode {
        Mode::Train { seed } => {
            Mode::Train { seed: Stream::new(seed, Purpose::Dropout, n as u64, 0).next_u64() }
        }
        Mode::Eval => Mode::Eval,
    }
}

/// Assigns each value's gradient to a slot, so that gradients that are alive at the same time never share one.
///
/// A gradient is alive from the backward step of its last consumer to that of its producer. Returns the slot of each
/// value and the length of each slot.
fn plan_gradient_slots(graph: &Graph, batch: usize) -> (Vec<usize>, Vec<usize>) {
    let mut slot_of = vec![None; graph.values()];
    let mut lengths: Vec<usize> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut assign = |value: ValueId, free: &mut Vec<usize>| {
        let len = graph.shape(value, batch).len();
        let fits = |&(_, &slot): &(usize, &usize)| lengths[slot] >= len;
        let smallest_fit = free.iter().enumerate().filter(fits).min_by_key(|(_, s)| lengths[**s]);
        let chosen = smallest_fit
            .or_else(|| free.iter().enumerate().max_by_key(|(_, s)| lengths[**s]))
            .map(|(i, _)| i);
        let slot = chosen.map(|i| free.swap_remove(i)).unwrap_or_else(|| {
            lengths.push(0);
            lengths.len() - 1
        });
        lengths[slot] = lengths[slot].max(len);
        slot
    };
    slot_of[graph.output().0] = Some(assign(graph.output(), &mut free));
    for n in (0..graph.output().0).rev() {
        let Some(own) = slot_of[n + 1] else { continue };
        for input in &graph.nodes()[n].inputs {
            if slot_of[input.0].is_none() {
                slot_of[input.0] = Some(assign(*input, &mut free));
            }
        }
        free.push(own);
    }
    // Values the output does not depend on never get a gradient; slot 0 is never written through them.
    (slot_of.into_iter().map(|s| s.unwrap_or(0)).collect(), lengths)
}
