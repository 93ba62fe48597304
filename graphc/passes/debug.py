"""What GRAPHC_DEBUG and GRAPHC_DUMP ask for. Neither changes a result.

GRAPHC_DEBUG=1 prints passes, node counts and milliseconds, and what came from the cache of object code; 2 kernels too,
3 the graph after each pass that changed it.
GRAPHC_DUMP=folder writes every level as a numbered text file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from graphc.ir import GraphcError

T = TypeVar("T")


def debug_level() -> int:
    text = os.environ.get("GRAPHC_DEBUG", "") or "0"
    if not text.isdigit():
        raise GraphcError(f"GRAPHC_DEBUG\n  expected 0, 1, 2 or 3, got {text!r}")
    return int(text)


def report(text: str) -> None:
    """A line for the person who debugs, on standard error."""
    print(text, file=sys.stderr)


def dump(label: str, show: Callable[[T], str], value: T) -> None:
    """Writes `show(value)` to `<GRAPHC_DUMP>/<number>.<label>.txt`, numbered after what the folder holds; nothing if
    unset."""
    folder = os.environ.get("GRAPHC_DUMP")
    if not folder:
        return
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in path.glob("*.txt"))
    (path / f"{number:03}.{label}.txt").write_text(show(value), encoding="utf-8")
