"""A graph as a PyTorch module of the same operations and weights, so that PyTorch runs the network the zoo means.

Enters: a Graph, in inference form or as it was traced. Leaves: a torch.fx.GraphModule, straight-line Python whose
parameters are trained where the graph's are, and which eager mode and the inductor both run as if written by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from graphc.ir import Graph

from .composites import Step, steps, weights_of

Rule = Callable[..., object]


def conv_transpose(step: Step, x, w, b=None):
    op, (image, weight, *_) = step.op, step.inputs
    sizes = zip(op.size, image.shape[2:], weight.shape[2:], op.stride, op.padding, op.dilation, strict=True)
    more = tuple(n - ((o - 1) * s - 2 * p + d * (k - 1) + 1) for n, o, k, s, p, d in sizes)
    return F.conv_transpose2d, (x, w, b, op.stride, op.padding, more, op.groups, op.dilation), {}


def convolution(step: Step, x, w, b=None):
    op = step.op
    return F.conv2d, (x, w, b, op.stride, op.padding, op.dilation, op.groups), {}


def batch_norm(step: Step, x, weight, bias, mean, var):
    """Training form: with the batch's statistics; the running ones are updated in place."""
    op = step.op
    return F.batch_norm, (x, mean, var, weight, bias, True, op.momentum, op.eps), {}


def batch_norm_inference(step: Step, x, weight, bias, mean, var):
    return F.batch_norm, (x, mean, var, weight, bias, False, 0.0, step.op.eps), {}


def matmul(step: Step, a, b):
    a = a.transpose(-1, -2) if step.op.transpose_a else a
    return torch.matmul, (a, b.transpose(-1, -2) if step.op.transpose_b else b), {}


def max_pool(step: Step, x):
    op = step.op
    return F.max_pool2d, (x, op.kernel, op.stride, op.padding, op.dilation, op.ceil_mode), {}


def avg_pool(step: Step, x):
    op = step.op
    return F.avg_pool2d, (x, op.kernel, op.stride, op.padding, op.ceil_mode), {}


def sum_pool(step: Step, x):
    function, arguments, _ = avg_pool(step, x)
    return function, arguments, {"divisor_override": 1}


def sliced(step: Step, x):
    op = step.op
    return torch.Tensor.__getitem__, (x, tuple(map(slice, op.start, op.stop, op.step))), {}


# kind -> the function to call, its arguments and its keywords
RULES: dict[str, Rule] = {
    "conv2d": convolution,
    "conv_transpose": conv_transpose,
    "conv2d_input_grad": conv_transpose,
    "linear": lambda step, *xs: (F.linear, xs, {}),
    "matmul": matmul,
    "attention": lambda step, *xs: (F.scaled_dot_product_attention, xs, {"scale": step.more["scale"]}),
    "max_pool2d": max_pool,
    "avg_pool2d": avg_pool,
    "sum_pool2d": sum_pool,
    "batch_norm": batch_norm,
    "batch_norm_inference": batch_norm_inference,
    "layer_norm": lambda step, x, w, b: (F.layer_norm, (x, step.output.shape[-1:], w, b, step.more["eps"]), {}),
    "gelu": lambda step, x: (F.gelu, (x,), {}),
    "mean": lambda step, x: (torch.mean, (x, step.op.axes, step.op.keepdim), {}),
    "sum": lambda step, x: (torch.sum, (x, step.op.axes, step.op.keepdim), {}),
    "clip": lambda step, x: (torch.clamp, (x, step.op.low, step.op.high), {}),
    "dropout": lambda step, x, key: (F.dropout, (x, step.op.p), {}),
    "softmax": lambda step, x: (torch.softmax, (x, step.op.axis), {}),
    "reshape": lambda step, x: (torch.reshape, (x, step.op.shape), {}),
    "expand": lambda step, x: (torch.Tensor.expand, (x, step.op.shape), {}),
    "transpose": lambda step, x: (torch.permute, (x, step.op.axes), {}),
    "concat": lambda step, *xs: (torch.cat, (xs, step.op.axis), {}),
    "slice": sliced,
    **{
        name: lambda step, *xs, function=function: (function, xs, {})
        for name, function in (
            ("relu", F.relu), ("sigmoid", torch.sigmoid), ("tanh", torch.tanh), ("erf", torch.erf),
            ("exp", torch.exp), ("sqrt", torch.sqrt), ("neg", torch.neg), ("maximum", torch.maximum),
            ("minimum", torch.minimum), ("log", torch.log), ("abs", torch.abs), ("floor", torch.floor),
            ("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div),
        )
    },
}  # fmt: skip


def twin(graph: Graph) -> fx.GraphModule:
    """The module. Raises ValueError, naming every op that has no rule here."""
    made = steps(graph)
    unknown = sorted({step.kind for step in made} - {*RULES, "constant"})
    if unknown:
        raise ValueError(f"{graph.name}: no PyTorch rule for {', '.join(unknown)}")
    root, body = torch.nn.Module(), fx.Graph()
    nodes = {v: fx.Proxy(body.placeholder(v.name)) for v in graph.inputs}

    def leaf(value, name: str, array: np.ndarray, trained: bool) -> None:
        data = torch.from_numpy(np.array(array, np.float32 if value.dtype == "f32" else np.int32))
        if trained:
            root.register_parameter(name, torch.nn.Parameter(data))
        else:
            root.register_buffer(name, data)
        nodes[value] = fx.Proxy(body.get_attr(name))

    for value, array in weights_of(graph, made).items():
        trained = value in graph.weights and value.name not in graph.frozen
        leaf(value, value.name.replace(".", "_"), array, trained)
    for i, step in enumerate(made):
        if step.kind == "constant":
            leaf(step.output, f"constant{i}", step.op.reference()[0], False)
            continue
        function, arguments, keywords = RULES[step.kind](step, *(nodes[v] for v in step.inputs))
        made_node = body.call_function(function, *plain((arguments, keywords)))
        nodes[step.output] = fx.Proxy(made_node)
    body.output(nodes[graph.outputs[0]].node)
    return fx.GraphModule(root, body)


def plain(value):
    """The nodes that proxies stand for, in tuples and mappings of arguments."""
    if isinstance(value, fx.Proxy):
        return value.node
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value))
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value
