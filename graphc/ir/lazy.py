"""Modules loaded at their first use, so that `import graphc` is quick: networkx alone would double its time (+0.1 s).

For networkx write `from graphc.ir.lazy import networkx as nx`; a plain import of the package would load it at once.
"""

from __future__ import annotations

import sys
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType


def lazily(name: str) -> ModuleType:
    """The module, executed when an attribute is first asked for."""
    if name in sys.modules:
        return sys.modules[name]
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec.loader = LazyLoader(spec.loader)
    module = module_from_spec(spec)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)  # as importing it would
    spec.loader.exec_module(module)
    return module


networkx = lazily("networkx")
