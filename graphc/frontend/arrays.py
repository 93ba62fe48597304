"""Inputs of a network from files, as the executables read them: `.npy`, `.pgm`/`.ppm`, raw samples, `-`.

Enters: a path and the shape and type wanted. Leaves: one array of that shape. Samples of images and raw bytes are the
numbers 0..255; what becomes of them (scale, mean, std) is part of the program.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
from pathlib import Path

import numpy as np

from graphc.ir import NUMPY, GraphcError, TensorType, dims

# Netpbm: magic, then width, height and largest sample between white space and comments (pgm(5), ppm(5)).
_NUMBER = rb"(?:\s|#[^\n]*\n)*?(\d{1,9})(?=[\s#])"
_HEADER = re.compile(rb"P([2356])(?=[\s#])" + 3 * _NUMBER)


class InputError(GraphcError):
    """An input file that is missing, damaged, or of another shape than the network takes."""


def read_array(path: str, want: TensorType) -> np.ndarray:
    """The array in a file (`-`: standard input), of the shape and type wanted. Raises InputError."""
    where, data = ("standard input", sys.stdin.buffer.read()) if path == "-" else (path, _read(path))
    if not data:
        raise InputError(f"{where}: is empty\n  expected a .npy, .pgm or .ppm file or raw {NUMPY[want.dtype]}")
    if data.startswith(b"\x93NUMPY"):
        return _fit(where, _npy(where, data), want)
    if match := _HEADER.match(data):
        return _fit(where, _netpbm(where, data, match), want)
    return _raw(where, data, want)


def write_pgm(path: str | os.PathLike, image: np.ndarray) -> None:
    """A grey image (H, W) of uint8 as a binary `.pgm`."""
    height, width = image.shape
    Path(path).write_bytes(b"P5\n%d %d\n255\n" % (width, height) + np.ascontiguousarray(image, np.uint8).tobytes())


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _npy(where: str, data: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{where}: is a damaged .npy file: {error}") from None


def _netpbm(where: str, data: bytes, header: re.Match) -> np.ndarray:
    """The image as uint8 (C, H, W), samples brought to 0..255."""
    kind, width, height, largest = (int(group) for group in header.groups())
    channels = 3 if kind in (3, 6) else 1
    count = width * height * channels
    if not 0 < largest < 256 or count == 0:
        raise InputError(
            f"{where}: damaged image header, or 16 bits a sample\n"
            f"  expected samples of at most 255, got {width}x{height} with a largest of {largest}"
        )
    body = data[header.end() + 1 :]
    try:
        samples = np.array(body.split(), np.int64) if kind < 5 else np.frombuffer(body, np.uint8).astype(np.int64)
    except (ValueError, OverflowError):
        raise InputError(f"{where}: damaged image: a sample is no number") from None
    if samples.size != count or samples.min() < 0 or samples.max() > largest:
        raise InputError(
            f"{where}: damaged image\n  expected {count} samples of 0..{largest} for {width}x{height} with {channels} "
            f"channel(s), got {samples.size}" + (f" up to {samples.max()}" if samples.size else "")
        )
    samples = (2 * 255 * samples + largest) // (2 * largest)
    return samples.astype(np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _raw(where: str, data: bytes, want: TensorType) -> np.ndarray:
    """No header: the size alone decides, bytes or elements."""
    if len(data) == want.bytes:
        return np.frombuffer(data, NUMPY[want.dtype]).reshape(want.shape)
    if len(data) == want.elements and want.dtype == "f32":
        return np.frombuffer(data, np.uint8).astype(np.float32).reshape(want.shape)
    raise InputError(
        f"{where}: is no .npy, .pgm or .ppm\n  expected {want.bytes:,} bytes of raw {NUMPY[want.dtype]} "
        f"({dims(want.shape)}) or {want.elements:,} bytes of samples, got {len(data):,} bytes"
    )


def _fit(where: str, array: np.ndarray, want: TensorType) -> np.ndarray:
    """The array as the network takes it: leading extents of 1 may be missing, bytes become float32."""
    dtype = NUMPY[want.dtype]
    lead = len(want.shape) - array.ndim
    shape = (1,) * lead + array.shape
    if shape != want.shape and not (len(want.shape) < 3 and array.dtype == np.uint8 and array.size == want.elements):
        raise InputError(f"{where}: has another shape\n  expected {dims(want.shape)}, got {dims(array.shape)}")
    if array.dtype != dtype and not (dtype == np.float32 and array.dtype in (np.uint8, np.float64)):
        raise InputError(f"{where}: has another element type\n  expected {dtype}, got {array.dtype}")
    if math.prod(array.shape) and array.dtype == np.float64 and np.abs(array).max() > np.finfo(np.float32).max:
        raise InputError(f"{where}: holds numbers that float32 cannot hold")
    return np.ascontiguousarray(array, dtype).reshape(want.shape)
