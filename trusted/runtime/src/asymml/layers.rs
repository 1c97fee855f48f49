//! The places of a rewritten graph: what stays here of each split and each convolution, and what is exchanged for the rest.

use std::ops::Range;

use engine::Elsewhere;
use kernels::compact::Format;
use kernels::conv_norm_relu::ConvNormRelu;
use kernels::trace::Work;
use kernels::{Backward, Forward, Mode, Operator, Saved, SavedMut, Threads};
use split::{Finding, SharedBasis, add_kernel_gradient, transform_kernels};
use tensor::{Tensor, View, ViewMut};
use wire::spec::{Asymml, Side};

use super::decode::decode;
use super::exchange::{Answer, Exchange};
use super::noise::Noise;
use super::rewrite::{LayerPlan, Place};
use crate::RunError;
use crate::error::AcceleratorError;
use crate::flow::request;

/// Training steps between observations of the running basis.
const OBSERVE_EVERY: u64 = 8;

/// Everything that is computed at places.
pub(crate) struct Layers {
    places: Vec<Place>,
    layers: Vec<Layer>,
    settings: Settings,
    exchange: Option<Exchange>,
    noise: Option<Noise>,
    /// Whether residuals are left out, on both sides.
    alone: bool,
    /// What failed first; nothing is done after it.
    error: Option<RunError>,
    /// Updates of the weights so far.
    version: u64,
    /// One piece of residuals or gradients, encoded.
    bytes: Vec<u8>,
}

/// How pieces are exchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Records in a piece.
    pub(crate) piece: usize,
    pub(crate) residual: Format,
    pub(crate) products: Format,
    /// Whether gradients of outputs stay here, and with them both gradients of every convolution.
    pub(crate) own_gradients: bool,
}

/// What is held of one layer.
struct Layer {
    plan: LayerPlan,
    /// Of the batch that was split last: `[N, C, r]`, or `[C, r]` where it is shared.
    bases: Vec<f32>,
    shared: Option<SharedBasis>,
    /// Of each convolution.
    convs: Vec<Conv>,
    /// Convolutions that have not read the products of each piece yet.
    unread: Vec<usize>,
}

/// What is held of one convolution of `V`.
struct Conv {
    /// Parameters of the operator: the narrow weights `W·U` `[K, r, kh, kw]`, then bias, and the norm's.
    params: Vec<Tensor>,
    /// What the narrow weights were made of last, where the basis is shared.
    made_of: Option<u64>,
    gradient: Tensor,
}

impl Settings {
    /// For batches of up to `batch` records; by default in four pieces.
    pub(crate) fn of(asymml: &Asymml, batch: usize) -> Self {
        Settings {
            piece: asymml.piece.unwrap_or(batch.div_ceil(4)).clamp(1, batch.max(1)),
            residual: asymml.residuals,
            products: asymml.products,
            own_gradients: asymml.backward == Side::Enclave,
        }
    }
}

impl Layers {
    pub(crate) fn new(places: Vec<Place>, plans: Vec<LayerPlan>, settings: Settings) -> Self {
        let layers = plans.into_iter().map(Layer::new).collect();
        Layers {
            places,
            layers,
            settings,
            exchange: None,
            noise: None,
            alone: false,
            error: None,
            version: 0,
            bytes: Vec::new(),
        }
    }

    pub(crate) fn plans(&self) -> impl Iterator<Item = &LayerPlan> {
        self.layers.iter().map(|layer| &layer.plan)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// From now on residuals go to this accelerator, with noise if there is some.
    pub(crate) fn connect(&mut self, exchange: Exchange, noise: Option<Noise>) {
        (self.exchange, self.noise, self.alone) = (Some(exchange), noise, false);
        self.error = None;
    }

    /// From now on residuals are left out (or not): what the low-rank parts amount to alone.
    pub(crate) fn set_alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    pub(crate) fn noise_mut(&mut self) -> Option<&mut Noise> {
        self.noise.as_mut()
    }

    pub(crate) fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        self.exchange.as_mut()
    }

    /// Gives up the accelerator.
    pub(crate) fn disconnect(&mut self) {
        (self.exchange, self.noise) = (None, None);
    }

    /// What failed since this was last asked.
    pub(crate) fn check(&mut self) -> Result<(), RunError> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// The weights have changed.
    pub(crate) fn weights_changed(&mut self) {
        self.version += 1;
    }

    /// Running bases, for a checkpoint.
    pub(crate) fn bases(&self) -> Vec<Vec<f32>> {
        self.layers
            .iter()
            .map(|layer| layer.shared.as_ref().map(SharedBasis::state).unwrap_or_default())
            .collect()
    }

    /// Goes on from the running bases of a checkpoint after so many updates.
    pub(crate) fn restore_bases(&mut self, states: &[Vec<f32>], updates: u64) -> Result<(), RunError> {
        self.version = updates;
        if states.len() != self.layers.len() {
            return Err(RunError::Request(
                "the checkpoint belongs to another placement of layers".to_owned(),
            ));
        }
        for (layer, state) in self.layers.iter_mut().zip(states) {
            if let Some(shared) = &mut layer.shared {
                shared.restore(state).map_err(request)?;
            }
            layer.forget_weights();
        }
        Ok(())
    }

    /// Adds the accelerator's part to the gradients of weights; `gradients` as the model's parameters.
    pub(crate) fn add_weight_gradients(&mut self, gradients: &mut [Tensor]) -> Result<(), RunError> {
        let Some(exchange) = self.exchange.as_mut().filter(|_| !self.settings.own_gradients) else {
            return Ok(());
        };
        for (l, layer) in self.layers.iter().enumerate().rev() {
            let body = exchange.take(Answer::WeightGradients { layer: l })?;
            let mut at = 0;
            for &param in &layer.plan.weights {
                let gradient = gradients[param].data_mut();
                let len = gradient.len();
                if !decode(Format::F32, &*body, at, [1, len], true, gradient) {
                    return Err(AcceleratorError::NotFinite { what: "gradient of weights" }.into());
                }
                at += 4 * len;
            }
        }
        Ok(())
    }

    /// Sends all weights; `params` as the model's.
    pub(crate) fn send_weights(&mut self, params: &[Tensor]) -> Result<(), RunError> {
        let Layers { layers, exchange: Some(exchange), bytes, .. } = self else { return Ok(()) };
        for (l, layer) in layers.iter().enumerate() {
            exchange.send_weights(l, layer.plan.weights.iter().map(|&at| &params[at]), bytes)?;
        }
        Ok(())
    }

    fn split(&mut self, layer: usize, pass: Forward<'_>) -> Result<(), RunError> {
        let Layers { layers, settings, exchange, noise, alone, version, bytes, .. } = self;
        let (state, threads, x) = (&mut layers[layer], pass.threads, pass.inputs[0]);
        let records = x.shape.dims()[0];
        state.prepare_bases(x, (pass.mode, *version), settings.piece, threads);
        let split = state.plan.split.clone();
        // Noise is added to numbers that are not rounded yet.
        let format = if noise.is_some() { Format::F32 } else { settings.residual };
        let each = state.plan.residual_len(format);
        let receipt = match noise.as_mut().filter(|_| !*alone) {
            Some(noise) => {
                let transcript = connected(exchange)?.transcript().expect("set with the noise");
                Some(noise.charge(layer, transcript)?)
            }
            None => None,
        };
        let low = split.principal_shape().len();
        for (slot, range) in pieces(records, settings.piece).enumerate() {
            let part = records_of(x, range.clone());
            let principal = &mut pass.output.data[range.start * low..range.end * low];
            let bases = state.bases_of(range.clone());
            if *alone {
                split.forward(threads, part, bases, principal, None).map_err(request)?;
                continue;
            }
            bytes.resize(range.len() * each, 0);
            let residual = Some((format, bytes.as_mut_slice()));
            split.forward(threads, part, bases, principal, residual).map_err(request)?;
            let (piece, exchange) = ((layer, slot, range.len()), connected(exchange)?);
            match (noise.as_mut(), &receipt) {
                (Some(noise), Some(receipt)) => {
                    let begin = threads.span_begin();
                    let message =
                        noise.release(layer, receipt, (range.start, range.len()), bytes, threads)?;
                    threads.span_end(Work::Release, begin);
                    exchange.convolve(piece, &message)?;
                }
                _ => exchange.convolve_plain(piece, bytes)?,
            }
            state.unread[slot] = state.convs.len();
        }
        Ok(())
    }

    fn split_backward(&mut self, layer: usize, pass: Backward<'_>) -> Result<(), RunError> {
        let Layers { layers, settings, exchange, .. } = self;
        let Some(grad) = &mut pass.grad_inputs[0] else { return Ok(()) };
        // Computed here already, with the convolution's.
        if settings.own_gradients {
            return Ok(());
        }
        let [c, h, w] = layers[layer].plan.input();
        let (exchange, len) = (connected(exchange)?, c * h * w);
        for (slot, range) in pieces(pass.inputs[0].shape.dims()[0], settings.piece).enumerate() {
            let begin = pass.threads.span_begin();
            let body = exchange.take(Answer::InputGradients { layer, slot })?;
            pass.threads.span_end(Work::Wait, begin);
            let data = &mut grad.data[range.start * len..range.end * len];
            if !decode(settings.products, &*body, 0, [c, h * w], grad.accumulate, data) {
                return Err(AcceleratorError::NotFinite { what: "gradient of an input" }.into());
            }
        }
        Ok(())
    }

    fn conv(
        &mut self,
        (layer, conv): (usize, usize),
        onto: &ConvNormRelu,
        pass: Forward<'_>,
    ) -> Result<(), RunError> {
        let Layers { layers, settings, exchange, alone, version, .. } = self;
        let state = &mut layers[layer];
        let (v, threads) = (pass.inputs[0], pass.threads);
        let [k, h, w] = state.plan.output(conv);
        let len = k * h * w;
        state.prepare_params(conv, pass.params, *version, threads);
        for (slot, range) in pieces(v.shape.dims()[0], settings.piece).enumerate() {
            let y = &mut pass.output.data[range.start * len..range.end * len];
            if *alone {
                y.fill(0.0);
            } else {
                state.take_products(
                    connected(exchange)?,
                    (layer, conv, slot),
                    settings.products,
                    y,
                    threads,
                )?;
            }
            for group in state.groups(range) {
                state.narrow_group(conv, &group, pass.params, threads);
                let inputs: Vec<View<'_>> = pass
                    .inputs
                    .iter()
                    .take(1 + usize::from(onto.add))
                    .map(|input| records_of(*input, group.clone()))
                    .collect();
                let shape = pass.output.shape.with_batch(group.len());
                onto.forward_onto(Forward {
                    inputs: &inputs,
                    params: &state.convs[conv].params,
                    buffers: &mut *pass.buffers,
                    output: ViewMut {
                        shape,
                        data: &mut pass.output.data[group.start * len..group.end * len],
                    },
                    saved: SavedMut { floats: &mut [], indices: &mut [] },
                    mode: pass.mode,
                    threads,
                });
            }
        }
        Ok(())
    }

    fn conv_backward(
        &mut self,
        (layer, conv): (usize, usize),
        onto: &ConvNormRelu,
        mut pass: Backward<'_>,
    ) -> Result<(), RunError> {
        if self.settings.own_gradients {
            self.layers[layer].whole_backward(conv, onto, pass);
            return Ok(());
        }
        let Layers { layers, settings, exchange, bytes, .. } = self;
        let (state, exchange) = (&mut layers[layer], connected(exchange)?);
        let g = pass.grad_output;
        let [k, h, w] = state.plan.output(conv);
        let (len, each) = (k * h * w, settings.products.encoded_len(k, h * w));
        for (slot, range) in pieces(g.shape.dims()[0], settings.piece).enumerate() {
            bytes.resize(range.len() * each, 0);
            let records = g.data[range.start * len..range.end * len].chunks_exact(len);
            records
                .zip(bytes.chunks_exact_mut(each))
                .for_each(|(g, bytes)| settings.products.encode(g, k, bytes));
            exchange.differentiate((layer, conv, slot, range.len()), bytes)?;
        }
        if conv == 0 {
            exchange.ask_weight_gradients(layer)?;
        }
        // While the accelerator is at its part.
        state.weight_gradient(conv, onto, &mut pass);
        Ok(())
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> Result<(), RunError>) {
        if self.error.is_none() {
            self.error = work(self).err();
        }
    }
}

impl Elsewhere for Layers {
    fn forward(&mut self, place: usize, pass: Forward<'_>) {
        match self.places[place].clone() {
            Place::Split { layer } => self.attempt(|layers| layers.split(layer, pass)),
            Place::Conv { layer, conv, onto } => {
                self.attempt(|layers| layers.conv((layer, conv), &onto, pass))
            }
        }
    }

    fn backward(&mut self, place: usize, pass: Backward<'_>) {
        match self.places[place].clone() {
            Place::Split { layer } => self.attempt(|layers| layers.split_backward(layer, pass)),
            Place::Conv { layer, conv, onto } => {
                self.attempt(|layers| layers.conv_backward((layer, conv), &onto, pass));
            }
        }
    }
}

impl Layer {
    fn new(plan: LayerPlan) -> Self {
        let rank = plan.split.rank();
        let shared =
            (plan.split.finding() == Finding::Shared).then(|| SharedBasis::new(plan.input()[0], rank));
        let conv = |conv: &kernels::conv2d::Conv2d| {
            let narrow = Tensor::zeros([conv.out_channels, rank, conv.kernel[0], conv.kernel[1]]);
            Conv { params: vec![narrow.clone()], made_of: None, gradient: narrow }
        };
        let convs = plan.convs.iter().map(conv).collect();
        Layer { plan, bases: Vec::new(), shared, convs, unread: Vec::new() }
    }

    fn forget_weights(&mut self) {
        self.convs.iter_mut().for_each(|conv| conv.made_of = None);
    }

    /// Makes room for a batch's bases; a shared one moves with what it sees in training, every few steps.
    fn prepare_bases(&mut self, x: View<'_>, (mode, version): (Mode, u64), piece: usize, threads: &Threads) {
        let records = x.shape.dims()[0];
        let ([c, ..], rank) = (self.plan.input(), self.plan.split.rank());
        self.unread.resize(records.div_ceil(piece.max(1)), 0);
        self.bases.resize(self.plan.split.bases(records) * c * rank, 0.0);
        let Some(shared) = &mut self.shared else { return };
        if matches!(mode, Mode::Train { .. }) && version.is_multiple_of(OBSERVE_EVERY) {
            shared.observe(threads, records_of(x, 0..piece.min(records)));
            self.convs.iter_mut().for_each(|conv| conv.made_of = None);
        }
        self.bases.copy_from_slice(shared.basis());
    }

    fn bases_of(&mut self, records: Range<usize>) -> &mut [f32] {
        match self.shared {
            Some(_) => &mut self.bases,
            None => {
                let each = self.plan.input()[0] * self.plan.split.rank();
                &mut self.bases[records.start * each..records.end * each]
            }
        }
    }

    /// Records that are convolved at once: those of one basis.
    fn groups(&self, records: Range<usize>) -> Vec<Range<usize>> {
        match self.shared {
            Some(_) => vec![records],
            None => records.map(|record| record..record + 1).collect(),
        }
    }

    /// Puts what the accelerator made of one piece into `y` `[records, K, H', W']`.
    fn take_products(
        &mut self,
        exchange: &mut Exchange,
        (layer, conv, slot): (usize, usize, usize),
        products: Format,
        y: &mut [f32],
        threads: &Threads,
    ) -> Result<(), RunError> {
        let begin = threads.span_begin();
        let answer = Answer::Products { layer, slot };
        let body = exchange.take(answer)?;
        threads.span_end(Work::Wait, begin);
        let [k, h, w] = self.plan.output(conv);
        let len = k * h * w;
        let own = self.bytes_before(conv, products) * (y.len() / len);
        if !decode(products, &*body, own, [k, h * w], false, y) {
            return Err(AcceleratorError::NotFinite { what: "product" }.into());
        }
        self.unread[slot] -= 1;
        if self.unread[slot] > 0 {
            exchange.keep(answer, body);
        }
        Ok(())
    }

    /// Bytes of a record's products of the convolutions before this one.
    fn bytes_before(&self, conv: usize, products: Format) -> usize {
        let bytes = |conv| {
            let [k, h, w] = self.plan.output(conv);
            products.encoded_len(k, h * w)
        };
        (0..conv).map(bytes).sum()
    }

    /// The operator's parameters but for the weights; the weights too where they serve all records.
    fn prepare_params(&mut self, conv: usize, params: &[Tensor], version: u64, threads: &Threads) {
        let shared = self.shared.is_some();
        let state = &mut self.convs[conv];
        // In inference there are those of the norm, too.
        state.params.truncate(params.len());
        let missing = state.params.len()..params.len();
        state.params.extend(params[missing].iter().cloned());
        for (own, given) in state.params.iter_mut().zip(params).skip(1) {
            own.data_mut().copy_from_slice(given.data());
        }
        if shared && state.made_of != Some(version) {
            self.narrow_weights(conv, 0, params, threads);
            self.convs[conv].made_of = Some(version);
        }
    }

    /// The weights for a group of records, where each has a basis of its own.
    fn narrow_group(&mut self, conv: usize, group: &Range<usize>, params: &[Tensor], threads: &Threads) {
        if self.shared.is_none() {
            self.narrow_weights(conv, group.start, params, threads);
        }
    }

    fn narrow_weights(&mut self, conv: usize, basis: usize, params: &[Tensor], threads: &Threads) {
        let sizes = self.sizes(conv);
        let (rank, each) = (self.plan.split.rank(), sizes[1] * self.plan.split.rank());
        let basis = &self.bases[basis * each..][..each];
        let narrow = self.convs[conv].params[0].data_mut();
        transform_kernels(threads, params[0].data(), sizes, basis, rank, narrow);
    }

    /// `[K, C, groups, taps]`.
    fn sizes(&self, conv: usize) -> [usize; 4] {
        let conv = &self.plan.convs[conv];
        [conv.out_channels, conv.in_channels, conv.groups, conv.kernel[0] * conv.kernel[1]]
    }

    /// The enclave's part of the gradients of a convolution's weights, and of its bias all.
    fn weight_gradient(&mut self, conv: usize, onto: &ConvNormRelu, pass: &mut Backward<'_>) {
        let (v, g, threads) = (pass.inputs[0], pass.grad_output, pass.threads);
        let Some((weight, bias)) = pass.grad_params.split_first_mut() else { return };
        weight.data_mut().fill(0.0);
        bias.iter_mut().for_each(|bias| bias.data_mut().fill(0.0));
        let (sizes, rank) = (self.sizes(conv), self.plan.split.rank());
        let each = sizes[1] * rank;
        for group in self.groups(0..g.shape.dims()[0]) {
            let basis = if self.shared.is_some() { 0 } else { group.start };
            let Layer { bases, convs, .. } = self;
            let own = &mut convs[conv].gradient;
            let mut grads = vec![std::mem::take(own)];
            grads.extend(bias.iter().map(|bias| Tensor::zeros(bias.shape())));
            onto.conv.backward(Backward {
                inputs: &[records_of(v, group.clone())],
                params: &convs[conv].params,
                buffers: &[],
                output: View { shape: g.shape.with_batch(group.len()), data: &[] },
                grad_output: records_of(g, group),
                saved: Saved { floats: &[], indices: &[] },
                grad_inputs: &mut [None],
                grad_params: &mut grads,
                mode: pass.mode,
                threads,
            });
            let basis = &bases[basis * each..][..each];
            add_kernel_gradient(threads, grads[0].data(), sizes, basis, rank, weight.data_mut());
            for (sum, own) in bias.iter_mut().zip(&grads[1..]) {
                sum.data_mut().iter_mut().zip(own.data()).for_each(|(sum, own)| *sum += own);
            }
            convs[conv].gradient = std::mem::take(&mut grads[0]);
        }
    }

    /// Both gradients of a convolution from its whole input, which comes after `V`.
    fn whole_backward(&self, conv: usize, onto: &ConvNormRelu, pass: Backward<'_>) {
        let whole = kernels::conv2d::Conv2d { bias: onto.conv.bias, ..self.plan.convs[conv].clone() };
        let [_, input] = pass.inputs else { unreachable!("planned with its whole input") };
        let [_, grad_input] = pass.grad_inputs else { unreachable!("as many as inputs") };
        let mut grad_inputs = [grad_input.take()];
        whole.backward(Backward { inputs: &[*input], grad_inputs: &mut grad_inputs, ..pass });
    }
}

fn connected(exchange: &mut Option<Exchange>) -> Result<&mut Exchange, RunError> {
    let gone = "a convolution's residual has nowhere to go: no accelerator is connected";
    exchange.as_mut().ok_or_else(|| RunError::Request(gone.to_owned()))
}

/// The pieces of a batch.
fn pieces(records: usize, piece: usize) -> impl Iterator<Item = Range<usize>> {
    let piece = piece.max(1);
    (0..records).step_by(piece).map(move |first| first..(first + piece).min(records))
}

/// Some records of a batch.
fn records_of<'a>(batch: View<'a>, records: Range<usize>) -> View<'a> {
    let len = batch.shape.record_len();
    // Where an operator does not read a value, its data is not there.
    let data = batch.data.get(records.start * len..records.end * len).unwrap_or_default();
    View { shape: batch.shape.with_batch(records.len()), data }
}
