//! Rewrites a graph for one executor, so that chains of operators are one pass over memory.
//!
//! The rewritten graph reads the same parameters and buffers. A value that something else reads, or that is the
//! graph's output, is never fused away. What training computes is the same bits as without the rewrite.

use kernels::add_relu::AddRelu;
use kernels::conv_norm_relu::ConvNormRelu;
use kernels::group_norm_add_relu::GroupNormAddRelu;
use kernels::norm_add_relu::NormAddRelu;
use kernels::relu_max_pool::ReluMaxPool;
use kernels::{Fused, Op};
use model::{Graph, Node, ValueId};

/// Batch or group norm (+ residual connection) (+ ReLU), residual connection + ReLU, and ReLU + max pooling.
pub fn for_training(graph: &Graph) -> Graph {
    rewrite(graph, memory_chain)
}

/// Convolution (+ batch norm) (+ residual connection) (+ ReLU), and what is left of those for training.
///
/// It runs in evaluation mode only.
pub fn for_inference(graph: &Graph) -> Graph {
    rewrite(graph, |reads, n| conv_chain(reads, n).or_else(|| memory_chain(reads, n)))
}

fn memory_chain(reads: &Reads<'_>, n: usize) -> Option<Chain> {
    norm_chain(reads, n).or_else(|| add_chain(reads, n)).or_else(|| pool_chain(reads, n))
}

/// Nodes that become one.
struct Chain {
    /// In order; each but the last is read by the next alone.
    nodes: Vec<usize>,
    op: Fused,
    /// What the one node reads.
    inputs: Vec<ValueId>,
}

/// A graph, how often each value is read, and which nodes are part of a chain already.
struct Reads<'a> {
    graph: &'a Graph,
    counts: Vec<usize>,
    taken: Vec<bool>,
}

impl<'a> Reads<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut counts = vec![0; graph.values()];
        graph.nodes().iter().flat_map(|node| &node.inputs).for_each(|v| counts[v.0] += 1);
        // Whoever runs the graph reads its output.
        counts[graph.output().0] += 1;
        Reads { graph, counts, taken: vec![false; graph.nodes().len()] }
    }

    fn op(&self, n: usize) -> &'a Op {
        &self.graph.nodes()[n].op
    }

    fn inputs(&self, n: usize) -> &'a [ValueId] {
        &self.graph.nodes()[n].inputs
    }

    /// The node that alone reads what `n` makes, if it is free and `wanted`.
    fn next(&self, n: usize, wanted: impl Fn(&Op) -> bool) -> Option<usize> {
        let value = ValueId(n + 1);
        let alone = self.counts[value.0] == 1;
        let next = self.graph.consumers(value).next().filter(|_| alone)?;
        (!self.taken[next] && wanted(self.op(next))).then_some(next)
    }

    /// The sum that alone reads what `n` makes, and what is added to it.
    fn next_add(&self, n: usize) -> Option<(usize, ValueId)> {
        let add = self.next(n, |op| matches!(op, Op::Add(_)))?;
        let skip = self.inputs(add).iter().find(|v| v.0 != n + 1)?;
        Some((add, *skip))
    }

    fn next_relu(&self, n: usize) -> Option<usize> {
        self.next(n, |op| matches!(op, Op::Relu(_)))
    }

    fn next_pool(&self, n: usize) -> Option<usize> {
        self.next(n, |op| matches!(op, Op::MaxPool2d(_)))
    }
}

fn norm_chain(reads: &Reads<'_>, n: usize) -> Option<Chain> {
    if !matches!(reads.op(n), Op::BatchNorm2d(_) | Op::GroupNorm(_)) {
        return None;
    }
    let (mut nodes, mut inputs) = (vec![n], reads.inputs(n).to_vec());
    let (add, relu) = extend(reads, &mut nodes, &mut inputs);
    let op = match reads.op(n).clone() {
        Op::BatchNorm2d(norm) => Fused::NormAddRelu(NormAddRelu { norm, add, relu }),
        Op::GroupNorm(norm) => Fused::GroupNormAddRelu(GroupNormAddRelu { norm, add, relu }),
        _ => return None,
    };
    (nodes.len() > 1).then_some(Chain { nodes, op, inputs })
}

fn conv_chain(reads: &Reads<'_>, n: usize) -> Option<Chain> {
    let Op::Conv2d(conv) = reads.op(n) else { return None };
    let (mut nodes, mut inputs) = (vec![n], reads.inputs(n).to_vec());
    let norm = reads.next(n, |op| matches!(op, Op::BatchNorm2d(_)));
    // Their parameters must lie next to each other.
    let beside = |&norm: &usize| reads.graph.nodes()[n].params.end == reads.graph.nodes()[norm].params.start;
    let norm = norm.filter(beside).and_then(|at| match reads.op(at) {
        Op::BatchNorm2d(norm) => Some((at, norm.clone())),
        _ => None,
    });
    nodes.extend(norm.iter().map(|(at, _)| *at));
    let (add, relu) = extend(reads, &mut nodes, &mut inputs);
    let (conv, norm) = (conv.clone(), norm.map(|(_, norm)| norm));
    let op = Fused::ConvNormRelu(ConvNormRelu { conv, norm, add, relu });
    (nodes.len() > 1).then_some(Chain { nodes, op, inputs })
}

fn pool_chain(reads: &Reads<'_>, n: usize) -> Option<Chain> {
    let Op::Relu(_) = reads.op(n) else { return None };
    let pool = reads.next_pool(n)?;
    let Op::MaxPool2d(op) = reads.op(pool) else { return None };
    let op = Fused::ReluMaxPool(ReluMaxPool(op.clone()));
    Some(Chain { nodes: vec![n, pool], op, inputs: reads.inputs(n).to_vec() })
}

fn add_chain(reads: &Reads<'_>, n: usize) -> Option<Chain> {
    let Op::Add(_) = reads.op(n) else { return None };
    let relu = reads.next_relu(n).filter(|&relu| reads.next_pool(relu).is_none())?;
    Some(Chain { nodes: vec![n, relu], op: Fused::AddRelu(AddRelu), inputs: reads.inputs(n).to_vec() })
}

/// Appends a residual connection and a ReLU, where they follow; says which did.
fn extend(reads: &Reads<'_>, nodes: &mut Vec<usize>, inputs: &mut Vec<ValueId>) -> (bool, bool) {
    let last = |nodes: &[usize]| *nodes.last().expect("a chain has a node");
    let add = reads.next_add(last(nodes));
    if let Some((add, skip)) = add {
        nodes.push(add);
        inputs.push(skip);
    }
    // Before max pooling, a ReLU costs nothing: it goes with the pool, so that no gradient reads what it makes.
    let relu = reads.next_relu(last(nodes)).filter(|&relu| reads.next_pool(relu).is_none());
    nodes.extend(relu);
    (add.is_some(), relu.is_some())
}

/// Puts the chain that `find` starts at a node, if any, in the place of its last node, when all it reads is made.
fn rewrite(graph: &Graph, find: impl Fn(&Reads<'_>, usize) -> Option<Chain>) -> Graph {
    let mut reads = Reads::new(graph);
    let mut ends: Vec<Option<Chain>> = (0..graph.nodes().len()).map(|_| None).collect();
    for n in 0..graph.nodes().len() {
        let Some(chain) = (!reads.taken[n]).then(|| find(&reads, n)).flatten() else { continue };
        chain.nodes.iter().for_each(|&n| reads.taken[n] = true);
        let end = *chain.nodes.last().expect("a chain has a node");
        ends[end] = Some(chain);
    }
    let mut nodes: Vec<Node> = Vec::new();
    // Where each value of the graph is in the rewritten one.
    let mut now = vec![ValueId::INPUT; graph.values()];
    for (n, end) in ends.into_iter().enumerate() {
        let mut node = match end {
            Some(chain) => fused_node(graph, chain),
            None if reads.taken[n] => continue,
            None => graph.nodes()[n].clone(),
        };
        node.inputs.iter_mut().for_each(|v| *v = now[v.0]);
        nodes.push(node);
        now[n + 1] = ValueId(nodes.len());
    }
    graph.rewritten(nodes, now[graph.output().0]).expect("a chain fits where its parts did")
}

/// One node in the place of a chain, with the operands of its parts, which lie next to each other.
fn fused_node(graph: &Graph, chain: Chain) -> Node {
    let parts: Vec<&Node> = chain.nodes.iter().map(|&n| &graph.nodes()[n]).collect();
    let name = |(i, part): (usize, &&Node)| match part.name.rsplit_once('.') {
        Some((_, last)) if i > 0 => last.to_owned(),
        _ => part.name.clone(),
    };
    let names: Vec<String> = parts.iter().enumerate().map(name).collect();
    let end = |of: fn(&Node) -> &std::ops::Range<usize>| {
        let start = of(parts[0]).start;
        start..start + parts.iter().map(|part| of(part).len()).sum::<usize>()
    };
    Node {
        name: names.join("+"),
        op: Op::Fused(chain.op),
        inputs: chain.inputs,
        params: end(|node| &node.params),
        buffers: end(|node| &node.buffers),
        origin: parts[0].origin,
    }
}

#[cfg(test)]
mod tests;
