//! What is under way between the enclave and the accelerator: pieces of a batch, asked for ahead and answered in order.

use std::collections::{HashMap, VecDeque};

use ledger::{Digest, Kind};
use mechanism::{Permissions, Public};
use tensor::Tensor;
use wire::accelerator::Job;
use wire::body;
use wire::layers::{Layer, Outsourcing};

use crate::RunError;
use crate::accelerator::{Accelerator, Body};
use crate::host::ReplyBody;

/// An answer that something waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// Products of all convolutions of a layer, for one piece.
    Products { layer: usize, slot: usize },
    /// The gradient of a layer's input, for one piece.
    InputGradients { layer: usize, slot: usize },
    /// The gradients of a layer's weights.
    WeightGradients { layer: usize },
}

/// An accelerator that holds the convolutions of an [`Outsourcing`].
pub(crate) struct Exchange {
    link: Accelerator,
    spec: Outsourcing,
    permissions: Permissions,
    /// Jobs without an answer yet, in order.
    pending: VecDeque<(Job, Option<Answer>)>,
    /// Bodies that came before they were asked for.
    arrived: HashMap<Answer, Box<dyn ReplyBody>>,
    /// Digest of all that the accelerator answered, where noise depends on it.
    transcript: Option<Digest>,
}

/// Whether weights were changed by private records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// As the owner named them, or from the public seed.
    Initial,
    Trained,
}

/// Bytes of answers that may be under way at once: those of the largest layer, and the gradients of all weights.
pub(crate) fn answers(spec: &Outsourcing) -> usize {
    let gradients: usize = spec.layers.iter().map(|layer| 4 * layer.weights_len()).sum();
    let largest = spec.layers.iter().map(|layer| {
        let products: usize = (0..layer.convs.len()).map(|conv| product_len(spec, layer, conv)).sum();
        products.max(layer.gradient_len(spec.products))
    });
    let records = spec.records * spec.slots;
    records * largest.max().unwrap_or(0) + if spec.training { gradients } else { 0 }
}

/// Bytes that may be sent before they are read: those of a batch in the largest layer, and all weights.
pub(crate) fn questions(spec: &Outsourcing) -> usize {
    let weights: usize = spec.layers.iter().map(|layer| 4 * layer.weights_len()).sum();
    let largest = spec.layers.iter().map(|layer| {
        let gradients: usize = (0..layer.convs.len()).map(|conv| product_len(spec, layer, conv)).sum();
        layer.residual_len().max(if spec.training { gradients } else { 0 })
    });
    2 * spec.records * spec.slots * largest.max().unwrap_or(0) + if spec.training { weights } else { 0 }
}

/// Bytes of what a convolution makes of one record.
fn product_len(spec: &Outsourcing, layer: &Layer, conv: usize) -> usize {
    let [k, h, w] = layer.output(conv).expect("the enclave planned it");
    spec.products.encoded_len(k, h * w)
}

/// A body as it is now, which is what the transcript knows of it.
fn noted(transcript: &mut Digest, body: &dyn ReplyBody) -> Box<dyn ReplyBody> {
    let mut bytes = vec![0; body.len()];
    body.read(0, &mut bytes);
    *transcript = Digest::of("asymflow transcript v1", &[&transcript.0, &bytes]);
    Box::new(bytes)
}

/// Weights as they may leave.
fn weights_body(permissions: &Permissions, bytes: Vec<u8>, origin: Weights) -> Result<Box<Body>, RunError> {
    Ok(match origin {
        Weights::Initial => {
            let reason =
                "weights of outsourced convolutions: from the public seed, or the weights the owner named";
            Box::new(Public::declare(Kind::Parameters, bytes, reason)?)
        }
        Weights::Trained => Box::new(permissions.allow(Kind::WeightUpdates, bytes)?),
    })
}

impl Exchange {
    /// Gives the accelerator its convolutions; `weights` of all, layer by layer.
    pub(crate) fn open<'a>(
        link: Accelerator,
        spec: Outsourcing,
        permissions: Permissions,
        weights: impl IntoIterator<Item = &'a Tensor>,
        origin: Weights,
    ) -> Result<Self, RunError> {
        let mut exchange = Exchange {
            link,
            spec,
            permissions,
            pending: VecDeque::new(),
            arrived: HashMap::new(),
            transcript: None,
        };
        let (outward, inward) = (questions(&exchange.spec), answers(&exchange.spec));
        if !exchange.link.share(outward, inward)? {
            exchange.link.read_ahead(inward);
        }
        let body = weights_body(&exchange.permissions, body::from_tensors(weights), origin)?;
        let job = Job::Outsource(Box::new(exchange.spec.clone()));
        exchange.ask(job, &*body, 0, None)?;
        exchange.settle()?;
        Ok(exchange)
    }

    pub(crate) fn spec(&self) -> &Outsourcing {
        &self.spec
    }

    /// From here on all answers go into a digest.
    pub(crate) fn set_transcript(&mut self, transcript: Digest) {
        self.transcript = Some(transcript);
    }

    /// Digest of all answers so far.
    pub(crate) fn transcript(&self) -> Option<Digest> {
        self.transcript
    }

    pub(crate) fn link_mut(&mut self) -> &mut Accelerator {
        &mut self.link
    }

    /// Sends residuals; their products are an answer.
    pub(crate) fn convolve(
        &mut self,
        (layer, slot, records): (usize, usize, usize),
        residuals: &Body,
    ) -> Result<(), RunError> {
        let job = Job::Convolve { layer, slot, records };
        self.ask(job, residuals, records, Some(Answer::Products { layer, slot }))
    }

    /// Sends the gradients of a convolution's products, whose memory stays; after those of the layer's first, the gradient of
    /// its input is an answer.
    pub(crate) fn differentiate(
        &mut self,
        (layer, conv, slot, records): (usize, usize, usize, usize),
        gradients: &mut Vec<u8>,
    ) -> Result<(), RunError> {
        let body = self.permissions.allow(Kind::OutputGradients, std::mem::take(gradients))?;
        let job = Job::Differentiate { layer, conv, slot, records };
        let answer = (conv == 0).then_some(Answer::InputGradients { layer, slot });
        let asked = self.ask(job, &body, records, answer);
        *gradients = body.into_inner();
        asked
    }

    /// Sends residuals without noise, whose memory stays; their products are an answer.
    pub(crate) fn convolve_plain(
        &mut self,
        piece: (usize, usize, usize),
        residuals: &mut Vec<u8>,
    ) -> Result<(), RunError> {
        let body = self.permissions.allow(Kind::PlainResiduals, std::mem::take(residuals))?;
        let asked = self.convolve(piece, &body);
        *residuals = body.into_inner();
        asked
    }

    /// Asks for the gradients of a layer's weights, summed over pieces.
    pub(crate) fn ask_weight_gradients(&mut self, layer: usize) -> Result<(), RunError> {
        let answer = Some(Answer::WeightGradients { layer });
        self.link.submit(&Job::WeightGradients { layer })?;
        self.pending.push_back((Job::WeightGradients { layer }, answer));
        Ok(())
    }

    /// Sends a layer's weights, in the order of its convolutions, by way of `bytes`.
    pub(crate) fn send_weights<'a>(
        &mut self,
        layer: usize,
        weights: impl IntoIterator<Item = &'a Tensor>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), RunError> {
        bytes.clear();
        weights.into_iter().for_each(|weight| body::append_f32(bytes, weight.data()));
        let body = self.permissions.allow(Kind::WeightUpdates, std::mem::take(bytes))?;
        let asked = self.ask(Job::Weights { layer }, &body, 0, None);
        *bytes = body.into_inner();
        asked
    }

    /// The body of an answer; waits for it.
    pub(crate) fn take(&mut self, answer: Answer) -> Result<Box<dyn ReplyBody>, RunError> {
        while !self.arrived.contains_key(&answer) {
            self.receive_one()?;
        }
        Ok(self.arrived.remove(&answer).expect("it arrived"))
    }

    /// Takes back the body of an answer that is to be read again.
    pub(crate) fn keep(&mut self, answer: Answer, body: Box<dyn ReplyBody>) {
        self.arrived.insert(answer, body);
    }

    /// Waits until nothing is under way; what came and nobody took is forgotten.
    pub(crate) fn settle(&mut self) -> Result<(), RunError> {
        while !self.pending.is_empty() {
            self.receive_one()?;
        }
        self.arrived.clear();
        Ok(())
    }

    fn ask(&mut self, job: Job, body: &Body, records: usize, answer: Option<Answer>) -> Result<(), RunError> {
        self.link.submit_with(&job, body, records)?;
        self.pending.push_back((job, answer));
        Ok(())
    }

    fn receive_one(&mut self) -> Result<(), RunError> {
        let (job, answer) =
            self.pending.pop_front().expect("an answer is waited for only after it was asked for");
        if let Some(answer) = answer {
            let body = self.link.layer_body(&job, self.length(&job))?;
            let body = match &mut self.transcript {
                Some(transcript) => noted(transcript, &*body),
                None => body,
            };
            self.arrived.insert(answer, body);
        }
        self.link.done(&job)
    }

    /// Bytes that a job is answered with.
    fn length(&self, job: &Job) -> usize {
        let products = self.spec.products;
        match *job {
            Job::Convolve { layer, records, .. } => {
                let layer = &self.spec.layers[layer];
                records
                    * (0..layer.convs.len()).map(|conv| product_len(&self.spec, layer, conv)).sum::<usize>()
            }
            Job::Differentiate { layer, records, .. } => {
                records * self.spec.layers[layer].gradient_len(products)
            }
            Job::WeightGradients { layer } => 4 * self.spec.layers[layer].weights_len(),
            _ => 0,
        }
    }
}
