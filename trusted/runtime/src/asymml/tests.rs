#![allow(clippy::unwrap_used)] // a test that fails says why

use std::collections::{HashMap, VecDeque};

use engine::{Elsewhere, Learner, OptimiserConfig, Pass, Rewritten};
use kernels::compact::Format;
use kernels::relu_max_pool::ReluMaxPool;
use kernels::{Backward, Forward, Fused, GradInput, Mode, Op, Operator, Saved, SavedMut, Threads};
use mechanism::Permissions;
use model::{Graph, Parameters, ValueId, zoo};
use split::Finding;
use tensor::compare::worst_relative;
use tensor::{Shape, Tensor, View};
use wire::WireError;
use wire::accelerator::{Job, Reply};
use wire::layers::{Layer, Outsourcing};

use super::calibrate::tapped;
use super::exchange::{Exchange, Weights};
use super::layers::Settings;
use super::model::LayeredModel;
use super::placements::{Placements, Split, candidates};
use super::rewrite::Placing;
use super::session::outsourcing;
use crate::accelerator::Accelerator;
use crate::flow::LayeredGraphs;
use crate::host::Transport;

/// An accelerator of the fewest words: every job is answered when it is sent.
#[derive(Default)]
struct Twin {
    spec: Option<Outsourcing>,
    /// By layer, then by convolution.
    weights: Vec<Vec<Tensor>>,
    gradients: Vec<Vec<Tensor>>,
    /// By layer and slot: what was sent, and the gradient of it so far.
    inputs: HashMap<(usize, usize), (Tensor, Tensor)>,
    replies: VecDeque<(Reply, Vec<u8>)>,
}

impl Twin {
    fn layer(&self, layer: usize) -> (&Layer, Format) {
        let spec = self.spec.as_ref().unwrap();
        (&spec.layers[layer], spec.products)
    }

    fn convolve(&mut self, (layer, slot, records): (usize, usize, usize), body: &[u8]) -> Vec<u8> {
        let (spec, products) = self.layer(layer);
        let x = decoded(spec.residual, spec.input, records, body);
        let mut bytes = Vec::new();
        for (i, conv) in spec.convs.iter().enumerate() {
            let output = spec.output(i).unwrap();
            let mut y = Tensor::zeros(Shape::from(output).batched(records));
            conv.forward(Forward {
                inputs: &[x.view()],
                params: &self.weights[layer][i..=i],
                buffers: &mut [],
                output: y.view_mut(),
                saved: SavedMut { floats: &mut [], indices: &mut [] },
                mode: Mode::Eval,
                threads: &Threads::new(1),
            });
            bytes.extend(encoded(products, output, &y));
        }
        self.inputs.insert((layer, slot), (x.clone(), Tensor::zeros(x.shape())));
        bytes
    }

    /// Adds one convolution's gradients; the input's so far.
    fn differentiate(
        &mut self,
        (layer, conv, slot, records): (usize, usize, usize, usize),
        body: &[u8],
    ) -> Vec<u8> {
        let (spec, products) = self.layer(layer);
        let (op, input, output) = (spec.convs[conv].clone(), spec.input, spec.output(conv).unwrap());
        let g = decoded(products, output, records, body);
        let (x, grad) = self.inputs.get_mut(&(layer, slot)).unwrap();
        let mut own = [Tensor::zeros(self.weights[layer][conv].shape())];
        op.backward(Backward {
            inputs: &[x.view()],
            params: &self.weights[layer][conv..=conv],
            buffers: &[],
            output: View { shape: g.shape(), data: &[] },
            grad_output: g.view(),
            saved: Saved { floats: &[], indices: &[] },
            grad_inputs: &mut [Some(GradInput { data: grad.data_mut(), accumulate: true })],
            grad_params: &mut own,
            mode: Mode::Eval,
            threads: &Threads::new(1),
        });
        let sum = self.gradients[layer][conv].data_mut();
        sum.iter_mut().zip(own[0].data()).for_each(|(sum, own)| *sum += own);
        encoded(products, input, &self.inputs[&(layer, slot)].1)
    }

    fn take_weights(&mut self, body: &[u8]) {
        let spec = self.spec.as_ref().unwrap();
        let shapes =
            |layer: &Layer| layer.convs.iter().map(|conv| conv.params()[0].shape).collect::<Vec<_>>();
        let mut rest = body;
        for layer in &spec.layers {
            let (weights, left) = wire::body::take_tensors(rest, shapes(layer)).unwrap();
            self.gradients.push(weights.iter().map(|weight| Tensor::zeros(weight.shape())).collect());
            self.weights.push(weights);
            rest = left;
        }
        assert!(rest.is_empty());
    }

    fn answer(&mut self, job: &Job, body: &[u8]) {
        let reply = match *job {
            Job::Outsource(ref spec) => {
                self.spec = Some((**spec).clone());
                self.take_weights(body);
                None
            }
            Job::Convolve { layer, slot, records } => {
                let bytes = self.convolve((layer, slot, records), body);
                Some((Reply::Products { layer, slot, records }, bytes))
            }
            Job::Differentiate { layer, conv, slot, records } => {
                let bytes = self.differentiate((layer, conv, slot, records), body);
                (conv == 0).then_some((Reply::InputGradients { layer, slot, records }, bytes))
            }
            Job::WeightGradients { layer } => {
                let bytes = wire::body::from_tensors(&self.gradients[layer]);
                Some((Reply::WeightGradients { layer }, bytes))
            }
            _ => None,
        };
        self.replies.extend(reply);
        self.replies.push_back((Reply::Done { cpu_seconds: 0.0, busy_seconds: 0.0 }, Vec::new()));
    }
}

fn decoded(format: Format, record: [usize; 3], records: usize, body: &[u8]) -> Tensor {
    let mut x = Tensor::zeros(Shape::from(record).batched(records));
    let each = format.encoded_len(record[0], record[1] * record[2]);
    let len = record.iter().product::<usize>();
    for (bytes, x) in body.chunks_exact(each).zip(x.data_mut().chunks_exact_mut(len)) {
        assert!(format.decode(bytes, record[0], x));
    }
    x
}

fn encoded(format: Format, record: [usize; 3], x: &Tensor) -> Vec<u8> {
    let each = format.encoded_len(record[0], record[1] * record[2]);
    let len = record.iter().product::<usize>();
    let one = |x: &[f32]| {
        let mut bytes = vec![0; each];
        format.encode(x, record[0], &mut bytes);
        bytes
    };
    x.data().chunks_exact(len).flat_map(one).collect()
}

impl Transport for Twin {
    fn send(&mut self, job: &Job, parts: &[&[u8]]) -> Result<(), WireError> {
        self.answer(job, &parts.concat());
        Ok(())
    }

    fn receive(&mut self, body: &mut Vec<u8>) -> Result<Reply, WireError> {
        let (reply, bytes) = self.replies.pop_front().ok_or(WireError::TimedOut)?;
        *body = bytes;
        Ok(reply)
    }
}

/// One case: a model, how it is split, and how it exchanges.
struct Case<'a> {
    graph: &'a Graph,
    parameters: Parameters,
    finding: Finding,
    settings: Settings,
    threads: usize,
}

const EXACT: Settings =
    Settings { piece: 2, residual: Format::F32, products: Format::F32, own_gradients: false };

/// A rank for every value: as small as 1, as large as all channels.
fn ranks(graph: &Graph, finding: Finding) -> Placements {
    let split = |(i, candidate): (usize, super::placements::Candidate)| {
        let [c, h, w] = candidate.shape;
        let convs = candidate.convs.iter().map(|&n| graph.nodes()[n].name.clone()).collect();
        Split { finding, rank: [c / 4, 1, c][i % 3].clamp(1, c.min(h * w)), convs }
    };
    Placements { splits: candidates(graph).into_iter().enumerate().map(split).collect() }
}

impl Case<'_> {
    /// The model, split and connected.
    fn layered(&self, batch: usize) -> LayeredModel {
        let placements = ranks(self.graph, self.finding);
        let mut placing = Placing::of(self.graph, &placements, self.settings.own_gradients).unwrap();
        assert_eq!(placing.layers.len(), placements.splits.len());
        placing.graphs.training = watched(&placing.graphs.training);
        let graphs = LayeredGraphs { placing, settings: self.settings };
        let mut model = LayeredModel::new(&graphs, self.parameters.clone(), &PLAIN_SGD, batch).unwrap();
        model.learner.take_memory(false);
        let spec = outsourcing(model.layers.plans(), &self.settings, (true, batch), self.threads);
        let allowed = ["plain-residuals", "output-gradients", "weight-updates"];
        let permissions = Permissions::from_names(allowed).unwrap();
        let params = &model.learner.parameters().params;
        let at: Vec<usize> = model.layers.plans().flat_map(|plan| plan.weights.clone()).collect();
        let weights = at.iter().map(|&at| &params[at]);
        let link = Accelerator::over(Box::new(Twin::default()));
        let exchange = Exchange::open(link, spec, permissions, weights, Weights::Initial).unwrap();
        model.layers.connect(exchange, None);
        model
    }

    fn whole(&self, batch: usize) -> Learner {
        let mut graphs = Rewritten::fused(self.graph);
        graphs.training = watched(&graphs.training);
        let mut learner = Learner::rewritten(graphs, self.parameters.clone(), PLAIN_SGD, batch).unwrap();
        learner.take_memory(false);
        learner
    }

    /// Worst relative errors of logits, the gradient of the input, and the gradients of weights, in training; `None` of
    /// gradients where an activation is on the other side of zero: they are another function's.
    fn training_errors(&self, records: usize, seed: u64) -> (f32, Option<[f32; 2]>) {
        let threads = Threads::new(self.threads);
        let (mut whole, mut layered) = (self.whole(records + 1), self.layered(records + 1));
        let images = random(records * self.graph.input().len(), seed);
        let grad = random(records * self.graph.classes(), seed + 1);
        let pass = Pass { records, mode: Mode::Train { seed: 7 } };
        whole.input_mut(records).copy_from_slice(&images);
        layered.learner.input_mut(records).copy_from_slice(&images);
        let mut nowhere = engine::Nowhere;
        let mut expected_signs = Watch { places: &mut nowhere, signs: Vec::new() };
        let expected = whole.forward_with(&mut expected_signs, pass, &threads).to_vec();
        let mut signs = Watch { places: &mut layered.layers, signs: Vec::new() };
        let found = layered.learner.forward_with(&mut signs, pass, &threads).to_vec();
        let same_signs = signs.signs == expected_signs.signs;
        layered.layers.check().unwrap();
        let logits = worst_relative(&found, &expected);
        whole.backward_with(&mut nowhere, &grad, pass, true, &threads);
        layered.learner.backward_with(&mut layered.layers, &grad, pass, true, &threads);
        layered.layers.check().unwrap();
        layered.layers.add_weight_gradients(layered.learner.gradients_mut()).unwrap();
        let (found, expected) = (layered.learner.grad_input(records), whole.grad_input(records));
        let (found, expected) = (found.unwrap(), expected.unwrap());
        assert!(expected.iter().any(|g| g.abs() > 1e-20), "no gradient reaches the images");
        let input = worst_relative(found, expected);
        let gradients = |learner: &mut Learner| learner.gradients_mut().to_vec();
        let (found, expected) = (gradients(&mut layered.learner), gradients(&mut whole));
        let most = expected.iter().map(largest).fold(0.0, f32::max);
        // The gradient of a bias before a batch norm is zero but for rounding.
        let compared = found.iter().zip(&expected).filter(|(_, expected)| largest(expected) > 1e-5 * most);
        let errors = compared.map(|(found, expected)| worst_relative(found.data(), expected.data()));
        (logits, same_signs.then_some([input, errors.fold(0.0, f32::max)]))
    }

    /// Worst relative error of logits in evaluation mode, after a step of training.
    fn inference_error(&self, records: usize) -> f32 {
        let threads = Threads::new(self.threads);
        let (mut whole, mut layered) = (self.whole(records), self.layered(records));
        let images = random(records * self.graph.input().len(), 6);
        let pass = Pass { records, mode: Mode::Train { seed: 1 } };
        whole.input_mut(records).copy_from_slice(&images);
        layered.learner.input_mut(records).copy_from_slice(&images);
        whole.forward_with(&mut Watch { places: &mut engine::Nowhere, signs: Vec::new() }, pass, &threads);
        let mut watch = Watch { places: &mut layered.layers, signs: Vec::new() };
        layered.learner.forward_with(&mut watch, pass, &threads);
        let images = random(records * self.graph.input().len(), 5);
        whole.input_mut(records).copy_from_slice(&images);
        layered.learner.input_mut(records).copy_from_slice(&images);
        let expected = whole.predict(records, &threads).to_vec();
        worst_relative(layered.predict(records, &threads).unwrap(), &expected)
    }
}

fn largest(tensor: &Tensor) -> f32 {
    tensor.data().iter().fold(0.0f32, |m, x| m.max(x.abs()))
}

fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut stream = engine::random::Stream::new(seed, engine::random::Purpose::Dropout, 0, 0);
    (0..len).map(|_| (stream.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

const PLAIN_SGD: OptimiserConfig = OptimiserConfig::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false };

/// A graph that is watched behind every activation, and before every max pooling.
fn watched(graph: &Graph) -> Graph {
    let watch = |n: usize| {
        let pool = graph.consumers(ValueId(n + 1)).find_map(|next| pool(&graph.nodes()[next].op));
        let activation = || graph.nodes()[n].op.operator().name().contains("relu").then_some(WATCHED);
        pool.map(|pool| WATCHED + 1 + pool).or_else(activation)
    };
    tapped(graph, watch).unwrap()
}

/// Beyond all places of a split model: behind activations; then, before poolings, with what is pooled.
const WATCHED: usize = 1 << 32;

/// Side, step and padding of a max pooling's windows, as one number.
fn pool(op: &Op) -> Option<usize> {
    let pool = match op {
        Op::MaxPool2d(pool) | Op::Fused(Fused::ReluMaxPool(ReluMaxPool(pool))) => pool,
        _ => return None,
    };
    Some((pool.kernel[0] * 16 + pool.stride[0]) * 16 + pool.padding[0])
}

/// Notes which activations are above zero, and which element of each window is the largest.
struct Watch<'a> {
    places: &'a mut dyn Elsewhere,
    signs: Vec<u8>,
}

impl Watch<'_> {
    fn note_windows(&mut self, x: View<'_>, windows: usize) {
        let (side, step, padding) = (windows / 256, windows / 16 % 16, windows % 16);
        let &[_, _, h, w] = x.shape.dims() else { panic!("images are pooled") };
        for plane in x.data.chunks_exact(h * w) {
            for top in (0..=h + 2 * padding - side).step_by(step) {
                for left in (0..=w + 2 * padding - side).step_by(step) {
                    // Where nothing is above zero, an activation before the pooling lets no gradient through.
                    let (mut most, mut at) = (0.0, 0);
                    for i in 0..side * side {
                        let (y, x) =
                            ((top + i / side).wrapping_sub(padding), (left + i % side).wrapping_sub(padding));
                        if y < h && x < w && plane[y * w + x] > most {
                            (most, at) = (plane[y * w + x], 1 + i);
                        }
                    }
                    self.signs.push(at as u8);
                }
            }
        }
    }
}

impl Elsewhere for Watch<'_> {
    fn forward(&mut self, place: usize, pass: Forward<'_>) {
        match place {
            WATCHED => self.signs.extend(pass.inputs[0].data.iter().map(|x| u8::from(*x > 0.0))),
            place if place > WATCHED => self.note_windows(pass.inputs[0], place - WATCHED - 1),
            place => self.places.forward(place, pass),
        }
    }

    fn backward(&mut self, place: usize, pass: Backward<'_>) {
        self.places.backward(place, pass);
    }
}

/// Largest error of any case.
const BOUND: f32 = 1e-4;

/// Every model of the zoo, with all its convolutions at full width; classifiers of ImageNet's VGGs are narrower.
fn whole_zoo() -> Vec<Graph> {
    let build = |name: &&str| {
        let small = ["cifar", "small", "resnet20"].iter().any(|part| name.contains(part));
        let classic = name.starts_with("vgg") && !small;
        let narrow = zoo::Options { pool: Some(1), hidden: Some(64), ..zoo::Options::default() };
        let options = if classic { narrow } else { zoo::Options::default() };
        let side = if small || classic { 32 } else { 64 };
        zoo::build_with(name, [3, side, side].into(), 5, options).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    zoo::ARCHITECTURES.iter().map(build).collect()
}

/// Compares until so many cases had the same signs.
fn compare(case: impl Fn(u64) -> (f32, Option<[f32; 2]>), about: &str, wanted: usize) -> [f32; 3] {
    let mut worst = [0.0f32; 3];
    let mut compared = 0;
    for seed in 0..16 * wanted as u64 {
        let (logits, gradients) = case(10 * seed);
        worst[0] = worst[0].max(logits);
        if let Some([input, weights]) = gradients {
            worst = [worst[0], worst[1].max(input), worst[2].max(weights)];
            compared += 1;
        }
        if compared == wanted {
            break;
        }
    }
    println!("{about}: forward {:.1e}, input {:.1e}, weights {:.1e}", worst[0], worst[1], worst[2]);
    assert!(compared == wanted, "{about}: only {compared} cases with the same signs");
    assert!(worst.iter().all(|error| *error < BOUND), "{about}: {worst:?}");
    worst
}

#[test]
fn every_convolution_is_the_sum_of_both_parts() {
    let graphs = [("cnn-small", [1, 12, 12]), ("resnet20", [3, 16, 16])];
    for graph in graphs.map(|(name, shape)| zoo::build(name, shape.into(), 5).unwrap()) {
        for finding in
            [Finding::Shared, Finding::Light { iterations: 2 }, Finding::Subspace { iterations: 1 }]
        {
            for (own_gradients, threads) in [(false, 1), (false, 2), (true, 1)] {
                let settings = Settings { own_gradients, ..EXACT };
                let case = Case {
                    graph: &graph,
                    parameters: Parameters::init(&graph, 2),
                    finding,
                    settings,
                    threads,
                };
                let about = format!("{} {finding:?} {own_gradients} {threads}", graph.name());
                compare(|seed| case.training_errors(3 + seed as usize % 3, seed), &about, 2);
                let error = case.inference_error(3);
                assert!(error < BOUND, "{about}: inference {error}");
            }
        }
    }
}

/// The exactness table: every model of the zoo, random parameters, images and batch sizes.
#[test]
#[ignore = "long: cargo test -p asymflow-runtime exactness -- --ignored --nocapture"]
fn exactness_on_every_model_of_the_zoo() {
    for graph in whole_zoo() {
        let settings = EXACT;
        for (i, finding) in [Finding::Shared, Finding::Light { iterations: 2 }].into_iter().enumerate() {
            let parameters = Parameters::init(&graph, i as u64);
            let case = Case { graph: &graph, parameters, finding, settings, threads: 2 };
            let about = format!("{} {finding:?}", graph.name());
            // Many activations, of which one is soon on the other side of zero: few records, unless a norm needs more.
            let few = if model::norm::couples_records(&graph) { 4 } else { 1 };
            compare(|seed| case.training_errors(few + seed as usize / 10 % 2, seed), &about, 1);
            let error = case.inference_error(2);
            println!("{about}: inference {error:.1e}");
            assert!(error < BOUND, "{about}: inference {error}");
        }
    }
}

/// What each format costs: errors of logits, as a share of the largest, with residuals and products in it.
#[test]
fn compact_formats_are_as_accurate_as_stated() {
    let graph = zoo::build("resnet20", [3, 16, 16].into(), 5).unwrap();
    let error = |residual, products| {
        let settings = Settings { residual, products, ..EXACT };
        let parameters = Parameters::init(&graph, 2);
        Case { graph: &graph, parameters, finding: Finding::Shared, settings, threads: 1 }.inference_error(4)
    };
    let [exact, bf16, int8] = [
        error(Format::F32, Format::F32),
        error(Format::Bf16, Format::Bf16),
        error(Format::Int8, Format::Bf16),
    ];
    println!("f32 {exact:.1e}, bf16 {bf16:.1e}, int8 {int8:.1e}");
    assert!(exact < 1e-5 && bf16 < 0.03 && int8 < 0.06, "{exact} {bf16} {int8}");
    assert!(bf16 > 10.0 * exact && int8 > bf16, "formats are used: {exact} {bf16} {int8}");
}
