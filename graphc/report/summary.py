"""What a network costs, counted on its graph: enters a graph as the user wrote it (after `inference_mode`, before ops
are decomposed or folded), leaves a `Summary`. Reads types and ops alone, so it allocates nothing, whatever the size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby

from graphc.ir import Cost, Graph, Node, Value

from .document import render_html, render_json, render_markdown
from .figures import Figures, Layer, Totals, TrainingBytes
from .receptive_field import receptive_fields, window_of
from .terminal import render_terminal


class Summary(Figures):
    """The report of one network. Prints as the table that fits the terminal."""

    def __str__(self) -> str:
        return render_terminal(self)

    __repr__ = __str__

    def terminal(self, width: int | None = None, color: bool = False) -> str:
        """The table for a terminal of `width` columns (None: this one's)."""
        return render_terminal(self, width, color)

    def markdown(self) -> str:
        return render_markdown(self)

    def json(self) -> str:
        return render_json(self)

    def html(self) -> str:
        return render_html(self)


def summarise(
    graph: Graph,
    peak_activation_bytes: int | None = None,
    training: TrainingBytes | None = None,
    name: str | None = None,
    kinds: Mapping[str, str] | None = None,
    parameters: Collection[str] | None = None,
) -> Summary:
    """Count `graph`.

    `peak_activation_bytes`: the arena of the memory plan; None prints as not planned. `training`: memory of one
    training step. `kinds`: class name of every module by path, which names the rows and tells containers from layers.
    `parameters`: names of the weights that are parameters; the others are buffers, which no count includes
    (default: those that are trained).

    Arithmetic on weights and constants alone is not counted: it is done once, when the network is compiled.
    """
    if parameters is None:
        parameters = [v.name for v in graph.weights if v.name not in graph.frozen]
    counted = [v for v in graph.weights if v.name in set(parameters)]
    rows = Rows(graph, kinds or {}, counted)
    layers = tuple(rows.layer(scope, nodes) for scope, nodes in rows.calls())
    totals = Totals(
        params=sum(v.type.elements for v in counted),
        trainable_params=sum(v.type.elements for v in counted if v.name not in graph.frozen),
        macs=sum(layer.macs for layer in layers),
        flops=sum(layer.flops for layer in layers),
        weight_bytes=sum(v.type.bytes for v in counted),
        buffer_bytes=sum(v.type.bytes for v in graph.weights) - sum(v.type.bytes for v in counted),
        peak_activation_bytes=peak_activation_bytes,
        training=training,
    )
    unused = tuple(v.name for v in counted if v not in rows.seen)
    return Summary(name or graph.name, graph.inputs, layers, totals, rows.kinds, unused)


class Rows:
    """A graph cut into calls of layers. `seen` collects the weights that rows have counted."""

    def __init__(self, graph: Graph, kinds: Mapping[str, str], parameters: Sequence[Value]):
        self.kinds = kinds
        self.parameters = frozenset(parameters)
        self.fields = receptive_fields(graph)
        self.seen: set[Value] = set()
        self.taken: Counter[str] = Counter()
        self.sources, self.nodes = split_by_time(graph)
        paths = {*kinds, *(n.scope for n in self.nodes)}
        self.containers = {"", *(prefix for path in paths for prefix in prefixes(path))}

    def calls(self) -> list[tuple[str, list[Node]]]:
        """Neighbouring nodes of one layer together, nodes of containers each by itself."""
        keyed = ((n.scope, i if n.scope in self.containers else -1, n) for i, n in enumerate(self.nodes))
        return [(scope, [n for *_, n in run]) for (scope, _), run in groupby(keyed, key=lambda t: t[:2])]

    def layer(self, scope: str, nodes: list[Node]) -> Layer:
        """The row of one call."""
        functional = scope in self.containers
        costs = [n.op.cost(*(v.type for v in n.inputs)) for n in nodes]
        total = sum(costs, Cost())
        heaviest = max(zip(costs, nodes, strict=True), key=lambda pair: pair[0].flops)[1]
        kind = heaviest.op.name if functional else self.kinds.get(scope, heaviest.op.name)
        name = ".".join(filter(None, (scope, kind))) if functional else scope
        self.taken[name] += 1
        suffix = f"#{self.taken[name]}" if self.taken[name] > 1 else ""

        read = unique(leaf for n in nodes for v in n.inputs for leaf in self.sources.get(v, ()))
        weights = [v for v in read if v in self.parameters]
        fresh = [v for v in weights if v not in self.seen]
        self.seen.update(read)
        local = {v: v.name.removeprefix(f"{scope}.") for v in read}
        result = nodes[-1].output
        return Layer(
            name=name + suffix,
            path=(*prefixes(name), name + suffix),
            op=kind,
            window=next(filter(None, map(window_of, nodes)), None),
            output_shape=result.shape,
            weights={local[v]: v.shape for v in weights},
            buffers={local[v]: v.shape for v in read if v not in self.parameters},
            shared=frozenset(local[v] for v in weights if v not in fresh),
            params=sum(v.type.elements for v in fresh),
            macs=total.macs,
            flops=total.flops,
            activation_bytes=result.type.bytes,
            receptive_field=self.fields[result],
        )


def split_by_time(graph: Graph) -> tuple[dict[Value, tuple[Value, ...]], list[Node]]:
    """The values known at compile time with the weights behind each, and the nodes that run each time."""
    known: dict[Value, tuple[Value, ...]] = {v: (v,) for v in graph.weights}
    nodes = []
    for node in graph.nodes:
        if all(v in known for v in node.inputs):
            known.update(dict.fromkeys(node.outputs, unique(leaf for v in node.inputs for leaf in known[v])))
        else:
            nodes.append(node)
    return known, nodes


def prefixes(path: str) -> list[str]:
    """`a.b.c` lies in `a` and `a.b`."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def unique(items) -> tuple:
    return tuple(dict.fromkeys(items))
