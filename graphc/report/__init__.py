"""The report: what a network costs. `summarise` counts a graph, `Summary` prints itself."""

from .document import render_html, render_json, render_markdown
from .figures import Figures, Layer, Totals, TrainingBytes, Window
from .receptive_field import receptive_fields
from .summary import Summary, summarise
from .terminal import render_terminal

__all__ = [
    "Figures",
    "Layer",
    "Summary",
    "Totals",
    "TrainingBytes",
    "Window",
    "receptive_fields",
    "render_html",
    "render_json",
    "render_markdown",
    "render_terminal",
    "summarise",
]
