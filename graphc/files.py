"""Files written whole: whoever looks finds the old file or the new one, never half of it, also after a power cut."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from graphc.ir import GraphcError


class WriteError(GraphcError):
    """A file that cannot be written."""

    exit_status = 1


def check_writable(path: str | os.PathLike) -> None:
    """Raises WriteError where `path` cannot become a file: known before an hour of training, not after."""
    write_whole(path, lambda temporary: Path(temporary).touch(), keep=False)


def write_whole(path: str | os.PathLike, write: Callable[[str], None], keep: bool = True) -> None:
    """`write(temporary name)` beside `path`, then fsync and rename; on failure nothing is left behind.

    With `keep` false the file is only tried, and `path` is left as it was. Raises WriteError for an OSError.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder")
        # Beside the result: on the same disk, so that the last step is one rename.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        os.close(handle)
    except OSError as error:
        raise WriteError(_unwritable(path, error)) from None
    try:
        write(temporary)
        if keep:
            os.chmod(temporary, 0o666 & ~_umask())
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.absolute().parent)
    except OSError as error:
        raise WriteError(_unwritable(path, error)) from None
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
