//! Convolutions layer by layer, for a model whose rest stays in the enclave.

use kernels::compact::Format;
use kernels::conv2d::Conv2d;
use kernels::{Backward, Forward, GradInput, Mode, Operator, Saved, SavedMut, Threads};
use tensor::{Shape, Tensor, View, ViewMut};
use wire::accelerator::{Job, Reply};
use wire::layers::{Layer, Outsourcing};
use wire::{WireError, body};

use super::{DeviceError, Replies};

/// The convolutions of an [`Outsourcing`], with what they were last applied to.
pub(super) struct Layers {
    layers: Vec<Held>,
    records: usize,
    training: bool,
    products: Format,
    threads: Threads,
    /// Numbers of one convolution, decoded.
    numbers: Vec<f32>,
    /// The body of the next reply.
    reply: Vec<u8>,
}

/// One layer.
struct Held {
    layer: Layer,
    /// Of each convolution.
    weights: Vec<Tensor>,
    /// Of each convolution; empty unless it trains.
    gradients: Vec<Tensor>,
    /// What the pieces of the last batch were.
    pieces: Vec<Piece>,
}

/// A piece of a batch.
#[derive(Clone, Default)]
struct Piece {
    records: usize,
    /// Residuals `[records, C, H, W]`.
    input: Vec<f32>,
    /// The gradient of the input so far, and the convolution whose gradient is due next.
    gradient: Vec<f32>,
    due: usize,
}

impl Layers {
    pub(super) fn new(spec: &Outsourcing, body: &[u8]) -> Result<Self, DeviceError> {
        let mut rest = body;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for layer in &spec.layers {
            let (held, left) = Held::new(layer, spec.slots, rest)?;
            layers.push(held);
            rest = left;
        }
        if !rest.is_empty() {
            return Err(WireError::Body { expected: body.len() - rest.len(), found: body.len() }.into());
        }
        Ok(Layers {
            layers,
            records: spec.records,
            training: spec.training,
            products: spec.products,
            threads: Threads::new(spec.threads),
            numbers: Vec::new(),
            reply: Vec::new(),
        })
    }

    /// Runs a job that is about layers.
    pub(super) fn run(&mut self, job: &Job, body: &[u8], replies: Replies<'_>) -> Result<(), DeviceError> {
        match *job {
            Job::Convolve { layer, slot, records } => {
                self.convolve((layer, slot, records), body)?;
                Ok(replies(Reply::Products { layer, slot, records }, &self.reply)?)
            }
            Job::Differentiate { layer, conv, slot, records } => {
                self.differentiate((layer, slot, records), conv, body)?;
                if conv == 0 {
                    self.encode_gradient(layer, slot);
                    replies(Reply::InputGradients { layer, slot, records }, &self.reply)?;
                }
                // After the reply that the enclave waits for.
                self.add_weight_gradient(layer, slot, conv);
                Ok(())
            }
            Job::WeightGradients { layer } => {
                let held = self.held(layer)?;
                let bytes = body::from_tensors(&held.gradients);
                held.gradients.iter_mut().for_each(|gradient| gradient.data_mut().fill(0.0));
                Ok(replies(Reply::WeightGradients { layer }, &bytes)?)
            }
            Job::Weights { layer } => self.held(layer)?.set_weights(body),
            _ => Err(DeviceError::NotLoaded { job: job.name() }),
        }
    }

    fn held(&mut self, layer: usize) -> Result<&mut Held, DeviceError> {
        let limit = self.layers.len();
        self.layers.get_mut(layer).ok_or(DeviceError::Range { what: "layers", found: layer + 1, limit })
    }

    /// Leaves the products of all convolutions in the reply.
    fn convolve(
        &mut self,
        (layer, slot, records): (usize, usize, usize),
        body: &[u8],
    ) -> Result<(), DeviceError> {
        let Layers { records: most, products, training, .. } = *self;
        if records > most {
            return Err(DeviceError::Range { what: "records", found: records, limit: most });
        }
        let held = self.held(layer)?;
        held.take(slot, records, body)?;
        let Layers { layers, threads, numbers, reply, .. } = self;
        let held = &mut layers[layer];
        reply.clear();
        for (i, conv) in held.layer.convs.iter().enumerate() {
            let input = held.pieces[slot].view(&held.layer);
            let [k, h, w] = held.layer.output(i)?;
            numbers.resize(records * k * h * w, 0.0);
            let output = ViewMut { shape: Shape::from([k, h, w]).batched(records), data: numbers };
            conv.forward(Forward {
                inputs: &[input],
                params: &held.weights[i..=i],
                buffers: &mut [],
                output,
                saved: SavedMut { floats: &mut [], indices: &mut [] },
                mode: Mode::Eval,
                threads,
            });
            append_encoded(products, numbers, [k, h * w], reply);
        }
        if training {
            held.pieces[slot].due = held.layer.convs.len();
        }
        Ok(())
    }

    /// Adds one convolution's part to the gradient of a piece's input.
    fn differentiate(
        &mut self,
        (layer, slot, records): (usize, usize, usize),
        conv: usize,
        body: &[u8],
    ) -> Result<(), DeviceError> {
        let products = self.products;
        self.held(layer)?;
        let Layers { layers, threads, numbers, .. } = self;
        let held = &mut layers[layer];
        held.check_slot(slot)?;
        let piece = &mut held.pieces[slot];
        if piece.due != conv + 1 || piece.records != records {
            return Err(DeviceError::NothingWaits);
        }
        let [k, h, w] = held.layer.output(conv)?;
        decode(products, body, records, [k, h * w], numbers)?;
        let first = piece.due == held.layer.convs.len();
        piece.due = conv;
        piece.gradient.resize(piece.input.len(), 0.0);
        let Piece { input, gradient, .. } = piece;
        let into = GradInput { data: gradient, accumulate: !first };
        let shapes = [input_shape(&held.layer, records), Shape::from([k, h, w]).batched(records)];
        backward(
            &held.layer.convs[conv],
            input,
            &held.weights[conv],
            numbers,
            shapes,
            Some(into),
            &mut [],
            threads,
        );
        Ok(())
    }

    fn encode_gradient(&mut self, layer: usize, slot: usize) {
        let held = &self.layers[layer];
        let [c, h, w] = held.layer.input;
        self.reply.clear();
        append_encoded(self.products, &held.pieces[slot].gradient, [c, h * w], &mut self.reply);
    }

    /// Adds the gradient of a convolution's weights for the piece whose gradients were last decoded.
    fn add_weight_gradient(&mut self, layer: usize, slot: usize, conv: usize) {
        let Layers { layers, threads, numbers, .. } = self;
        let Held { layer, weights, gradients, pieces } = &mut layers[layer];
        let records = pieces[slot].records;
        let output = layer.output(conv).expect("its gradients fitted");
        let shapes = [input_shape(layer, records), Shape::from(output).batched(records)];
        let mut own = [Tensor::zeros(weights[conv].shape())];
        let input = &pieces[slot].input;
        backward(&layer.convs[conv], input, &weights[conv], numbers, shapes, None, &mut own, threads);
        gradients[conv].data_mut().iter_mut().zip(own[0].data()).for_each(|(sum, own)| *sum += own);
    }
}

impl Held {
    fn new<'a>(layer: &Layer, slots: usize, body: &'a [u8]) -> Result<(Self, &'a [u8]), DeviceError> {
        const SLOTS: usize = 1 << 16;
        if slots > SLOTS {
            return Err(DeviceError::Range { what: "slots", found: slots, limit: SLOTS });
        }
        for conv in 0..layer.convs.len() {
            layer.output(conv)?;
        }
        let shapes = layer.convs.iter().map(|conv| conv.params()[0].shape);
        let (weights, rest) = body::take_tensors(body, shapes)?;
        let gradients = weights.iter().map(|weight| Tensor::zeros(weight.shape())).collect();
        let pieces = vec![Piece::default(); slots];
        Ok((Held { layer: layer.clone(), weights, gradients, pieces }, rest))
    }

    fn check_slot(&self, slot: usize) -> Result<(), DeviceError> {
        let limit = self.pieces.len();
        if slot < limit { Ok(()) } else { Err(DeviceError::Range { what: "slots", found: slot + 1, limit }) }
    }

    /// Takes the residuals of a piece.
    fn take(&mut self, slot: usize, records: usize, body: &[u8]) -> Result<(), DeviceError> {
        self.check_slot(slot)?;
        let [c, h, w] = self.layer.input;
        let piece = &mut self.pieces[slot];
        piece.records = records;
        piece.due = 0;
        decode(self.layer.residual, body, records, [c, h * w], &mut piece.input)
    }

    fn set_weights(&mut self, body: &[u8]) -> Result<(), DeviceError> {
        let (weights, rest) = body::take_tensors(body, self.weights.iter().map(Tensor::shape))?;
        if !rest.is_empty() {
            return Err(WireError::Body { expected: body.len() - rest.len(), found: body.len() }.into());
        }
        self.weights = weights;
        Ok(())
    }
}

impl Piece {
    fn view(&self, layer: &Layer) -> View<'_> {
        View { shape: input_shape(layer, self.records), data: &self.input }
    }
}

fn input_shape(layer: &Layer, records: usize) -> Shape {
    Shape::from(layer.input).batched(records)
}

/// One of both gradients of a convolution.
#[allow(clippy::too_many_arguments)]
fn backward(
    conv: &Conv2d,
    input: &[f32],
    weight: &Tensor,
    gradient: &[f32],
    [input_shape, output]: [Shape; 2],
    grad_input: Option<GradInput<'_>>,
    grad_params: &mut [Tensor],
    threads: &Threads,
) {
    conv.backward(Backward {
        inputs: &[View { shape: input_shape, data: input }],
        params: std::slice::from_ref(weight),
        buffers: &[],
        output: View { shape: output, data: &[] },
        grad_output: View { shape: output, data: gradient },
        saved: Saved { floats: &[], indices: &[] },
        grad_inputs: &mut [grad_input],
        grad_params,
        mode: Mode::Eval,
        threads,
    });
}

/// The numbers of `records` records in place of what is in `numbers`.
fn decode(
    format: Format,
    body: &[u8],
    records: usize,
    [channels, plane]: [usize; 2],
    numbers: &mut Vec<f32>,
) -> Result<(), DeviceError> {
    let each = format.encoded_len(channels, plane);
    let expected = records.saturating_mul(each);
    if body.len() != expected {
        return Err(WireError::Body { expected, found: body.len() }.into());
    }
    numbers.resize(records * channels * plane, 0.0);
    let finite = body
        .chunks_exact(each.max(1))
        .zip(numbers.chunks_exact_mut((channels * plane).max(1)))
        .fold(true, |finite, (bytes, numbers)| format.decode(bytes, channels, numbers) && finite);
    if finite { Ok(()) } else { Err(DeviceError::BodyNotFinite) }
}

/// Appends the bytes of records.
fn append_encoded(format: Format, numbers: &[f32], [channels, plane]: [usize; 2], bytes: &mut Vec<u8>) {
    let (begin, each) = (bytes.len(), format.encoded_len(channels, plane));
    let records = numbers.len() / (channels * plane).max(1);
    bytes.resize(begin + records * each, 0);
    let numbers = numbers.chunks_exact((channels * plane).max(1));
    for (numbers, bytes) in numbers.zip(bytes[begin..].chunks_exact_mut(each.max(1))) {
        format.encode(numbers, channels, bytes);
    }
}
