"""What a network answered, for people, as data, and in `.npy` files: the same forms as the executables write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from graphc.files import write_whole
from graphc.ir import dims
from graphc.ir.frozen import frozen

FEW = 8


@frozen(eq=False)
class Answer:
    """Outputs of one run, and the files its inputs came from. `labels` may name the classes."""

    files: tuple[str, ...]
    outputs: tuple[np.ndarray, ...]
    labels: tuple[str, ...] = ()

    def rows(self) -> np.ndarray | None:
        """Scores (N, classes) of a network with one such output, else None."""
        return self.outputs[0] if len(self.outputs) == 1 and self.outputs[0].ndim == 2 else None

    def lines(self, top: int) -> list[str]:
        """The `top` best classes of each row, one a line; the first few values of anything else."""
        title = " ".join("standard input" if f == "-" else f for f in self.files)
        rows = self.rows()
        if rows is None:
            return [f"{title}: {out.dtype} {dims(out.shape)}: {few(out)}" for out in self.outputs]
        return [
            f"{title}{f'[{i}]' if len(rows) > 1 else ''}: {self.told(row, k)}"
            for i, row in enumerate(rows)
            for k in best(row, top)
        ]

    def told(self, row: np.ndarray, k: int) -> str:
        return f"{self.labels[k]} (class {k}, score {row[k]:.6g})" if self.labels else f"{k} (score {row[k]:.6g})"

    def data(self, top: int) -> dict[str, object]:
        """The same as data for JSON."""
        rows = self.rows()
        named = (lambda k: {"label": self.labels[k]}) if self.labels else lambda k: {}
        found = [
            [{"class": k, **named(k), "score": number(row[k])} for k in best(row, top)]
            for row in (rows if rows is not None else ())
        ]
        values = [
            {"shape": list(out.shape), "dtype": str(out.dtype), "values": [number(v) for v in out.ravel()]}
            for out in self.outputs
        ]
        return {"inputs": list(self.files), **({} if rows is None else {"top": found}), "outputs": values}


def best(row: np.ndarray, top: int) -> list[int]:
    """The `top` greatest, NaN last, the lower class first among equals."""
    return np.argsort(-row, kind="stable")[:top].tolist()


def few(array: np.ndarray) -> str:
    shown = " ".join(f"{value:.6g}" for value in array.ravel()[:FEW])
    return shown + (f" ... ({array.size} values; --output FILE.npy writes them)" if array.size > FEW else "")


def number(value: np.generic) -> float | int | None:
    """Nine digits bring a float32 back, as in the executables. JSON has no NaN and no infinity: null."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.9g}") if isinstance(value, np.floating) else value.item()


def save(path: str, arrays: Sequence[np.ndarray]) -> None:
    """`path` for one array; FILE-1.npy, FILE-2.npy, ... for several."""
    stem, end = (path[:-4], path[-4:]) if path.endswith(".npy") else (path, "")
    for i, array in enumerate(arrays, 1):
        write_whole(path if len(arrays) == 1 else f"{stem}-{i}{end}", partial(save_array, array))


def save_array(array: np.ndarray, path: str) -> None:
    # An open file: numpy.save would add .npy to a name without it.
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
