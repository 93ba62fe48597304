"""Modules that hold modules in order: `Sequential` and `ModuleList`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from graphc.ir import GraphcTypeError

from .module import Module


class Chain(Module):
    """What Sequential and ModuleList share. A slice is one of its kind with the same modules under the same names."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice):
        names = list(self._modules)
        if isinstance(index, slice):
            return type(self)({name: self._modules[name] for name in names[index]})
        if not -len(names) <= index < len(names):
            raise IndexError(f"index {index} of a {type(self).__name__} of {len(names)}")
        return self._modules[names[index]]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(list(self._modules)[index], module)

    def fill(self, modules: Iterable[Module] | Mapping[str, Module]) -> None:
        """Under the names of a mapping, else under numbers."""
        if not isinstance(modules, Mapping):
            self.extend(modules)
            return
        for name, module in modules.items():
            self.add_module(name, module)

    def append(self, module: Module) -> Chain:
        number = len(self)
        while str(number) in self._modules:  # a slice keeps the numbers it was cut with
            number += 1
        self.add_module(str(number), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Chain:
        for module in modules:
            self.append(module)
        return self


class Sequential(Chain):
    """Modules one after the other, given as arguments or as one mapping from names to modules."""

    def __init__(self, *modules: Module | Mapping[str, Module]):
        super().__init__()
        self.fill(modules[0] if len(modules) == 1 and isinstance(modules[0], Mapping) else modules)

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


class ModuleList(Chain):
    """A list of modules; the module that holds it calls them."""

    def __init__(self, modules: Iterable[Module] | Mapping[str, Module] = ()):
        super().__init__()
        if not isinstance(modules, Iterable):
            raise GraphcTypeError(f"ModuleList takes a list of modules, got {modules!r}\n  write ModuleList([...])")
        self.fill(modules)
