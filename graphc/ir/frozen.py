"""Frozen data: `@frozen` is `@dataclass(frozen=True)` that costs a fifth of the time when its module is imported.

What enters: a class with annotated fields. What leaves: the same class, a dataclass to `dataclasses.fields`, `replace`
and the rest, with the same constructor, equality, hash and text. `dataclass` writes and compiles six methods for each
class, which for the 150 of them here took a quarter of `import graphc` and more of loading a backend. Here classes
share all methods but the constructor, which stores its fields in one go: it is made and called in half the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import dataclass_transform


@dataclass_transform(field_specifiers=(field,), frozen_default=True)
def frozen(cls: type | None = None, /, *, eq: bool = True) -> Callable[[type], type] | type:
    """The class as frozen data; with `eq=False` an object is equal only to itself."""
    if cls is None:
        return lambda cls: frozen(cls, eq=eq)
    cls.__doc__ = cls.__doc__ or cls.__name__  # else dataclass would work out a signature for it
    made = dataclass(init=False, repr=False, eq=False)(cls)
    methods = {"__init__": _constructor(made), "__repr__": _text, "__setattr__": _assign, "__delattr__": _delete}
    if eq:
        methods |= {"_compared": staticmethod(_getter(made)), "__eq__": _equal, "__hash__": _hash}
    for name, method in methods.items():
        if name not in made.__dict__:
            setattr(made, name, method)
    return made


def _getter(cls: type) -> Callable[[object], tuple]:
    """From an object to the tuple of its fields that count."""
    names = [f.name for f in fields(cls) if f.compare]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple([getattr(self, name) for name in names])


def _equal(self, other: object) -> bool:
    return self._compared(self) == other._compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self) -> int:
    return hash(self._compared(self))


@recursive_repr()
def _text(self) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _assign(self, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _constructor(cls: type) -> Callable[..., None]:
    """`__init__(self, a, b=default)`, which stores the fields and then calls `__post_init__` where there is one."""
    known: dict[str, object] = {"MISSING": MISSING}
    parameters, stored = ["self"], []
    for f in fields(cls):
        name = value = f.name
        if f.default_factory is not MISSING:
            known[f"make_{name}"] = f.default_factory
            value = f"make_{name}() if {name} is MISSING else {name}"
            parameters.append(f"{name}=MISSING")
        elif f.default is not MISSING:
            known[f"default_{name}"] = f.default
            parameters.append(f"{name}=default_{name}")
        else:
            parameters.append(name)
        stored.append(f"{name}={value}")
    then = "; self.__post_init__()" if hasattr(cls, "__post_init__") else ""
    exec(f"def __init__({', '.join(parameters)}): self.__dict__.update({', '.join(stored)}){then}", known)
    made = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made
