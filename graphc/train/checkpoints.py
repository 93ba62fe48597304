"""Weights in files: safetensors, written so that a file is either the old one or the new one, never half of it.

Enters and leaves: arrays by name, as `state_dict()` has them. Format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from graphc.ir import GraphcError


class WeightFileError(GraphcError):
    """A weight file that is missing, damaged, or cannot be written."""


def save_weights(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays to `path`; a file that is there stays whole until the new one is on the disk."""
    # Scalars such as num_batches_tracked keep their shape (); ascontiguousarray would make them (1,).
    arrays = {name: np.require(array, requirements="C") for name, array in weights.items()}
    write_whole(path, lambda temporary: save_file(arrays, temporary, metadata={"format": "np"}))


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


def check_writable(path: str | os.PathLike) -> None:
    """Raises WeightFileError where `path` cannot become a file: known before an hour of training, not after."""
    write_whole(path, lambda temporary: Path(temporary).touch(), keep=False)


def write_whole(path: str | os.PathLike, write: Callable[[str], None], keep: bool = True) -> None:
    """`write(temporary name)` beside `path`, then fsync and rename; on failure nothing is left behind.

    With `keep` false the file is only tried, and `path` is left as it was.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder")
        # Beside the result: on the same disk, so that the last step is one rename.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        os.close(handle)
    except OSError as error:
        raise WeightFileError(_unwritable(path, error)) from None
    try:
        write(temporary)
        if keep:
            os.chmod(temporary, 0o666 & ~_umask())
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.absolute().parent)
    except (OSError, SafetensorError) as error:
        raise WeightFileError(_unwritable(path, error)) from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or error
    return f"{path}: cannot be written: {why}\n  expected a file name in a folder open to writing"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: str | os.PathLike) -> None:
    """fsync(2) of a file, or of a folder, which makes a rename in it lasting; not every file system syncs folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not Path(path).is_dir():
            raise
    finally:
        os.close(handle)
