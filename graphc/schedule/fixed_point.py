"""Numbers in 24 bits, three quarters of float32's: the stored type "f24" of weights that a run only streams by.

What enters: a matrix of float32. What leaves: panels of `LANES` columns, each cut into groups of `ROWS` rows. A group
is a scale for each lane, and then for each row its integers of 24 bits, the upper 16 bits of all lanes before the lower
8. A number is integer times scale, rounded to float32.

The greatest integer stands for the greatest number of its lane and group. So a number changes by at most 2**-24 of that
one (or by 2**-127) and 2**-23 of itself. A long sum of products in float32 rounds more in any case, whatever the
numbers, as groups are short beside such a sum. Powers of two as scales would be exact for some weights, but lose
one bit of numbers that were drawn with 24: always the same one, so that errors add up. Where a number is infinite, the
scale is such that its integer becomes infinity again; where one is NaN, the scale is NaN. So sums of products with
finite factors become infinite or NaN where those with float32 do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LANES = 16  # side by side, as in every block of a layout
ROWS = 64  # that share scales: 2 % more bytes, and few beside sums of two thousand terms
GREATEST = 2.0**23 - 1  # integer
# smaller ones would be denormal; with greater ones finite numbers would be infinite; this one is for infinite ones
LEAST_SCALE, MOST_SCALE, INFINITE_SCALE = 2.0**-126, 2.0**105, 2.0**106
ROW = np.dtype([("high", "<i2", LANES), ("low", "u1", LANES)])
GROUP = np.dtype([("scale", "<f4", LANES), ("rows", ROW, ROWS)])


def groups(rows: int) -> int:
    """How many groups hold so many rows."""
    return -(-rows // ROWS)


def pack(matrix: np.ndarray, out: np.ndarray) -> None:
    """Float32 [rows, columns] into `out` [panels, groups] of GROUP. What a last panel or group lacks is zero."""
    # rows of a group outermost: what is done by lane and group then runs along whole arrays
    shape = (ROWS, out.shape[1], LANES)
    numbers, quotients, integers = (np.empty(shape, kind) for kind in (np.float32, np.float64, np.int32))
    for panel, columns in _panels(matrix, out):
        if columns.shape != (len(panel) * ROWS, LANES):
            missing = len(panel) * ROWS - columns.shape[0], LANES - columns.shape[1]
            columns = np.pad(columns, [(0, n) for n in missing])
        np.copyto(numbers, columns.reshape(-1, ROWS, LANES).transpose(1, 0, 2))
        greatest = np.maximum(numbers.max(0), -numbers.min(0))
        valid = ~np.isnan(greatest)
        finite = np.clip(greatest / np.float32(GREATEST), LEAST_SCALE, MOST_SCALE)
        scale = np.float32(np.where(np.isinf(greatest), INFINITE_SCALE, finite))
        panel["scale"] = scale
        if not valid.all():
            numbers[:, ~valid], scale[~valid] = 0, 1
        np.multiply(numbers, 1 / scale.astype(np.float64), out=quotients)
        np.clip(np.rint(quotients, out=quotients), -GREATEST, GREATEST, out=quotients)
        np.copyto(integers, quotients, casting="unsafe")
        panel["rows"]["low"] = integers.transpose(1, 0, 2)
        np.right_shift(integers.transpose(1, 0, 2), 8, out=panel["rows"]["high"], casting="unsafe")


def unpack(stored: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The float32 numbers [rows, columns] that `stored` [panels, groups] stands for."""
    matrix = np.empty((rows, columns), np.float32)
    for panel, out in _panels(matrix, stored):
        integers = panel["rows"]["high"].astype(np.int32) << 8 | panel["rows"]["low"]
        with np.errstate(over="ignore"):
            numbers = integers.astype(np.float32) * panel["scale"][:, None]
        out[:] = numbers.reshape(-1, LANES)[:rows, : out.shape[1]]
    return matrix


def _panels(matrix: np.ndarray, stored: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The groups of each panel, and its columns of the matrix."""
    for n, panel in enumerate(stored):
        yield panel, matrix[:, n * LANES : (n + 1) * LANES]
