"""Graph text: `show` prints a graph for people and for `parse`, which reads it back to an equal graph.

Numbers of intermediate values are assigned at print time. A comment after `#` carries the module path and the line.
Data of weights is not part of the text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from .builder import Value
from .graph import Graph, Node
from .op import GraphcError, Op
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


_HEAD = re.compile(r"graph @(\S+)\((.*)\) \{")
_LEAF = re.compile(r"(weight|state) %(\S+): (\S+?)( frozen)?")
_CALL = re.compile(r"(.+?) = (\w+)\((.*)\) : (.+?)(?:  # (.*))?")
_UPDATE = re.compile(r"update %(\S+) = %(\S+)")
_RETURN = re.compile(r"return ?(.*)")


def parse(text: str) -> Graph:
    """A graph from its text. Types are inferred again and compared with those written."""
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines or not (head := _HEAD.fullmatch(lines[0][1])):
        raise ParseError("line 1: expected `graph @name(%input: type, ...) {`")
    inputs = [part.split(": ") for part in split_commas(head[2])]
    reader = _Reader({})
    leaves: dict[str, list[Value]] = {"input": [], "weight": [], "state": []}
    for name, kind in inputs:
        leaves["input"].append(reader.define(name[1:], TensorType.parse(kind)))
    frozen, nodes, updates, outputs = set(), [], [], ()
    for number, line in lines[1:]:
        try:
            if match := _LEAF.fullmatch(line):
                leaves[match[1]].append(reader.define(match[2], TensorType.parse(match[3])))
                if match[4]:
                    frozen.add(match[2])
            elif match := _UPDATE.fullmatch(line):
                updates.append((reader.value(match[1]), reader.value(match[2])))
            elif match := _RETURN.fullmatch(line):
                outputs = tuple(reader.value(n[1:]) for n in split_commas(match[1]))
            elif match := _CALL.fullmatch(line):
                nodes.append(reader.node(*match.groups()))
            elif line != "}":
                raise ParseError("expected a weight, state, call, update or return")
        except (GraphcError, ValueError, TypeError, KeyError, SyntaxError) as error:
            raise ParseError(f"line {number}: {line}\n  {error}") from error
    return Graph(
        head[1],
        *(tuple(leaves[k]) for k in ("input", "weight", "state")),
        tuple(nodes),
        outputs,
        tuple(updates),
        frozenset(frozen),
    )


class _Reader:
    """Values by the names the text gives them."""

    def __init__(self, values: Mapping[str, Value]):
        self.values = dict(values)

    def define(self, name: str, kind: TensorType) -> Value:
        if name in self.values:
            raise ParseError(f"%{name} is defined twice")
        self.values[name] = Value(kind, name)
        return self.values[name]

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
        self.values.update(zip((n[1:] for n in split_commas(results)), outputs, strict=True))
        scope, _, where = (note or "").rpartition("  ")
        if not scope and ":" not in where:
            scope, where = where, ""
        return Node(made, inputs, outputs, scope, where)


def read_attribute(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    if text in ("inf", "-inf", "nan"):
        return float(text)
    value = ast.literal_eval(re.sub(r"(?<![\w.])(inf|nan)\b", r"'\1'", text) if "[" in text else text)
    return _tuples(value)


def _tuples(value: object) -> object:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return float(value) if value in ("inf", "-inf", "nan") else value


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
