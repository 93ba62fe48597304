"""How Python runs while networks are compiled: its garbage collector, and its threads' turns."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

YOUNG = 200_000  # new objects between looks for garbage; some 30 MB
TURN = 0.001  # seconds that a thread keeps Python while others wait; usually 0.005
_lock = Lock()
_before: list[tuple[tuple[int, int, int], float]] = []  # the user's settings, once for each that is inside


@contextmanager
def compiling() -> Iterator[None]:
    """Inside, Python looks for garbage less often, and its threads take shorter turns.

    Compiling makes many small objects that stay for a while; to look through them, and through all that the user's
    program holds, again and again takes up to half of the time in which code is emitted. A collector that the user has
    switched off stays off. Threads in LLVM need Python for a moment between its steps, a dozen times for each kernel,
    while the thread that emits kernels never pauses.
    """
    with _lock:
        if not _before:
            (young, *older), turn = gc.get_threshold(), sys.getswitchinterval()
            _before.append(((young, *older), turn))
            gc.set_threshold(max(young, YOUNG) if young else 0, *older)
            sys.setswitchinterval(min(turn, TURN))
        else:
            _before.append(_before[0])
    try:
        yield
    finally:
        with _lock:
            thresholds, turn = _before.pop()
            if not _before:
                gc.set_threshold(*thresholds)
                sys.setswitchinterval(turn)
