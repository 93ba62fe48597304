"""Graph text: `show` prints a graph for people and for `parse`, which reads it back to an equal graph.

Numbers of intermediate values are assigned at print time. A comment after `#` carries the module path and the line.
Data of weights is not part of the text.
"""

from __future__ import annotations

import ast
import re

from .errors import GraphcError
from .graph import Graph, Node, Value
from .op import Op
from .types import TensorType


def names(graph: Graph) -> dict[Value, str]:
    """The name each value has in the text: its own, or the number of the node result."""
    out = {v: v.name for v in graph.leaves}
    number = 0
    for node in graph.nodes:
        for v in node.outputs:
            out[v] = str(number)
            number += 1
    return out


def legal_name(name: str) -> bool:
    """Whether the text can hold this name of a leaf: no blanks, commas, brackets, quotes, % or #, and not a mere
    number, which is what results of nodes are called."""
    return bool(name) and not name.isdigit() and not _ILLEGAL.search(name)


def plain_name(text: str) -> str:
    """A name for a graph made of any text, such as a file's name: what the graph text cannot hold becomes `_`."""
    return _ILLEGAL.sub("_", text) or "graph"


def show(graph: Graph) -> str:
    """The graph as text; `parse` gives back an equal graph (without data)."""
    name = names(graph)
    inputs = ", ".join(f"%{v.name}: {v.type}" for v in graph.inputs)
    lines = [f"graph @{graph.name}({inputs}) {{"]
    for v in graph.weights:
        lines.append(f"  weight %{v.name}: {v.type}" + (" frozen" if v.name in graph.frozen else ""))
    lines += [f"  state %{v.name}: {v.type}" for v in graph.state]
    for node in graph.nodes:
        results = ", ".join(f"%{name[v]}" for v in node.outputs)
        types = ", ".join(str(v.type) for v in node.outputs)
        arguments = [f"%{name[v]}" for v in node.inputs]
        arguments += [f"{k}={show_attribute(a)}" for k, a in node.op.attributes().items()]
        note = "  ".join(filter(None, (node.scope, node.where)))
        call = f"  {results} = {node.op.name}({', '.join(arguments)}) : {types}"
        lines.append(call + (f"  # {note}" if note else ""))
    lines += [f"  update %{name[target]} = %{name[new]}" for target, new in graph.updates]
    lines.append("  return " + ", ".join(f"%{name[v]}" for v in graph.outputs))
    return "\n".join([*lines, "}"]) + "\n"


def show_attribute(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ",".join(map(show_attribute, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return f'"{value}"' if isinstance(value, str) else str(value)


class ParseError(GraphcError):
    """Text that is not a graph: the line's number, the line, and what was expected."""


_ILLEGAL = re.compile(r'[\s,()\[\]{}"%#]')
_HEAD = re.compile(r"graph @([^\s()]+)\((.*)\) \{")
_INPUT = re.compile(r"%(\S+): (\S+)")
_LEAF = re.compile(r"(weight|state) %(\S+): (\S+?)( frozen)?")
_CALL = re.compile(r"(%.+?) = (\w+)\((.*)\) : (.+?)(?:  # (.*))?")
_UPDATE = re.compile(r"update %(\S+) = %(\S+)")
_RETURN = re.compile(r"return\b ?(.*)")


def parse(text: str) -> Graph:
    """A graph from its text. Types are inferred again and compared with those written. Raises ParseError."""
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    reader = _Reader()
    head = None
    for number, line in lines:
        try:
            if head is None:
                head = reader.head(line)
            elif reader.ended:
                raise ParseError("expected nothing after the closing brace")
            else:
                reader.line(line)
        except (GraphcError, ValueError, TypeError, SyntaxError) as error:
            raise ParseError(f"line {number}: {line}\n  {getattr(error, 'bare', error)}") from error
    if head is None or reader.outputs is None or not reader.ended:
        what = "`graph @name(%input: type, ...) {`" if head is None else "`return ...` and `}`"
        raise ParseError(f"line {lines[-1][0] if lines else 1}: the text ends without {what}")
    return reader.graph(head)


class _Reader:
    """What was read so far, and values by the names the text gives them."""

    def __init__(self):
        self.values: dict[str, Value] = {}
        self.leaves: dict[str, list[Value]] = {"input": [], "weight": [], "state": []}
        self.frozen: set[str] = set()
        self.nodes: list[Node] = []
        self.updates: list[tuple[Value, Value]] = []
        self.outputs: tuple[Value, ...] | None = None
        self.ended = False

    def graph(self, name: str) -> Graph:
        leaves = (tuple(self.leaves[kind]) for kind in ("input", "weight", "state"))
        assert self.outputs is not None
        return Graph(name, *leaves, tuple(self.nodes), self.outputs, tuple(self.updates), frozenset(self.frozen))

    def head(self, line: str) -> str:
        """Reads the inputs; gives the graph's name."""
        match = _HEAD.fullmatch(line)
        if not match:
            raise ParseError("expected `graph @name(%input: type, ...) {`")
        for part in split_commas(match[2]):
            item = _INPUT.fullmatch(part)
            if not item:
                raise ParseError(f"expected an input such as `%x: f32[1,3]`, got `{part}`")
            self.leaf("input", item[1], item[2])
        return match[1]

    def line(self, line: str) -> None:
        if match := _LEAF.fullmatch(line):
            self.leaf(match[1], match[2], match[3])
            if match[4]:
                self.frozen.add(match[2])
        elif match := _UPDATE.fullmatch(line):
            self.updates.append((self.value(match[1]), self.value(match[2])))
        elif match := _CALL.fullmatch(line):
            self.nodes.append(self.node(*match.groups()))
        elif match := _RETURN.fullmatch(line):
            self.outputs = tuple(self.value(strip(n)) for n in split_commas(match[1]))
        elif line == "}":
            self.ended = True
        else:
            raise ParseError("expected a weight, state, call, update, return or closing brace")

    def leaf(self, kind: str, name: str, type: str) -> None:
        if not legal_name(name):
            raise ParseError(f"%{name} is no name for a leaf")
        self.leaves[kind].append(self.define(name, Value(TensorType.parse(type), name)))

    def define(self, name: str, value: Value) -> Value:
        if name in self.values:
            raise ParseError(f"%{name} is defined twice")
        self.values[name] = value
        return value

    def value(self, name: str) -> Value:
        if name not in self.values:
            raise ParseError(f"%{name} is not defined")
        return self.values[name]

    def node(self, results: str, op: str, arguments: str, types: str, note: str | None) -> Node:
        if op not in Op.registry:
            raise ParseError(f"no op named {op!r}")
        parts = split_commas(arguments)
        inputs = tuple(self.value(p[1:]) for p in parts if p.startswith("%"))
        attributes = dict(p.split("=", 1) for p in parts if not p.startswith("%"))
        made = Op.registry[op](**{k: read_attribute(v) for k, v in attributes.items()})
        inferred = made.infer(*(v.type for v in inputs))
        written = tuple(TensorType.parse(t) for t in split_commas(types))
        if inferred != written:
            raise ParseError(f"{op} gives {', '.join(map(str, inferred))}")
        outputs = tuple(Value(t) for t in inferred)
        for name, value in zip(split_commas(results), outputs, strict=True):
            self.define(strip(name), value)
        scope, _, where = (note or "").rpartition("  ")
        if not scope and ":" not in where:
            scope, where = where, ""
        return Node(made, inputs, outputs, scope, where)


def strip(name: str) -> str:
    """The name without its percent sign."""
    if not name.startswith("%"):
        raise ParseError(f"expected a value such as %0, got `{name}`")
    return name[1:]


def read_attribute(text: str) -> object:
    """The inverse of `show_attribute`."""
    if text in ("true", "false"):
        return text == "true"
    if text in ("inf", "-inf", "nan"):
        return float(text)
    if text.startswith("[") and text.endswith("]"):
        return tuple(map(read_attribute, split_commas(text[1:-1])))
    return ast.literal_eval(text)


def split_commas(text: str) -> list[str]:
    """Parts between commas that are not inside brackets or quotes."""
    parts, depth, quoted, start = [], 0, False, 0
    for i, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif not quoted:
            depth += (char in "[(") - (char in "])")
            if char == "," and depth == 0:
                parts.append(text[start:i].strip())
                start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts
