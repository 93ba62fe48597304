"""The report as a table for a terminal: a tree by module path, the columns that fit, the footer always."""

from __future__ import annotations

import io
import shutil
import textwrap

from graphc.ir.frozen import frozen
from graphc.ir.lazy import lazily

from .figures import Figures, Layer
from .text import COLUMNS, Column, batch, footer, inputs

rich_console, rich_table, rich_text = map(lazily, ("rich.console", "rich.table", "rich.text"))

GAP = 2  # blanks between columns


@frozen
class Line:
    """A line of the tree: a container's title (no layer) or a layer's row."""

    depth: int
    label: str
    layer: Layer | None = None


def tree(figures: Figures) -> list[Line]:
    """The layers with a title line wherever a container is entered."""
    lines: list[Line] = []
    inside: tuple[str, ...] = ()
    for layer in figures.layers:
        containers = layer.path[:-1]
        shared = next((i for i, (a, b) in enumerate(zip(inside, containers, strict=False)) if a != b), None)
        start = min(len(inside), len(containers)) if shared is None else shared
        for depth in range(start, len(containers)):
            path = containers[depth]
            lines.append(Line(depth, " ".join(filter(None, (last(path), figures.kinds.get(path))))))
        inside = containers
        name = last(layer.name)
        label = name if name.partition("#")[0] == layer.op else f"{name} {layer.op}"
        lines.append(Line(len(containers), label, layer))
    return lines


def last(path: str) -> str:
    return path.rpartition(".")[2]


def render_terminal(figures: Figures, width: int | None = None, color: bool = False) -> str:
    """The table as text of at most `width` columns (None: this terminal's, 80 where there is none); `color` adds
    escape sequences for bold and dim."""
    width = width or shutil.get_terminal_size((80, 24)).columns
    lines = tree(figures)
    labels = [" " * line.depth + line.label for line in lines]
    columns = fitting(figures, lines, width - widest(["layer", *labels]))

    text = rich_text.Text
    table = rich_table.Table(box=None, padding=(0, 0, 0, GAP), pad_edge=False, header_style="bold")
    table.add_column("layer", no_wrap=True, overflow="ellipsis")
    for column, _ in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for i, (line, label) in enumerate(zip(lines, labels, strict=True)):
        style = None if line.layer else "dim"
        table.add_row(text(label), *(text(cells[i]) for _, cells in columns), style=style)

    page = io.StringIO()
    console = rich_console.Console(file=page, width=width, force_terminal=color, no_color=not color)
    title = inputs(figures)
    used = widest(["layer", *labels]) + sum(GAP + widest([column.title, *cells]) for column, cells in columns)
    gap = max(min(width, used) - len(figures.model) - len(title), 2)
    console.print(text.assemble((figures.model, "bold"), " " * gap, title), overflow="fold")
    console.print(table)
    for line in footer(figures):
        for part in wrapped(line, width):
            console.print(text(part), overflow="fold")
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def fitting(figures: Figures, lines: list[Line], space: int) -> list[tuple[Column, list[str]]]:
    """The columns that `space` holds beside the tree, each with one cell a line; empty ones are left out."""
    extent = batch(figures)
    chosen: dict[str, tuple[Column, list[str]]] = {}
    for column in sorted(COLUMNS, key=lambda c: c.rank):
        texts = iter(column.cell(figures.layers, extent))
        cells = [next(texts) if line.layer else "" for line in lines]
        needed = GAP + widest([column.title, *cells])
        if any(cells) and (needed <= space or not column.rank):
            chosen[column.title] = column, cells
            space -= needed
    return [chosen[c.title] for c in COLUMNS if c.title in chosen]


def widest(texts: list[str]) -> int:
    return max(map(len, texts))


def wrapped(line: str, width: int) -> list[str]:
    """A line of the footer folded between its statements, which stay whole where they can."""
    statements = line.split(" · ")
    if len(statements) > 1:
        line = "\xa0· ".join(s.replace(" ", "\xa0") if len(s) + 2 <= width else s for s in statements)
    return [part.replace("\xa0", " ") for part in textwrap.wrap(line, width)]
