"""The base of graphc's own layers, and how their shape errors are told: which layer, made on which line of the user's,
what it expects, what came, and where that came from.
"""

from __future__ import annotations

import re

from graphc.ir import ShapeError, current_scope, dims
from graphc.ops import Tensor
from graphc.ops.graphs import reachable

from .module import Module, call_stack

# What an op's rule says where an operand's extent is wrong: `linear expects 2450 inputs, got 1250 (1x1250)`.
_MISMATCH = re.compile(r"\w+ expects (?P<wanted>\d+) (?P<what>[\w ]+), got (?P<got>\d+)( \([\dx]+\))?")


class Layer(Module):
    """A module of graphc itself: one step of a network, without modules inside."""

    def __call__(self, *inputs, **options):
        try:
            return super().__call__(*inputs, **options)
        except ShapeError as error:
            raise blame(error, self, inputs) from None


def blame(error: ShapeError, layer: Module, inputs: tuple) -> ShapeError:
    """The error as `file:line  path (Class): expects .., got .. from ..`; the line is the one that made the layer."""
    callers = call_stack()
    root = callers[0] if callers else layer
    path = ".".join(filter(None, (current_scope(), callers[-1].name_of(layer) if callers else "")))
    what = f"{path} ({type(layer).__name__})" if path else type(layer).__name__
    text = getattr(error, "bare", str(error))
    operand = next((x for x in inputs if isinstance(x, Tensor)), None)
    if operand is not None:
        match = _MISMATCH.fullmatch(text)
        if match:
            text = f"expects {match['wanted']} {match['what']}, got {match['got']} from {source(operand, root)}."
            text += advice(operand, int(match["wanted"]), match["what"], int(match["got"]))
        else:
            text = re.sub(r"^\w+: ", "", text)  # the op's name: the layer's stands before
            text += f"\n  its input comes from {source(operand, root)}"
            if operand.kind == "input" and operand.ndim < 4 and "NxCxHxW" in text:
                text += "\n  give batch and channels as well, e.g. (1, 3, 224, 224)"
    explained = ShapeError(f"{layer.declared}  {what}: {text}")
    explained.place, explained.bare = layer.declared or what, text
    return explained


def source(x: Tensor, root: Module) -> str:
    """Where a tensor comes from: `features.2 (Flatten of 50x5x5)`, or the graph input, or a line of the user's."""
    if x.node is None:
        name = (
            "the input" if x.value.name == "input" else f"{'the input' * (x.kind == 'input') or x.kind} {x.value.name}"
        )
        return f"{name} ({dims(x.shape)})"
    node, module = x.node, dict(root.named_modules()).get(x.node.scope)
    what = f"of {dims(x.parents[0].shape[1:])}" if node.op.name == "reshape" else f"giving {dims(x.shape[1:])}"
    if isinstance(module, Layer):
        return f"{node.scope} ({type(module).__name__} {what})"
    return f"a {node.op.name}{' in ' * bool(node.scope)}{node.scope}{' at ' * bool(node.where)}{node.where} ({what})"


def advice(x: Tensor, wanted: int, what: str, got: int) -> str:
    """The likeliest mend, with a space in front."""
    if what == "inputs":
        if x.ndim > 2 and x.value.type.elements == wanted * x.shape[0]:
            return f" Flatten the {dims(x.shape[1:])} first: nn.Flatten()."
        if convolution := last_convolution(x):
            return f" Did the padding of {convolution} change?"
    return f" Should it have {got} {what}?"


def last_convolution(x: Tensor) -> str:
    """The path of the nearest convolution upstream of x, '' if there is none."""
    upstream = (t for t in reversed(reachable([x])) if t.node is not None and t.node.op.name == "conv2d")
    return next((t.node.scope for t in upstream), "")
