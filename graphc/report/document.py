"""The report for files and other programs: JSON, Markdown, and one HTML page that needs nothing beside itself."""

from __future__ import annotations

import json
from html import escape

from graphc.ir import NUMPY

from .figures import Figures, Layer
from .text import COLUMNS, batch, footer, inputs


def render_json(figures: Figures) -> str:
    """One JSON object: `model`, `inputs`, `layers`, `totals`."""
    return json.dumps(as_data(figures), indent=2)


def as_data(figures: Figures) -> dict:
    """The report in dictionaries and lists. Sizes in bytes, shapes with the batch."""
    t = figures.totals
    totals = {
        "params": t.params,
        "trainable_params": t.trainable_params,
        "macs": t.macs,
        "flops": t.flops,
        "weight_bytes": t.weight_bytes,
        "buffer_bytes": t.buffer_bytes,
        "peak_activation_bytes": t.peak_activation_bytes,
    }
    if t.training:
        totals["training"] = {
            "gradient_bytes": t.training.gradients,
            "optimizer_state_bytes": t.training.optimizer_state,
            "saved_activation_bytes": t.training.saved_activations,
            "total_bytes": t.training.total,
        }
    return {
        "model": figures.model,
        "inputs": [{"name": v.name, "dtype": str(NUMPY[v.dtype]), "shape": list(v.shape)} for v in figures.inputs],
        "layers": [layer_data(layer) for layer in figures.layers],
        "totals": totals,
    }


def layer_data(layer: Layer) -> dict:
    w = layer.window
    return {
        "name": layer.name,
        "op": layer.op,
        "kernel": list(w.kernel) if w else None,
        "stride": list(w.stride) if w else None,
        "padding": list(w.padding) if w else None,
        "dilation": list(w.dilation) if w else None,
        "groups": w.groups if w else None,
        "output_shape": list(layer.output_shape),
        "weights": {name: list(shape) for name, shape in layer.weights.items()},
        "buffers": {name: list(shape) for name, shape in layer.buffers.items()},
        "shared": sorted(layer.shared),
        "params": layer.params,
        "macs": layer.macs,
        "flops": layer.flops,
        "activation_bytes": layer.activation_bytes,
        "receptive_field": list(layer.receptive_field) if layer.receptive_field else None,
    }


def cells(figures: Figures) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Titles with right-alignment, and the rows, layer and op first."""
    extent = batch(figures)
    columns = [[layer.name for layer in figures.layers], [layer.op for layer in figures.layers]]
    columns += [column.cell(figures.layers, extent) for column in COLUMNS]
    titles = [("layer", False), ("op", False), *((column.title, column.right) for column in COLUMNS)]
    return titles, [list(row) for row in zip(*columns, strict=True)]


def render_markdown(figures: Figures) -> str:
    """A Markdown section with the table and the totals."""
    titles, rows = cells(figures)
    marks = ["---:" if right else ":---" for _, right in titles]
    table = [[title for title, _ in titles], marks, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    totals = "\n".join(f"- {line}" for line in footer(figures))
    return f"## {figures.model}\n\n{inputs(figures)}\n\n" + "\n".join(lines) + f"\n\n{totals}\n"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #111; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .2rem .6rem; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #111; position: sticky; top: 0; background: #fff; }
tr + tr td { border-top: 1px solid #ddd; }
.n { text-align: right; }
"""


def render_html(figures: Figures) -> str:
    """A whole HTML page."""
    titles, rows = cells(figures)
    right = ['class="n"' if r else "" for _, r in titles]

    def line(tag: str, texts: list[str]) -> str:
        made = (f"<{tag} {c}>{escape(x)}</{tag}>".replace(" >", ">") for c, x in zip(right, texts, strict=True))
        return "<tr>" + "".join(made) + "</tr>"

    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(figures.model)}</title>',
            f"<style>{STYLE}</style></head><body>",
            f"<h1>{escape(figures.model)}</h1>",
            f"<p>{escape(inputs(figures))}</p>",
            "<table><thead>",
            line("th", [title for title, _ in titles]),
            "</thead><tbody>",
            *(line("td", row) for row in rows),
            "</tbody></table>",
            *(f"<p>{escape(text)}</p>" for text in footer(figures)),
            "</body></html>",
            "",
        ]
    )
