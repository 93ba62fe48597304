"""Shape errors of layers in the user's terms: which layer, made on which line, what it expects, what came whence.

Enters: the error of an op's shape rule, the layer and its inputs. Leaves: the same error, told so.
"""

from __future__ import annotations

import re

from graphc.ir import ShapeError, current_scope, dims
from graphc.ops import Tensor

from .module import Module, call_stack

# What an op's rule says where an operand's extent is wrong: `linear expects 2450 inputs, got 1250 (1x1250)`.
_MISMATCH = re.compile(r"\w+ expects (?P<wanted>\d+) (?P<what>[\w ]+), got (?P<got>\d+)( \([\dx]+\))?")


def blame(error: ShapeError, layer: Module, inputs: tuple) -> ShapeError:
    """The error as `file:line  path (Class): expects .., got .. from ..`; the line is the one that made the layer."""
    if getattr(error, "explained", False):
        return error
    root = (*call_stack(), layer)[0]
    path = ".".join(filter(None, (current_scope(), call_stack()[-1].name_of(layer) if call_stack() else "")))
    what = f"{path} ({type(layer).__name__})" if path else type(layer).__name__
    text = getattr(error, "bare", str(error))
    operand = next((x for x in inputs if isinstance(x, Tensor)), None)
    if operand is not None:
        match = _MISMATCH.fullmatch(text)
        if match:
            text = f"expects {match['wanted']} {match['what']}, got {match['got']} from {source(operand, root)}."
            text += advice(operand, layer, int(match["wanted"]), match["what"], int(match["got"]), root)
        else:
            text += f"\n  its input comes from {source(operand, root)}"
    explained = ShapeError(f"{layer.declared}  {what}: {text}")
    explained.explained = True
    explained.place, explained.bare = layer.declared or what, text
    return explained


def source(x: Tensor, root: Module) -> str:
    """Where a tensor comes from: `features.2 (Flatten of 50x5x5)`, or the graph input, or a line of the user's."""
    if x.node is None:
        return f"{'the input' if x.kind == 'input' else x.kind} {x.value.name} ({dims(x.shape)})"
    module = module_at(root, x.node.scope)
    if module is None or module.forward.__func__.__module__ != __package__ + ".layers":
        within = f" in {x.node.scope}" if x.node.scope else ""
        line = f" at {x.node.where}" if x.node.where else ""
        return f"{x.node.op.name}{within}{line} ({dims(x.shape)})"
    if x.node.op.name == "reshape":
        return f"{x.node.scope} ({type(module).__name__} of {dims(x.parents[0].shape[1:])})"
    return f"{x.node.scope} ({type(module).__name__} giving {dims(x.shape[1:])})"


def module_at(root: Module, path: str) -> Module | None:
    return dict(root.named_modules()).get(path) if path else None


def advice(x: Tensor, layer: Module, wanted: int, what: str, got: int, root: Module) -> str:
    """The likeliest mend, with a space in front, or ''."""
    inside = dims(x.shape[1:])
    if what == "inputs":
        if x.ndim > 2 and x.value.type.elements == wanted * x.shape[0]:
            return f" Flatten the {inside} first: nn.Flatten()."
        convolution = last_convolution(x)
        if convolution:
            return f" Did the padding of {convolution} change?"
    return f" Should it have {got} {what}?" if got else ""


def last_convolution(x: Tensor) -> str:
    """The path of the nearest convolution upstream of x, '' if there is none."""
    stack, seen, best = [x], set(), None
    while stack:
        t = stack.pop()
        if t in seen:
            continue
        seen.add(t)
        if t.node is not None and t.node.op.name == "conv2d" and (best is None or t.serial > best.serial):
            best = t
        stack.extend(t.parents)
    return best.node.scope if best is not None else ""
