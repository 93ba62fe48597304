"""Networks by name: `lenet5` of the zoo, or `file.py:Class`. Enters: the text; leaves: a module and its input shape."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from graphc.ir import GraphcError, line_of
from graphc.ir.frozen import frozen
from graphc.nn import Module

ZOO = "graphc.models"


@frozen
class Network:
    """What the network is called, the module, and the shape of its input, batch first."""

    name: str
    model: Module
    shape: tuple[int, ...]


def find(
    text: str, shape: Sequence[int] | None = None, batch: int | None = None, classes: int | None = None
) -> Network:
    """The network `text` names. `shape` is needed for a file, and `batch` replaces its first extent; a network of the
    zoo has a shape of its own, and is made for the channels of another one and for `classes`.

    Raises GraphcError for an unknown name, with near ones, and for a file without that class.
    """
    name, make, default = from_file(text) if ".py" in text else from_zoo(text)
    shape = tuple(shape or default)
    if not shape:
        raise GraphcError(f"{text}: the shape of its input is not known\n  give it, e.g. --input 1,3,224,224")
    if batch:
        shape = (batch, *shape[1:])
    wanted: dict[str, int] = {}
    if default and len(shape) == len(default) and shape[1] != default[1]:
        wanted["in_channels"] = shape[1]
    if default and classes is not None:
        wanted["classes"] = classes
    try:
        model = make(**wanted)
    except GraphcError:
        raise
    except Exception as error:
        where = line_of(error)
        raise GraphcError(
            f"{where}{'  ' * bool(where)}model {text} cannot be made: {type(error).__name__}: {error}\n"
            f"  it was called as {text.rpartition(':')[2]}({', '.join(f'{n}={v}' for n, v in wanted.items())})\n"
            "  give its other arguments defaults"
        ) from error
    if not isinstance(model, Module):
        raise GraphcError(f"{text}: expected a class of nn.Module, or a function that makes one, got {model!r}")
    return Network(name, model, shape)


Found = tuple[str, Callable[..., object], tuple[int, ...]]


def from_zoo(name: str) -> Found:
    """Name, maker and input shape of a network of the zoo."""
    entry = importlib.import_module(ZOO).get(name)
    return name, entry.make, entry.input


def from_file(text: str) -> Found:
    """Name and maker of `file.py:Class`; its input shape is not known."""
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not file.endswith(".py") or not name:
        raise GraphcError(f"model {text}: expected file.py:Class, got no class\n  name the class of the network")
    if not path.is_file():
        raise GraphcError(f"model {text}: there is no file {file}")
    module = imported(path, text)
    found = getattr(module, name, None)
    if not callable(found):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == path.stem and callable(v)]
        raise GraphcError(f"model {text}: {file} has no {name}\n  it has: {', '.join(own) or 'nothing callable'}")
    return name.lower(), found, ()


def imported(path: Path, text: str):
    """The module in a file, which imports its neighbours as a script does."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    folder = str(path.absolute().parent)
    sys.path.insert(0, folder)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except GraphcError:
        raise
    except Exception as error:
        where = line_of(error)
        raise GraphcError(
            f"{where}{'  ' * bool(where)}model {text}: {path} cannot be imported\n  {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    return module
