"""The graph level: types, values, nodes, the builder, text, the verifier. Knows no concrete op."""

from .builder import current_scope, line_of, located, make_node, origin, scope, user_line
from .errors import GraphcAttributeError, GraphcError, GraphcTypeError, GraphcValueError, ShapeError
from .graph import Deferred, Graph, Node, Value, array_of
from .op import Cost, Op, require
from .text import ParseError, legal_name, parse, plain_name, show
from .types import NUMPY, TensorType, dims
from .verify import InvalidGraph, verify

__all__ = [
    "NUMPY",
    "Cost",
    "Deferred",
    "Graph",
    "GraphcAttributeError",
    "GraphcError",
    "GraphcTypeError",
    "GraphcValueError",
    "InvalidGraph",
    "Node",
    "Op",
    "ParseError",
    "ShapeError",
    "TensorType",
    "Value",
    "array_of",
    "current_scope",
    "dims",
    "legal_name",
    "line_of",
    "located",
    "make_node",
    "origin",
    "parse",
    "plain_name",
    "require",
    "scope",
    "show",
    "user_line",
    "verify",
]
