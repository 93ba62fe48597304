"""Modules loaded at their first use, so that `import graphc` is quick: networkx alone would double its time (+0.1 s).

For networkx write `from graphc.ir.lazy import networkx as nx`; a plain import of the package would load it at once.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class _Lazy(ModuleType):
    """Stands for a module of its name. It is not in `sys.modules`: Python's importer, which asks a package for its
    path before it looks for a submodule, would load the package then and the submodule a second time."""

    def __getattr__(self, attribute: str) -> object:
        found = getattr(import_module(self.__name__), attribute)
        setattr(self, attribute, found)
        return found


def lazily(name: str) -> ModuleType:
    """The module, executed when an attribute is first asked for."""
    return _Lazy(name)


networkx = lazily("networkx")
