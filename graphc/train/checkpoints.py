"""Weights in files: safetensors, either the old file or the new one, never half of it.

Enters and leaves: arrays by name, as `state_dict()` has them. Format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from graphc.files import write_whole
from graphc.ir import GraphcError


class WeightFileError(GraphcError):
    """A weight file that is missing or damaged."""


def save_weights(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays to `path` as a whole. Raises WriteError."""
    # Scalars such as num_batches_tracked keep their shape (); ascontiguousarray would make them (1,).
    arrays = {name: np.require(array, requirements="C") for name, array in weights.items()}
    write_whole(path, partial(_write, arrays))


def _write(arrays: dict[str, np.ndarray], path: str) -> None:
    try:
        save_file(arrays, path, metadata={"format": "np"})
    except SafetensorError as error:  # it wraps those of the system
        raise OSError(str(error)) from None


def load_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name. Raises WeightFileError."""
    path = Path(path)
    if not path.exists():
        near = sorted(p.name for p in path.absolute().parent.glob("*.safetensors"))[:5]
        raise WeightFileError(
            f"weight file {path}: not found\n  expected a safetensors file"
            + (f"; {path.absolute().parent} holds {', '.join(near)}" if near else "")
            + "\n  `graphc train` makes one"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightFileError(
            f"weight file {path}: is damaged, or no safetensors file\n  {error} ({path.stat().st_size:,} bytes)\n"
            f"  copy it again, or make it anew with `graphc train`"
        ) from None
    except OSError as error:
        raise WeightFileError(f"weight file {path}: cannot be read: {error.strerror or error}") from None
