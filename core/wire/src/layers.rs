//! Convolutions that are computed layer by layer: the enclave keeps what lies between them.
//!
//! A layer is a value of the model that leaves, with the convolutions that read it. Its residuals come in pieces of a batch;
//! pieces are told apart by their slot, so that several may be under way.

use kernels::Operator;
pub use kernels::compact::Format;
use kernels::conv2d::Conv2d;
use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

/// The convolutions that the accelerator holds. The body has the weights of all, layer by layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outsourcing {
    pub layers: Vec<Layer>,
    /// Largest number of records in one piece of a batch.
    pub records: usize,
    /// Pieces of a batch.
    pub slots: usize,
    /// Whether residuals are kept for the gradients of weights.
    pub training: bool,
    /// How products and gradients cross, in both directions.
    pub products: Format,
    pub threads: usize,
}

/// A value that leaves, and what is computed from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// `[C, H, W]`.
    pub input: [usize; 3],
    /// How its residuals cross.
    pub residual: Format,
    /// Without bias: biases stay in the enclave.
    pub convs: Vec<Conv2d>,
}

impl Layer {
    /// Bytes of the residual of one record.
    pub fn residual_len(&self) -> usize {
        let [c, h, w] = self.input;
        self.residual.encoded_len(c, h * w)
    }

    /// Bytes of the gradient of one record's input.
    pub fn gradient_len(&self, products: Format) -> usize {
        let [c, h, w] = self.input;
        products.encoded_len(c, h * w)
    }

    /// Shape `[K, H', W']` of what a convolution makes of one record.
    ///
    /// # Errors
    /// [`ShapeError`] if it does not fit the input.
    pub fn output(&self, conv: usize) -> Result<[usize; 3], ShapeError> {
        let output = self.convs[conv].infer(&[Shape::from(self.input).batched(1)])?;
        let &[_, k, h, w] = output.dims() else { unreachable!("a convolution makes images") };
        Ok([k, h, w])
    }

    /// Elements of the weights of a convolution.
    pub fn weight_len(&self, conv: usize) -> usize {
        self.convs[conv].params()[0].shape.len()
    }

    /// Elements of the weights of all its convolutions.
    pub fn weights_len(&self) -> usize {
        (0..self.convs.len()).map(|conv| self.weight_len(conv)).sum()
    }
}
