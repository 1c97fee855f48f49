//! Every operator against the reference vectors (PyTorch in `f64`): the index alone says which cases there are.

use std::path::Path;

use serde_json::Value;
use tensor::compare::{Tolerance, assert_close};
use tensor::{Shape, Tensor};
use vectors::Tensors;

use crate::activation::{LeakyRelu, Prelu, Relu};
use crate::add::Add;
use crate::batch_norm::BatchNorm2d;
use crate::conv2d::Conv2d;
use crate::flatten::Flatten;
use crate::linear::Linear;
use crate::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use crate::softmax_cross_entropy;
use crate::testing::{Node, TRAIN};
use crate::{Mode, Op, Operator};

/// What `f32` arithmetic leaves of a `f64` reference.
const TOLERANCE: Tolerance = Tolerance { relative: 1e-5, absolute: 1e-7 };

/// One case of the index.
struct Case<'a> {
    name: &'a str,
    attrs: &'a Value,
    tensors: &'a Tensors,
}

/// Runs `check` on every case of a family; an attribute not in `known` fails.
fn family(name: &str, known: &[&str], check: impl Fn(&Case<'_>)) {
    let Some(folder) = vectors::folder("layers") else { return };
    let index = vectors::index(&folder.join("index.json"));
    let cases = index[name].as_array().unwrap_or_else(|| panic!("the index has no family `{name}`"));
    assert!(!cases.is_empty(), "family `{name}` has no cases");
    let tensors = vectors::tensors(Path::new(&folder.join(format!("{name}.safetensors"))));
    for case in cases {
        let name = case["case"].as_str().unwrap();
        let attrs = &case["attrs"];
        for attr in attrs.as_object().unwrap().keys() {
            assert!(known.contains(&attr.as_str()) || attr == "note", "{name}: unknown attribute `{attr}`");
        }
        println!("{name}");
        check(&Case { name, attrs, tensors: &tensors });
    }
}

impl Case<'_> {
    fn tensor(&self, name: &str) -> Tensor {
        let (dims, data) = self.tensors.f32(&format!("{}/{name}", self.name));
        Tensor::from_vec(Shape::new(&dims), data).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.has(&format!("{}/{name}", self.name))
    }

    fn list(&self, names: &[&str]) -> Vec<Tensor> {
        names.iter().filter(|name| self.has(name)).map(|name| self.tensor(name)).collect()
    }

    fn compare(&self, name: &str, found: &Tensor) {
        let expected = self.tensor(name);
        assert_eq!(found.shape(), expected.shape(), "{}/{name}", self.name);
        assert_close(&format!("{}/{name}", self.name), found.data(), expected.data(), TOLERANCE);
    }

    fn text(&self, attr: &str) -> &str {
        self.attrs[attr].as_str().unwrap_or_else(|| panic!("{}: no attribute `{attr}`", self.name))
    }

    fn number(&self, attr: &str) -> f64 {
        self.attrs[attr].as_f64().unwrap_or_else(|| panic!("{}: no number `{attr}`", self.name))
    }

    fn flag(&self, attr: &str) -> bool {
        self.attrs[attr].as_bool().unwrap_or_else(|| panic!("{}: no flag `{attr}`", self.name))
    }

    /// One number for both axes, or a list of them.
    fn sizes(&self, attr: &str) -> Vec<usize> {
        let whole = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("{}: bad `{attr}`", self.name)) as usize;
        match &self.attrs[attr] {
            Value::Array(list) => list.iter().map(whole).collect(),
            one => vec![whole(one); 2],
        }
    }

    fn pair(&self, attr: &str) -> [usize; 2] {
        self.sizes(attr).try_into().unwrap_or_else(|_| panic!("{}: `{attr}` is no pair", self.name))
    }

    /// Both passes of one operator with inputs `x` and, where there is one, `b`.
    fn check(&self, op: &dyn Operator, params: &[&str], mode: Mode) {
        let inputs = self.list(&["x", "b"]);
        for threads in [1, 2] {
            let mut node = Node::new(op, inputs.clone(), self.list(params)).mode(mode).threads(threads);
            node.buffers = self.list(&["running_mean", "running_var"]);
            let (y, saved) = node.forward();
            self.compare("y", &y);
            if self.has("indices") {
                let (_, expected) = self.tensors.i64(&format!("{}/indices", self.name));
                let found: Vec<i64> = saved.indices[..expected.len()].iter().map(|&i| i.into()).collect();
                assert_eq!(found, expected, "{}", self.name);
            }
            node.buffers = self.list(&["running_mean", "running_var"]);
            let gradients = node.backward(&self.tensor("grad_y"));
            for (name, found) in ["grad_x", "grad_b"].iter().zip(&gradients.inputs) {
                self.compare(name, found);
            }
            for (name, found) in params.iter().zip(&gradients.params) {
                self.compare(&format!("grad_{name}"), found);
            }
        }
    }
}

#[test]
fn vectors_conv2d() {
    let known = ["kernel", "stride", "padding", "dilation", "groups", "bias"];
    family("conv2d", &known, |case| {
        let weight = case.tensor("weight").shape();
        let groups = case.number("groups") as usize;
        let padding = case.sizes("padding");
        let op = Conv2d {
            in_channels: weight.dims()[1] * groups,
            out_channels: weight.dims()[0],
            kernel: case.pair("kernel"),
            stride: case.pair("stride"),
            // Two numbers: before and after alike.
            padding: [padding[0], padding[1], padding[padding.len() - 2], padding[padding.len() - 1]],
            dilation: case.pair("dilation"),
            groups,
            bias: case.flag("bias"),
            precision: crate::Precision::F32,
        };
        let params = if op.bias { &["weight", "bias"][..] } else { &["weight"] };
        case.check(&op, params, TRAIN);
    });
}

#[test]
fn vectors_batchnorm2d() {
    family("batchnorm2d", &["momentum", "eps", "training"], |case| {
        let op = BatchNorm2d {
            channels: case.tensor("weight").shape().len(),
            eps: case.number("eps") as f32,
            momentum: case.number("momentum") as f32,
            frozen: false,
        };
        let training = case.flag("training");
        case.check(&op, &["weight", "bias"], if training { TRAIN } else { Mode::Eval });
        if training {
            check_running_statistics(case, &op);
        }
    });
}

/// Two forward passes in training, and the running statistics after each.
fn check_running_statistics(case: &Case<'_>, op: &BatchNorm2d) {
    let mut node = Node::new(op, case.list(&["x"]), case.list(&["weight", "bias"]));
    node.buffers = case.list(&["running_mean", "running_var"]);
    for (step, x, y) in [(1, "x", "y"), (2, "x2", "y2")] {
        node.inputs = case.list(&[x]);
        let (found, saved) = node.forward();
        case.compare(y, &found);
        case.compare(&format!("running_mean_after{step}"), &node.buffers[0]);
        case.compare(&format!("running_var_after{step}"), &node.buffers[1]);
        if step == 1 {
            let means = saved.floats[..2 * op.channels].iter().step_by(2).copied().collect();
            case.compare("batch_mean", &Tensor::from_vec([op.channels], means).unwrap());
            let variance = |inverse: f32| 1.0 / (inverse * inverse) - op.eps;
            let variances =
                saved.floats[1..2 * op.channels].iter().step_by(2).map(|&i| variance(i)).collect();
            case.compare("batch_var_biased", &Tensor::from_vec([op.channels], variances).unwrap());
        }
    }
}

#[test]
fn vectors_activation() {
    family("activation", &["op", "negative_slope", "num_parameters"], |case| match case.text("op") {
        "relu" => case.check(&Relu, &[], TRAIN),
        "leaky_relu" => {
            case.check(&LeakyRelu { slope: case.number("negative_slope") as f32 }, &[], TRAIN);
        }
        "prelu" => {
            let op = Prelu { parameters: case.number("num_parameters") as usize };
            case.check(&op, &["weight"], TRAIN);
        }
        other => panic!("{}: unknown op `{other}`", case.name),
    });
}

#[test]
fn vectors_pooling() {
    let known =
        ["op", "kernel", "stride", "padding", "ceil_mode", "ties", "count_include_pad", "output_size"];
    family("pooling", &known, |case| {
        let op: Op = if case.text("op") == "adaptive_avgpool" {
            AdaptiveAvgPool2d { output: case.pair("output_size") }.into()
        } else {
            assert!(!case.flag("ceil_mode"), "{}: ceil_mode is not supported", case.name);
            let (kernel, stride, padding) = (case.pair("kernel"), case.pair("stride"), case.pair("padding"));
            match case.text("op") {
                "maxpool" => MaxPool2d { kernel, stride, padding }.into(),
                "avgpool" => {
                    let count_include_pad = case.flag("count_include_pad");
                    AvgPool2d { kernel, stride, padding, count_include_pad }.into()
                }
                other => panic!("{}: unknown op `{other}`", case.name),
            }
        };
        case.check(op.operator(), &[], TRAIN);
    });
}

#[test]
fn vectors_linear() {
    family("linear", &["bias", "in_features", "out_features"], |case| {
        let op = Linear::new(case.number("in_features") as usize, case.number("out_features") as usize)
            .bias(case.flag("bias"));
        // Its bias is called `bias`: the second input `b` is another family's.
        let params = if op.bias { &["weight", "bias"][..] } else { &["weight"] };
        case.check(&op, params, TRAIN);
    });
}

#[test]
fn vectors_misc() {
    family("misc", &["op", "start_dim"], |case| match case.text("op") {
        "add" => case.check(&Add, &[], TRAIN),
        "flatten" => {
            assert_eq!(case.number("start_dim"), 1.0, "{}", case.name);
            case.check(&Flatten, &[], TRAIN);
        }
        "add_same" => add_same(case),
        "add_relu" => add_relu(case),
        op if op.starts_with("relu(bn_train(conv3x3(x,pad1)) + x)") => block(case),
        other => panic!("{}: unknown op `{other}`", case.name),
    });
}

/// `x + x`: both gradients go to the same value.
fn add_same(case: &Case<'_>) {
    let x = case.tensor("x");
    let mut node = Node::new(&Add, vec![x.clone(), x], Vec::new());
    case.compare("y", &node.forward().0);
    let gradients = node.backward(&case.tensor("grad_y"));
    case.compare("grad_x", &sum(&gradients.inputs[0], &gradients.inputs[1]));
}

fn add_relu(case: &Case<'_>) {
    let mut add = Node::new(&Add, case.list(&["x", "b"]), Vec::new());
    let mut relu = Node::new(&Relu, vec![add.forward().0], Vec::new());
    case.compare("y", &relu.forward().0);
    let dy = relu.backward(&case.tensor("grad_y")).inputs.remove(0);
    let gradients = add.backward(&dy);
    case.compare("grad_x", &gradients.inputs[0]);
    case.compare("grad_b", &gradients.inputs[1]);
}

/// `relu(bn(conv(x)) + x)`.
fn block(case: &Case<'_>) {
    let (x, weight) = (case.tensor("x"), case.tensor("weight"));
    let [outputs, inputs, ..] = *weight.shape().dims() else { panic!("{}: weight", case.name) };
    let (conv, norm) = (Conv2d::new(inputs, outputs, 3).padding(1), BatchNorm2d::new(outputs));
    let mut conv = Node::new(&conv, vec![x.clone()], vec![weight]);
    let mut norm = Node::new(&norm, vec![conv.forward().0], case.list(&["gamma", "beta"]));
    let mut add = Node::new(&Add, vec![norm.forward().0, x], Vec::new());
    let mut relu = Node::new(&Relu, vec![add.forward().0], Vec::new());
    case.compare("y", &relu.forward().0);

    let after_relu = relu.backward(&case.tensor("grad_y"));
    let after_add = add.backward(&after_relu.inputs[0]);
    let after_norm = norm.backward(&after_add.inputs[0]);
    let after_conv = conv.backward(&after_norm.inputs[0]);
    case.compare("grad_gamma", &after_norm.params[0]);
    case.compare("grad_beta", &after_norm.params[1]);
    case.compare("grad_weight", &after_conv.params[0]);
    case.compare("grad_x", &sum(&after_conv.inputs[0], &after_add.inputs[1]));
}

fn sum(a: &Tensor, b: &Tensor) -> Tensor {
    Tensor::from_fn(a.shape(), |i| a.data()[i] + b.data()[i])
}

#[test]
fn vectors_softmax_ce() {
    family("softmax_ce", &["reduction", "num_classes"], |case| {
        assert_eq!(case.text("reduction"), "mean", "{}", case.name);
        let logits = case.tensor("logits");
        let (_, labels) = case.tensors.i64(&format!("{}/labels", case.name));
        let labels: Vec<u32> = labels.into_iter().map(|l| u32::try_from(l).unwrap()).collect();
        let classes = case.number("num_classes") as usize;
        let mut grad = Tensor::zeros(logits.shape());
        let loss = softmax_cross_entropy::loss_and_gradient(logits.data(), &labels, classes, grad.data_mut());
        case.compare("loss", &Tensor::from_vec([1], vec![loss]).unwrap());
        case.compare("grad_logits", &grad);
        let mut probabilities = Tensor::zeros(logits.shape());
        softmax_cross_entropy::softmax(logits.data(), classes, probabilities.data_mut());
        case.compare("probs", &probabilities);
    });
}
