"""Reverse-mode differentiation as graph construction: a scalar tensor enters, its gradients leave as tensors.

Nothing is recorded and nothing is numeric: gradients are nodes like any other, so every pass applies to them and a
gradient can be differentiated again. Nodes made here carry the module path and line of the forward node they belong to.
Source: Griewank and Walther, Evaluating Derivatives, SIAM 2008, chapter 3 (the reverse mode).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from graphc.ir import Graph, GraphcError, GraphcTypeError, Node, Value, dims, located, origin
from graphc.ops import Tensor, apply, constant, graph_of, lift, sum_to
from graphc.ops.shape import Constant


def grad(f: Tensor, wrt: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the scalar `f` (f32, shape ()) with respect to each f32 tensor in `wrt`, in their shapes; zeros for
    a tensor that f does not depend on. Raises GraphcError where f is not a scalar or an op has no gradient."""
    one = isinstance(wrt, Tensor) or hasattr(wrt, "tensor") or not isinstance(wrt, Iterable)
    wrt = [wrt] if one else list(wrt)
    wrt = [t if isinstance(t, Tensor) else t.tensor() if hasattr(t, "tensor") else t for t in wrt]
    for t in (f, *wrt):
        if not isinstance(t, Tensor):
            raise GraphcTypeError(
                f"grad: got {t!r}\n  expected tensors and parameters\n  of a module: list(module.parameters())"
            )
    if f.dtype != "f32" or f.shape:
        raise GraphcError(
            f"grad needs a scalar\n  expected f32[], got {f.type}\n  reduce it first, e.g. with .sum() or .mean()"
        )
    for t in wrt:
        if t.dtype != "f32":
            raise GraphcError(f"grad with respect to {t!r}: only f32 tensors have gradients")
    return [zeros(t) if g is None else g for t, g in zip(wrt, pull_back([f], [constant(1.0)], wrt), strict=True)]


def zeros(like: Tensor) -> Tensor:
    return apply(Constant((0.0,), "f32", like.shape))


def pull_back(
    outputs: Sequence[Tensor], gradients: Sequence[Tensor | None], wrt: Sequence[Tensor], cut: bool = False
) -> list[Tensor | None]:
    """Gradients of `wrt` from the gradients of `outputs`; None where nothing flows. With `cut`, the tensors in `wrt`
    count as independent of each other: what made them is not looked at."""
    sources = {t.value for t in wrt}
    order = between(outputs, sources, cut)
    total: dict[Value, Tensor] = {}
    for t, g in zip(outputs, gradients, strict=True):
        accumulate(total, t, g)
    for t in reversed(order):
        dys = tuple(total.get(v) for v in t.node.outputs)
        if all(g is None for g in dys):
            continue
        with origin(t.node):
            for x, g in zip(t.parents, operand_gradients(t, dys), strict=True):
                if g is not None and x.dtype == "f32":
                    accumulate(total, x, sum_to(g, x.shape))
    return [total.get(t.value) for t in wrt]


def accumulate(total: dict[Value, Tensor], t: Tensor, g: Tensor | None) -> None:
    """Add g to the gradient of t."""
    if g is None:
        return
    if g.shape != t.shape:
        raise GraphcError(f"a gradient of shape {dims(g.shape)} for a tensor of shape {dims(t.shape)}")
    total[t.value] = total[t.value] + g if t.value in total else g


def between(outputs: Sequence[Tensor], sources: Collection[Value], cut: bool) -> list[Tensor]:
    """One result of each node that outputs depend on and that depends on sources, in the order they were made."""
    seen: set[Tensor] = set()
    stack = list(outputs)
    while stack:
        t = stack.pop()
        if t in seen:
            continue
        seen.add(t)
        if not (cut and t.value in sources):
            stack.extend(t.parents)
    active = set(sources)
    order: dict[Node, Tensor] = {}
    for t in sorted(seen, key=lambda t: t.serial):
        if t.node is not None and not (cut and t.value in sources) and any(p.value in active for p in t.parents):
            active.update(t.node.outputs)
            order.setdefault(t.node, t)
    return list(order.values())


def operand_gradients(t: Tensor, dys: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
    """Gradients of the operands of the node that made t: by the op's own rule, else through what it decomposes to."""
    node, op = t.node, t.node.op
    if op.vjp is not None:
        return op.vjp(t.parents, tuple(Tensor(v, node, t.parents) for v in node.outputs), dys)
    results = op.decompose(*t.parents) if op.decompose is not None else None
    if results is None:
        message = f"{op.name} has no gradient, and the scalar to differentiate depends on it"
        raise located(GraphcError(message), node.where, node.scope or op.name)
    return pull_back(results, dys, t.parents, cut=True)


def build_backward(graph: Graph, wrt: Sequence[str] | None = None) -> Graph:
    """The graph with gradients of its first output (the scalar loss) appended to its outputs, in the order of `wrt`:
    names of leaves, by default all trainable weights."""
    env = lift(graph)
    leaves = {v.name: env[v] for v in graph.leaves}
    if wrt is None:
        wrt = [v.name for v in graph.weights if v.name not in graph.frozen]
    if unknown := [name for name in wrt if name not in leaves]:
        raise GraphcError(f"graph {graph.name} has no leaves {unknown}; it has {sorted(leaves)}")
    gradients = grad(env[graph.outputs[0]], [leaves[name] for name in wrt])
    return graph_of(
        graph.name,
        [env[v] for v in graph.outputs] + gradients,
        [env[v] for v in graph.inputs],
        [(env[target], env[new]) for target, new in graph.updates],
        list(leaves.values()),
    )
