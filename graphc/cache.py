"""Compiled code kept by content: in this process, and on disk for the next one. Every backend's is here.

What enters: a key, made of everything that can change the code, and bytes. What leaves: the same bytes, or None. The
folder is `$GRAPHC_CACHE`, else `$XDG_CACHE_HOME/graphc`, else `~/.cache/graphc`; GRAPHC_CACHE=off keeps nothing on
disk. An entry is a file named by its key that begins with a digest of the rest. It is written beside its place and
renamed, so a reader sees a whole entry or none; one that is not whole is as good as missing. A folder that cannot be
read or written is not used, and nobody is told: a cache changes no result.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock

DISK_BYTES = 512 << 20
MEMORY_BYTES = 64 << 20
TRIM_EVERY = 32 << 20  # bytes written by this process between looks at the folder's size
DIGEST = hashlib.sha256().digest_size
OFF = "off"
SUFFIX = ".graphc"  # in a folder of the user's choice nothing else is touched


def key(maker: str, *parts: str) -> str:
    """A name for what `maker`, a compiler with its version, makes of these texts: 64 hexadecimal digits."""
    made = hashlib.sha256(maker.encode())
    for part in parts:
        made.update(f"\n{len(part)}\n".encode() + part.encode())
    return made.hexdigest()


def folder() -> Path | None:
    """Where entries lie, None for nowhere."""
    chosen = os.environ.get("GRAPHC_CACHE")
    if chosen:
        return None if chosen == OFF else Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home and os.path.isabs(home) else Path.home() / ".cache") / "graphc"
    except RuntimeError:  # nobody's home
        return None


class Cache:
    """Entries of this process in front of those on disk. May be used by several threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._held_bytes = 0
        self._untrimmed = TRIM_EVERY  # the first write looks
        self._lock = Lock()

    def get(self, name: str) -> bytes | None:
        with self._lock:
            data = self._held.get(name)
            if data is not None:
                self._held.move_to_end(name)
                return data
        data = read(name)
        if data is not None:
            self._hold(name, data)
        return data

    def put(self, name: str, data: bytes) -> None:
        self._hold(name, data)
        if not write(name, data):
            return
        with self._lock:
            self._untrimmed += len(data)
            due = self._untrimmed >= TRIM_EVERY
            if due:
                self._untrimmed = 0
        if due:
            trim()

    def forget(self) -> None:
        """Drops what this process holds; the disk keeps its own."""
        with self._lock:
            self._held.clear()
            self._held_bytes = 0

    def _hold(self, name: str, data: bytes) -> None:
        with self._lock:
            self._held_bytes += len(data) - len(self._held.pop(name, b""))
            self._held[name] = data
            while self._held_bytes > MEMORY_BYTES:
                _, oldest = self._held.popitem(last=False)
                self._held_bytes -= len(oldest)


CODE = Cache()


def read(name: str) -> bytes | None:
    """An entry from disk, None where there is none that is whole."""
    place = folder()
    if place is None:
        return None
    path = place / f"{name}{SUFFIX}"
    try:
        entry = path.read_bytes()
    except OSError:
        return None
    digest, data = entry[:DIGEST], entry[DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        return None
    with suppress(OSError):
        os.utime(path)  # those not used for the longest go first
    return data


def write(name: str, data: bytes) -> bool:
    """Puts an entry on disk; whether that went well."""
    place = folder()
    if place is None:
        return False
    temporary = ""
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)  # code that will run: nobody else's to write
        handle, temporary = tempfile.mkstemp(SUFFIX, "new-", place)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
        os.replace(temporary, place / f"{name}{SUFFIX}")
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        return False
    return True


def trim(limit: int = DISK_BYTES) -> None:
    """Removes the entries not used for the longest until `limit` bytes are left."""
    place = folder()
    if place is None:
        return
    with suppress(OSError):  # another process trims too
        files = [(f.stat(), f.path) for f in os.scandir(place) if f.name.endswith(SUFFIX)]
        total = sum(found.st_size for found, _ in files)
        for found, path in sorted(files, key=lambda f: f[0].st_mtime):
            if total <= limit:
                return
            os.unlink(path)
            total -= found.st_size
