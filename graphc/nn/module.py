"""Modules: networks as trees of named parts.

Attributes that are parameters, buffers or modules are registered under their names; the dotted path from the root is
the name in `state_dict`, in graphs and in errors, and equals PyTorch's for the same network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from difflib import get_close_matches

import numpy as np

from graphc.ir import GraphcAttributeError, GraphcError, GraphcTypeError, scope, user_line

from .parameter import Buffer, Parameter

# Modules whose forward runs now, outermost first.
_calls: ContextVar[tuple[Module, ...]] = ContextVar("calls", default=())


# What `Module.__init__` sets; the first three are the tables of parts.
MADE_BY_INIT = ("_parameters", "_buffers", "_modules", "_owned", "training", "declared")


def call_stack() -> tuple[Module, ...]:
    return _calls.get()


class Module:
    """Base of all networks and layers. Subclasses call `super().__init__()`, set parts as attributes, and define
    `forward`, which computes with symbolic tensors.

    `training` is for user code that builds different graphs for the two uses; `graphc.compile` and
    `graphc.compile_training` decide for the layers here, whatever it says of the whole network. Parts on which eval()
    was called while the whole is in training mode are frozen: batch norm keeps its running statistics and uses them,
    dropout does nothing. `declared` is the user's line that made it.
    """

    training: bool
    declared: str

    def __init__(self):
        for name in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(self, name, {})
        object.__setattr__(self, "training", True)
        object.__setattr__(self, "declared", user_line())
        object.__setattr__(self, "_owned", False)

    def forward(self, *inputs):
        raise GraphcError(f"{type(self).__name__} defines no forward(self, ...)")

    def __call__(self, *inputs, **options):
        if any(isinstance(t, np.ndarray) for t in inputs):
            raise GraphcError(
                f"{type(self).__name__} was called with an array\n"
                "  modules compute with symbolic tensors\n"
                "  for numbers: program = graphc.compile(model, input_shape); program(array)"
            )
        stack = _calls.get()
        token = _calls.set((*stack, self))
        try:
            with scope(stack[-1].name_of(self) if stack else ""):
                return self.forward(*inputs, **options)
        finally:
            _calls.reset(token)

    # Registration

    def __setattr__(self, name: str, value) -> None:
        kinds = {Buffer: "_buffers", Parameter: "_parameters", Module: "_modules"}
        home = next((where for kind, where in kinds.items() if isinstance(value, kind)), None)
        if "_modules" not in self.__dict__:
            if home is None:
                return object.__setattr__(self, name, value)
            raise GraphcError(f"{type(self).__name__}.__init__ must call super().__init__() before it sets {name!r}")
        held = self._buffers.get(name) or self._parameters.get(name)
        if home is None and held is not None and value is not None:
            held.data = value
            return None
        for table in kinds.values():
            if table != home:  # in the same table a part takes its predecessor's place
                getattr(self, table).pop(name, None)
        self.__dict__.pop(name, None)
        if home is None:
            object.__setattr__(self, name, value)
        else:
            self.register(home, name, value)
        return None

    def __getattr__(self, name: str):
        for table in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(table, ()):
                return self.__dict__[table][name]
        kind = type(self).__name__
        if "_modules" not in self.__dict__ and name in MADE_BY_INIT:
            raise GraphcAttributeError(f"{kind}.__init__ must call super().__init__() before anything else")
        if name.startswith("__"):  # asked by Python's own protocols, which have nobody to read a message
            raise AttributeError(name)
        own = [n for table in MADE_BY_INIT[:3] for n in self.__dict__.get(table, ())]
        near = get_close_matches(name, own, 1)
        hint = f"did you mean {near[0]}?" if near else f"its parts are: {', '.join(own) or 'none'}"
        where = user_line()
        raise GraphcAttributeError(f"{where}{'  ' * bool(where)}{kind} has no attribute {name!r}\n  {hint}")

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                return
        object.__delattr__(self, name)

    def register(self, home: str, name: str, value: Parameter | Module) -> None:
        """Puts a part into its table. The first module a part belongs to gives it its name, which its initial numbers
        depend on."""
        if not name or "." in name:
            raise GraphcError(f"a part of a module needs a name without dots, got {name!r}")
        getattr(self, home)[name] = value
        if isinstance(value, Module):
            if not value._owned:
                for _, inner in value.named_state():
                    inner.key = f"{name}.{inner.key}"
            object.__setattr__(value, "_owned", True)
        elif value.key == "parameter":
            value.key = name

    def register_buffer(self, name: str, value: Buffer | np.ndarray) -> None:
        """An array that is saved with the module but not trained."""
        if isinstance(value, Buffer):
            buffer = value
        else:
            array = np.asarray(value)
            buffer = Buffer(array, dtype="f32" if array.dtype.kind == "f" else "i32")
        setattr(self, name, buffer)

    def register_parameter(self, name: str, value: Parameter | None) -> None:
        setattr(self, name, value)

    def add_module(self, name: str, module: Module) -> None:
        if not isinstance(module, Module):
            hint = f"write {module.__name__}(...)" if isinstance(module, type) else "functions belong into a forward"
            hint = "give its elements: nn.Sequential(*layers)" if isinstance(module, list | tuple) else hint
            raise GraphcTypeError(f"{type(self).__name__}: part {name} must be a module, got {module!r}\n  {hint}")
        setattr(self, name, module)

    # Walks; shared parts come once, under their first name

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from self._modules.items()

    def children(self) -> Iterator[Module]:
        yield from self._modules.values()

    def named_modules(self, prefix: str = "", seen: set | None = None) -> Iterator[tuple[str, Module]]:
        """This module under the name `prefix`, then all modules in it."""
        seen = set() if seen is None else seen
        if self in seen:
            return
        seen.add(self)
        yield prefix, self
        for name, child in self._modules.items():
            yield from child.named_modules(joined(prefix, name), seen)

    def modules(self) -> Iterator[Module]:
        yield from (m for _, m in self.named_modules())

    def all_names(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Every name of every parameter and buffer in the order of PyTorch's state_dict; shared ones come again."""
        for table in (self._parameters, self._buffers):
            for name, value in table.items():
                yield joined(prefix, name), value
        for name, child in self._modules.items():
            yield from child.all_names(joined(prefix, name))

    def named_state(self) -> Iterator[tuple[str, Parameter]]:
        """Parameters and buffers, each once."""
        seen = set()
        for name, value in self.all_names():
            if value not in seen:
                seen.add(value)
                yield name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        yield from ((n, p) for n, p in self.named_state() if not isinstance(p, Buffer))

    def parameters(self) -> Iterator[Parameter]:
        yield from (p for _, p in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        yield from ((n, b) for n, b in self.named_state() if isinstance(b, Buffer))

    def buffers(self) -> Iterator[Buffer]:
        yield from (b for _, b in self.named_buffers())

    def get_submodule(self, path: str) -> Module:
        """The module at a dotted path, '' for this one."""
        module = self
        for name in filter(None, path.split(".")):
            if name not in module._modules:
                raise GraphcError(f"{type(self).__name__} has no module {path!r}")
            module = module._modules[name]
        return module

    def name_of(self, part: Module) -> str:
        """The path of a module within this one; '' where it is no part of it."""
        for name, child in self._modules.items():
            if child is part:
                return name
        return next((name for name, module in self.named_modules() if module is part), "")

    # State

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by name."""
        return {name: np.array(value.data) for name, value in self.all_names()}

    def load_state_dict(self, state: Mapping[str, np.ndarray], strict: bool = True) -> None:
        """Takes the values in `state`. Nothing is changed unless all of them fit: one error lists every missing,
        unexpected and mis-shaped name. `strict=False` lets names be missing or unexpected, but no shape be wrong."""
        if not isinstance(state, Mapping):
            raise GraphcTypeError(
                f"load_state_dict takes arrays by name, got {state!r:.80}\n"
                "  for a file: graphc.train.load_weights(path), or safetensors.numpy.load_file(path)"
            )
        own = dict(self.all_names())
        given = {name: np.asarray(value) for name, value in state.items()}
        satisfied = {own[name] for name in given if name in own}
        problems = []
        if strict:
            # a shared weight may be stored under one of its names only; PyTorch before 0.4.1 counted no batches
            absent = (n for n, p in own.items() if p not in satisfied and not n.endswith("num_batches_tracked"))
            problems += [f"missing: {n}" for n in absent]
            problems += [f"unexpected: {n}" for n in given if n not in own]
        misfits = ((n, own[n].misfit(array)) for n, array in given.items() if n in own)
        problems += [f"does not fit: {n} {why}" for n, why in misfits if why]
        first: dict[Parameter, str] = {}
        for name in filter(own.__contains__, given):
            other = first.setdefault(own[name], name)
            if other != name and not np.array_equal(given[other], given[name]):
                problems.append(f"different values: {other} and {name} are one weight of the model")
        if problems:
            title = f"weights do not fit {type(self).__name__}: {len(problems)} problem{'s' * (len(problems) > 1)}"
            raise GraphcError("\n  ".join([title, *problems]))
        for parameter, name in first.items():
            parameter.data = given[name]

    # Modes and the rest

    def train(self, mode: bool = True) -> Module:
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        return self

    def eval(self) -> Module:
        return self.train(False)

    def apply(self, function: Callable[[Module], object]) -> Module:
        """Calls `function` on every module, parts before wholes."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def extra_repr(self) -> str:
        """What stands between the brackets of repr."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({extra})"
        return "\n  ".join([f"{type(self).__name__}({extra}", *lines]) + "\n)"


def joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
