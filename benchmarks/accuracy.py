"""Errors of both precisions against float64, on the networks of the zoo at their own sizes, batch 1.

python -m benchmarks.accuracy [--models lenet5 resnet18] [--json]

RMS and largest error of the outputs, as parts of their scale, which is the largest exact magnitude.
"""

from __future__ import annotations

from graphc.accuracy import accuracy
from graphc.models import ZOO, get

from .measure import arguments, show


def row(name: str) -> dict[str, object]:
    entry = get(name)
    found = {a.precision: a for a in accuracy(entry.make(), entry.input)}
    errors = {f"{p}_{kind}": getattr(found[p], kind) for p in ("exact", "fast") for kind in ("rms", "max")}
    shape = "x".join(map(str, entry.input))
    return {"model": name, "input": shape, **errors, "rms_ratio": found["fast"].rms / found["exact"].rms}


def main() -> None:
    options = arguments(__doc__, models=list(ZOO))
    show("errors against float64, of the output's scale", [row(name) for name in options.models], options.json)


if __name__ == "__main__":
    main()
