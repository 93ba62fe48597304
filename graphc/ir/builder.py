"""The one place where nodes are made: types inferred on the spot, the user's module path and line remembered."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import GraphcError, ShapeError
from .graph import Node, Value
from .op import Op

_scope: ContextVar[tuple[str, ...]] = ContextVar("scope", default=())
_origin: ContextVar[tuple[str, str] | None] = ContextVar("origin", default=None)
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_ZOO = os.path.join(_PACKAGE, "models", "")
_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")
_INSTALLED = os.path.join(os.sep, "site-packages", "")


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Nodes made inside belong to module `name` within the current module path."""
    token = _scope.set((*_scope.get(), name) if name else _scope.get())
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def origin(node: Node) -> Iterator[None]:
    """Nodes made inside inherit the module path and line of `node`: how passes keep provenance."""
    token = _origin.set((node.scope, node.where))
    try:
        yield
    finally:
        _origin.reset(token)


def current_scope() -> str:
    inherited = _origin.get()
    return inherited[0] if inherited else ".".join(_scope.get())


def user_line() -> str:
    """`file:line` of the innermost caller outside graphc (the model zoo counts as a user), '' if there is none."""
    inherited = _origin.get()
    if inherited:
        return inherited[1]
    frame = sys._getframe(1)
    while frame is not None:
        if _is_users(frame.f_code.co_filename):
            return _shown(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return ""


def line_of(error: BaseException) -> str:
    """`file:line` of the user's last line that `error` passed on its way, '' if there is none. Neither Python's own
    library nor an installed package is the user."""
    places, step = [], error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if _is_users(file) and not file.startswith(_LIBRARY) and (_INSTALLED not in file or file.startswith(_ZOO)):
            places.append(_shown(file, step.tb_lineno))
        step = step.tb_next
    return places[-1] if places else ""


def _is_users(file: str) -> bool:
    return not file.startswith(_PACKAGE) or file.startswith(_ZOO)


def _shown(file: str, line: int) -> str:
    """The place from the working folder, where the file lies in it."""
    path = os.path.relpath(file) if os.path.isabs(file) else file
    return f"{file if path.startswith('..') else path}:{line}"


def make_node(op: Op, inputs: tuple[Value, ...]) -> Node:
    """A node with inferred output types; shape errors are raised with the user's line and module path in front."""
    where, path = user_line(), current_scope()
    try:
        types = op.infer(*(v.type for v in inputs))
    except ShapeError as error:
        raise located(error, where, path or op.name) from None
    return Node(op, inputs, tuple(Value(t) for t in types), path, where)


def located(error: GraphcError, where: str, what: str) -> GraphcError:
    """The same error with `file:line  what:` in front, unless it already has a place. `bare` is the text without."""
    if getattr(error, "place", ""):
        return error
    text = str(error) if not what or str(error).startswith(what) else f"{what}: {error}"
    placed = type(error)(f"{where}  {text}" if where else text)
    placed.place = where or what
    placed.bare = str(error)
    return placed
