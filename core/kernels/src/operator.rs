//! What every operator offers, and what it is given.

use tensor::{Shape, ShapeError, Tensor, View, ViewMut};

use crate::{Scratch, Threads};

/// One operator of a model graph: its attributes, its shapes, and its two passes.
pub trait Operator {
    /// The operator's name in messages and tables, such as `conv2d`.
    fn name(&self) -> &'static str;

    /// Output shape, batch axis included, for these input shapes.
    ///
    /// # Errors
    /// [`ShapeError`] where the attributes and the inputs do not fit together.
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError>;

    /// Trained parameters, in the order `forward` expects them.
    fn params(&self) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// State that training updates without a gradient (running statistics).
    fn buffers(&self) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// How much `forward` leaves for `backward` beside inputs and output, for these input shapes.
    fn saved_len(&self, _inputs: &[Shape]) -> SavedLen {
        SavedLen::default()
    }

    /// Which values `backward` reads; of the others it is given shapes only.
    fn backward_reads(&self) -> Reads {
        Reads::ALL
    }

    /// Multiply-adds of one forward pass over these inputs; 0 for operators without products.
    fn macs(&self, _inputs: &[Shape]) -> u64 {
        0
    }

    /// Scratch memory that either pass takes at most, for these input shapes or shorter batches.
    fn scratch(&self, _inputs: &[Shape], _threads: usize) -> Scratch {
        Scratch::NONE
    }

    /// Writes every element of `output`.
    ///
    /// Shapes have been checked with [`Operator::infer`]; buffers have the lengths their shapes say.
    fn forward(&self, pass: Forward<'_>);

    /// Whether [`Operator::recompute`] costs little: no products.
    fn is_cheap(&self) -> bool {
        false
    }

    /// Writes what `forward` wrote, bit for bit, and changes nothing else; asked of cheap operators only.
    fn recompute(&self, pass: Recompute<'_>) {
        let Recompute { inputs, params, output, mode, threads, .. } = pass;
        let saved = SavedMut { floats: &mut [], indices: &mut [] };
        self.forward(Forward { inputs, params, buffers: &mut [], output, saved, mode, threads });
    }

    /// Writes (or adds to) every wanted input gradient and overwrites every parameter gradient.
    fn backward(&self, pass: Backward<'_>);
}

/// Name (PyTorch's suffix: `weight`, `running_mean`) and shape of a parameter or buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    pub name: &'static str,
    pub shape: Shape,
}

impl ParamSpec {
    pub fn new(name: &'static str, shape: impl Into<Shape>) -> Self {
        ParamSpec { name, shape: shape.into() }
    }
}

/// Which behaviour batch norm and dropout have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, running statistics updated, dropout drawn from this seed (already unique to node and step).
    Train { seed: u64 },
    /// Running statistics, no dropout.
    Eval,
}

/// Lengths of [`Saved`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedLen {
    pub floats: usize,
    pub indices: usize,
}

/// Most inputs an operator has.
pub const MAX_INPUTS: usize = 2;

/// Which values a backward pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    pub inputs: [bool; MAX_INPUTS],
    pub output: bool,
}

impl Reads {
    pub const NOTHING: Reads = Reads { inputs: [false; MAX_INPUTS], output: false };
    pub const INPUTS: Reads = Reads { inputs: [true; MAX_INPUTS], output: false };
    pub const OUTPUT: Reads = Reads { inputs: [false; MAX_INPUTS], output: true };
    pub const ALL: Reads = Reads { inputs: [true; MAX_INPUTS], output: true };
}

/// Where a forward pass leaves what its backward pass needs; lengths as [`Operator::saved_len`] says, or more.
pub struct SavedMut<'a> {
    pub floats: &'a mut [f32],
    pub indices: &'a mut [u32],
}

/// What a forward pass left for its backward pass.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    pub floats: &'a [f32],
    pub indices: &'a [u32],
}

/// Arguments of a forward pass.
pub struct Forward<'a> {
    pub inputs: &'a [View<'a>],
    pub params: &'a [Tensor],
    pub buffers: &'a mut [Tensor],
    pub output: ViewMut<'a>,
    pub saved: SavedMut<'a>,
    pub mode: Mode,
    pub threads: &'a Threads,
}

/// Arguments of a forward pass that is done again before a backward pass.
pub struct Recompute<'a> {
    pub inputs: &'a [View<'a>],
    pub params: &'a [Tensor],
    pub output: ViewMut<'a>,
    /// As the forward pass left it.
    pub saved: Saved<'a>,
    pub mode: Mode,
    pub threads: &'a Threads,
}

/// Arguments of a backward pass.
pub struct Backward<'a> {
    /// Without data where [`Operator::backward_reads`] does not name them; so the output.
    pub inputs: &'a [View<'a>],
    pub params: &'a [Tensor],
    /// Running statistics, read in [`Mode::Eval`].
    pub buffers: &'a [Tensor],
    pub output: View<'a>,
    pub grad_output: View<'a>,
    pub saved: Saved<'a>,
    /// One per input; `None` where no gradient is wanted.
    pub grad_inputs: &'a mut [Option<GradInput<'a>>],
    /// One per parameter, overwritten; empty where the parameters are frozen.
    pub grad_params: &'a mut [Tensor],
    pub mode: Mode,
    pub threads: &'a Threads,
}

/// Where the gradient of one input goes.
pub struct GradInput<'a> {
    pub data: &'a mut [f32],
    /// Add to what is there (the value has several consumers) instead of overwriting it.
    pub accumulate: bool,
}
