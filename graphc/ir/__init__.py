"""The graph level: types, values, nodes, the builder, text, the verifier. Knows no concrete op."""

from .builder import current_scope, located, make_node, origin, scope, user_line
from .graph import Deferred, Graph, Node, Value, array_of
from .op import Cost, GraphcError, Op, ShapeError, require
from .text import ParseError, legal_name, parse, plain_name, show
from .types import NUMPY, TensorType, dims
from .verify import InvalidGraph, verify

__all__ = [
    "NUMPY",
    "Cost",
    "Deferred",
    "Graph",
    "GraphcError",
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
