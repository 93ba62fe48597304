"""A traced graph, which is always in training form, enters; the graph that answers without learning leaves."""

from __future__ import annotations

from graphc.ir import Graph
from graphc.ops import interpret
from graphc.ops.norm import BatchNorm, BatchNormInference
from graphc.ops.random import Dropout


def inference_mode(graph: Graph) -> Graph:
    """`batch_norm(x, w, b, mean, var) -> batch_norm_inference(x, w, b, mean, var)`, `dropout(x, key) -> x`; nothing is
    updated, and state that only updates read (the random key) goes."""

    def rule(node, inputs):
        if isinstance(node.op, BatchNorm):
            return inputs[0].apply(BatchNormInference(node.op.eps), *inputs[1:]), inputs[3], inputs[4]
        return inputs[:1] if isinstance(node.op, Dropout) else None

    new = interpret(graph.replace(updates=()) if graph.updates else graph, rule)
    unread = {v for v in new.state if not new.users[v] and v not in new.outputs}
    if not unread:
        return new
    names = {v.name for v in unread}
    return new.replace(
        state=tuple(v for v in new.state if v not in unread),
        data={name: data for name, data in new.data.items() if name not in names},
    )
