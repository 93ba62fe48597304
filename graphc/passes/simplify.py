"""A graph enters; the graph with algebraic identities applied until none is left leaves.

Every rule is a small function on the result tensor of a node, `before -> after` in its docstring, giving the new tensor
or None. No rule changes a number, but for the sign of a zero (-0 + 0) and the rounding of log_softmax, which gains.
Nothing is assumed finite: 0 * x is not 0 where x is infinite or NaN, so it stays.
"""

from __future__ import annotations

from graphc.ir import Graph, Op
from graphc.ops import Tensor, interpret
from graphc.ops.elementwise import Elementwise
from graphc.ops.graphs import keep
from graphc.ops.reduce import Reduction

from .arithmetic_identities import ARITHMETIC, drop_expand
from .matching import Rule
from .row_identities import rows_of_elementwise, rows_of_reduction
from .shape_identities import SHAPES

RULES: dict[type[Op], tuple[Rule, ...]] = {**ARITHMETIC, **SHAPES}
FAMILIES: dict[type[Op], tuple[Rule, ...]] = {
    Elementwise: (drop_expand, rows_of_elementwise),
    Reduction: (rows_of_reduction,),
}


def simplify(graph: Graph) -> Graph:
    """The graph with every rule of `RULES` applied wherever it fits."""

    def rule(node, inputs):
        results = keep(node, inputs)
        if len(results) > 1 or (new := simplified(results[0])) is results[0]:
            return None
        return (new,)

    while (new := interpret(graph, rule)) is not graph:
        graph = new
    return graph


def simplified(t: Tensor) -> Tensor:
    """The tensor by the first rules that fit, one after the other."""
    while t.node is not None:
        for rule in rules_of(t.node.op):
            if (new := rule(t)) is not None:
                t = new
                break
        else:
            break
    return t


def rules_of(op: Op) -> tuple[Rule, ...]:
    family = next((rules for kind, rules in FAMILIES.items() if isinstance(op, kind)), ())
    return RULES.get(type(op), ()) + family
