"""Python's garbage collector while networks are compiled."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

YOUNG = 200_000  # new objects between looks; some 30 MB
_lock = Lock()
_before: list[tuple[int, int, int]] = []  # the user's thresholds, once for each that is inside


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Inside, Python looks for garbage less often. Compiling makes many small objects that stay for a while; to look
    through them, and through all that the user's program holds, again and again takes up to half of the time in which
    code is emitted. A collector that the user has switched off stays off."""
    with _lock:
        if not _before:
            young, *older = gc.get_threshold()
            _before.append((young, *older))
            gc.set_threshold(max(young, YOUNG) if young else 0, *older)
        else:
            _before.append(_before[0])
    try:
        yield
    finally:
        with _lock:
            thresholds = _before.pop()
            if not _before:
                gc.set_threshold(*thresholds)
