"""PyTorch as a peer of the benchmark: `python pytorch.py THREADS nhwc|nchw` answers JSON lines on standard input.

It runs the model graphs it is sent with PyTorch's own modules, eagerly and with PyTorch's defaults. Protocol and cases
are those of src/protocol.rs, weights and inputs those of src/values.rs.
"""

import contextlib
import json
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional

RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
GRADIENT = 1 << 20
CHUNK = 1 << 22


def noise(tensor, shape, scale):
    """`values::noise`."""
    result = torch.empty(math.prod(shape))
    mask = 0xFFFFFFFF
    for first in range(0, len(result), CHUNK):
        h = torch.arange(first, min(first + CHUNK, len(result)), dtype=torch.int64)
        h = (h + tensor * 0x9E3779B9) & mask
        h = ((h ^ (h >> 16)) * 0x7FEB352D) & mask
        h = ((h ^ (h >> 15)) * 0x846CA68B) & mask
        h ^= h >> 16
        result[first : first + CHUNK] = ((h >> 8).float() / (1 << 23) - 1.0) * scale
    return result.reshape(shape)


def module(kind, op):
    """One operator of a graph as PyTorch's module."""
    if kind == "Conv2d":
        top, left, bottom, right = op["padding"]
        assert (top, left) == (bottom, right), "padding that is the same on both sides"
        return nn.Conv2d(
            op["in_channels"],
            op["out_channels"],
            op["kernel"],
            op["stride"],
            (top, left),
            op["dilation"],
            op["groups"],
            op["bias"],
        )
    if kind == "BatchNorm2d":
        return nn.BatchNorm2d(op["channels"], op["eps"], op["momentum"])
    if kind == "Linear":
        return nn.Linear(op["in_features"], op["out_features"], op["bias"])
    if kind == "Relu":
        return nn.ReLU(inplace=True)  # as torchvision has it
    if kind == "MaxPool2d":
        return nn.MaxPool2d(op["kernel"], op["stride"], op["padding"])
    if kind == "AdaptiveAvgPool2d":
        return nn.AdaptiveAvgPool2d(op["output"])
    if kind == "Flatten":
        return nn.Flatten()
    if kind == "Dropout":
        return nn.Dropout(op["probability"])
    if kind == "Add":
        return None
    raise NotImplementedError(f"{kind} is not known to pytorch.py")


class Net(nn.Module):
    """A model graph: value 0 is the input, value i + 1 the output of node i."""

    def __init__(self, graph):
        super().__init__()
        kinds = [next(iter(op.items())) for _, op, _ in graph["nodes"]]
        self.operators = nn.ModuleList(module(kind, op) or nn.Identity() for kind, op in kinds)
        self.adds = [kind == "Add" for kind, _ in kinds]
        self.inputs = [inputs for _, _, inputs in graph["nodes"]]
        self.output = graph["output"]
        # No value is kept longer than it is read.
        last = {value: node for node, inputs in enumerate(self.inputs) for value in inputs}
        self.done = [[v for v in inputs if last[v] == node] for node, inputs in enumerate(self.inputs)]

    def forward(self, x):
        values = {0: x}
        for node, operator in enumerate(self.operators):
            inputs = [values[v] for v in self.inputs[node]]
            for value in set(self.done[node]):
                del values[value]
            values[node + 1] = inputs[0] + inputs[1] if self.adds[node] else operator(inputs[0])
            del inputs
        return values[self.output]

    @torch.no_grad()
    def fill(self):
        """`values::parameters`; PyTorch's parameters come in the graph's order."""
        for index, parameter in enumerate(self.parameters()):
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(noise(index + 1, parameter.shape, math.sqrt(6.0 / fan_in)))
        for operator in self.operators:
            if getattr(operator, "bias", None) is not None:
                operator.bias.zero_()


def mean_abs(tensor):
    return tensor.abs().double().mean().item()


def prepare(case, layout):
    """A function that runs the case once, and one that makes its figure of what the first returned."""
    graph, batch = case["graph"], case["batch"]
    formats = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}
    net = Net(graph)
    net.fill()
    net = net.to(memory_format=formats[layout])
    x = noise(0, [batch, *graph["input"]], 1.0).to(memory_format=formats[layout])
    if case["pass"] in ("forward", "forward_backward"):
        return convolution(net.operators[0], x, case["pass"] == "forward_backward", formats[layout])
    if case["pass"] == "inference":
        net.eval()
        return (lambda: inferred(net, x)), mean_abs
    return training(net, x, batch)


def inferred(net, x):
    with torch.inference_mode():
        return net(x)


def convolution(conv, x, backward, layout):
    weight = conv.weight.detach().clone(memory_format=layout)

    def product():
        return functional.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)

    if not backward:
        return (lambda: run_without_gradients(product)), mean_abs
    dy = noise(GRADIENT, run_without_gradients(product).shape, 1.0).to(memory_format=layout)
    weight.requires_grad_(True)
    x.requires_grad_(True)
    return (lambda: torch.autograd.grad(product(), (x, weight), dy)), lambda grads: mean_abs(grads[1])


def run_without_gradients(work):
    with torch.inference_mode():
        return work()


def training(net, x, batch):
    net.train()
    optimiser = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    with torch.inference_mode():
        classes = net.eval()(x[:1]).shape[1]
    net.train()
    labels = torch.arange(batch) * 7 % classes
    loss_of = nn.CrossEntropyLoss()

    def step():
        optimiser.zero_grad()
        loss = loss_of(net(x), labels)
        loss.backward()
        optimiser.step()
        return loss

    return step, lambda loss: loss.item()


def timed(work):
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    took = {"wall": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
    del result
    return took


def main():
    threads, layout = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(threads)
    # Standard output carries replies alone.
    out, sys.stdout = sys.stdout, sys.stderr

    def reply(message):
        print(json.dumps(message), file=out, flush=True)

    reply({"hello": {"version": torch.__version__}})
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        if request == "run":
            reply({"took": timed(work)})
            continue
        work = figure = None
        try:
            work, figure = prepare(request["prepare"], layout)
            reply({"ready": {"figure": figure(work())}})
        except (NotImplementedError, RuntimeError, AssertionError) as error:
            reply({"unsupported": {"reason": str(error).splitlines()[0]}})


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
