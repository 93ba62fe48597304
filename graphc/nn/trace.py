"""Tracing: a module or function called on symbolic tensors, and what it left behind.

Enters: a callable and its input tensors. Leaves: a `Trace` of output tensors, the leaves of the module's weights and
buffers (named as in its state_dict), and the new values that running statistics and the random key take after a step.
There is one trace for inference and training, in training form but for parts that eval() froze; the pass
`inference_mode` makes the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import numpy as np

from graphc.ir import Graph, GraphcError, GraphcTypeError, TensorType, line_of
from graphc.ir.frozen import frozen
from graphc.ops import Tensor, constant, graph_of, leaf

from .init import current_seed

RANDOM_KEY = "random.key"


@frozen
class Trace:
    """`outputs` as called; `updates` pairs a leaf with its next value; `leaves` are all weights, buffers and state."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    updates: tuple[tuple[Tensor, Tensor], ...]
    leaves: tuple[Tensor, ...]

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Parameters and buffers, in the order of the state_dict."""
        return tuple(t for t in self.leaves if t.kind == "weight")

    def graph(self, name: str, outputs: Sequence[Tensor] | None = None, inputs: Sequence[Tensor] = ()) -> Graph:
        """The traced graph. `outputs` replaces the outputs (a loss computed from them), `inputs` adds further inputs
        (its targets)."""
        outputs = self.outputs if outputs is None else outputs
        return graph_of(name, outputs, [*self.inputs, *inputs], self.updates, self.leaves)


@dataclass
class Recorder:
    """What a trace collects while the user's code runs."""

    names: dict[object, str] = field(default_factory=dict)  # parameter -> name of its leaf
    leaves: dict[object, Tensor] = field(default_factory=dict)
    updates: dict[Tensor, Tensor] = field(default_factory=dict)
    modes: bool = False  # whether the layers' own modes count
    streams: int = 0
    key: Tensor | None = None

    def leaf(self, parameter) -> Tensor:
        """The one leaf that stands for a parameter or buffer in this trace."""
        if parameter not in self.leaves:
            name = self.names.get(parameter) or unique(parameter.key, set(self.names.values()))
            self.names[parameter] = name
            self.leaves[parameter] = leaf("weight", name, parameter.type, parameter, parameter.trainable)
        return self.leaves[parameter]

    def update(self, target: Tensor, new: Tensor) -> None:
        """`target` takes the value `new` when the step ends. A layer called twice has the later say, as in PyTorch,
        where the second call starts from what the first one left."""
        self.updates[target] = new

    def latest(self, target: Tensor) -> Tensor:
        """The value that `target` has by now: its last update in this trace, else itself."""
        return self.updates.get(target, target)

    def random_key(self) -> Tensor:
        """The random key, i32[4]: seed low and high, step low and high. Every step counts it up by one."""
        if self.key is None:
            seed = current_seed()
            words = np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, 0, 0], np.uint32).view(np.int32)
            self.key = leaf("state", RANDOM_KEY, TensorType("i32", (4,)), words)
            carry = self.key[2:3].equal(-1).cast("i32")
            step = constant([0, 0, 1, 0], "i32") + carry * constant([0, 0, 0, 1], "i32")
            self.updates[self.key] = self.key + step
        return self.key

    def stream(self) -> int:
        """A number for each use of the random key, in the order of tracing."""
        self.streams += 1
        return self.streams - 1


class Ambient(Recorder):
    """The recorder of code that runs outside of any trace: it names leaves, and forgets updates. A leaf lives as long
    as its parameter, so names are free again once their parameter is gone."""

    def __init__(self):
        super().__init__()
        self.taken: WeakValueDictionary[str, object] = WeakValueDictionary()

    def leaf(self, parameter) -> Tensor:
        if parameter.ambient is None:
            name = unique(parameter.key, self.taken)
            self.taken[name] = parameter
            parameter.ambient = leaf("weight", name, parameter.type, parameter)
        parameter.ambient.trainable = parameter.trainable
        return parameter.ambient

    def update(self, target: Tensor, new: Tensor) -> None:
        """Nothing steps here."""


def unique(name: str, taken) -> str:
    """`name`, or the first of name.1, name.2, ... that is not taken."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    return free


_ambient = Ambient()
_recorder: ContextVar[Recorder] = ContextVar("recorder", default=_ambient)


def recorder() -> Recorder:
    """The recorder of the trace that runs now, or the ambient one."""
    return _recorder.get()


def learning(module) -> bool:
    """Whether a layer is to be traced in training form: always, unless eval() has frozen it as a part of a network that
    is in training mode itself."""
    return module.training or not recorder().modes


@contextmanager
def recording(new: Recorder) -> Iterator[Recorder]:
    token = _recorder.set(new)
    try:
        yield new
    finally:
        _recorder.reset(token)


def trace(target: Callable, inputs: Sequence[Tensor]) -> Trace:
    """`target(*inputs)` traced. For a Module all its parameters and buffers become leaves under their state_dict
    names, whether they are read or not; the parameters a plain function meets are named as their modules know them."""
    inputs = tuple(inputs)
    if isinstance(target, type):
        raise GraphcTypeError(
            f"{target.__name__} is a class\n  expected an object of it, a network\n  write {target.__name__}(...)"
        )
    with recording(Recorder(modes=getattr(target, "training", False) is True)) as rec:
        if hasattr(target, "named_state"):
            for name, parameter in target.named_state():
                rec.names[parameter] = name
                rec.leaf(parameter)
        try:
            value = target(*inputs)
        except GraphcError:
            raise
        except Exception as error:
            raise failed(target, inputs, error) from error
        outputs = results(value, target)
        if hasattr(target, "named_state"):
            check_registered(target, rec)
        leaves = tuple(rec.leaves.values()) + ((rec.key,) if rec.key is not None else ())
        return Trace(inputs, outputs, tuple(rec.updates.items()), leaves)


def results(value: object, target: object) -> tuple[Tensor, ...]:
    """The tensors a call returned."""
    found = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not found or not all(isinstance(t, Tensor) for t in found):
        got = ", ".join("None" if t is None else type(t).__name__ for t in found) or "nothing"
        text = f"{called(target)} must return a Tensor or a tuple of Tensors\n  it returned: {got}"
        if len(found) == 1 and found[0] is None:
            text += "\n  does it end with `return`?"
        elif found and hasattr(found[0], "named_state"):
            text += f"\n  it makes a network: compile what it returns, {called(target)}(...)"
        raise GraphcTypeError(text)
    return found


def called(target: object) -> str:
    """What to call a network or function in a message."""
    return type(target).__name__ if hasattr(target, "forward") else getattr(target, "__name__", "the function")


def failed(target: Callable, inputs: Sequence[Tensor], error: Exception) -> GraphcError:
    """An exception that the user's code raised, as an error with its line; the traceback is its cause."""
    where, kinds = line_of(error), ", ".join(str(t.type) for t in inputs)
    return GraphcError(
        f"{where}{'  ' * bool(where)}{called(target)} failed: {type(error).__name__}: {error}\n"
        f"  it was called once, on {len(inputs)} symbolic tensor{'s' * (len(inputs) != 1)} ({kinds})\n"
        "  compute with the methods of graphc.Tensor and the functions of graphc and graphc.nn.functional"
    )


def check_registered(network, rec: Recorder) -> None:
    """Every weight that was read must be a part of the network, else nothing would save it, load it or see it train."""
    known = {parameter for _, parameter in network.named_state()}
    strays = [name for parameter, name in rec.names.items() if parameter not in known]
    if strays:
        raise GraphcError(
            f"{called(network)} computes with weights that are no part of it: {', '.join(strays)}\n"
            f"  expected modules and parameters as attributes of a module{held_apart(network)}\n"
            "  put a list of modules into nn.ModuleList(...)"
        )


def held_apart(network) -> str:
    """The attributes that hold modules where they are not seen, as half a sentence."""
    found = [
        f"{type(module).__name__}.{name}"
        for module in network.modules()
        for name, value in vars(module).items()
        if isinstance(value, list | tuple) and any(hasattr(part, "named_state") for part in value)
    ]
    return f", got a plain list: {', '.join(found)}" if found else ""
