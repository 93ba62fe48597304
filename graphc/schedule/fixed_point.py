"""Numbers in 24 bits, three quarters of float32's: the stored type "f24" of weights that a run only streams by.

What enters: a matrix of float32. What leaves: panels of `LANES` columns, each cut into groups of `ROWS` rows. A group
is a scale for each lane, and then for each four rows three vectors of integers of 32 bits. A number is integer times
scale, rounded to float32. The first three rows' integers are these vectors as they lie; that of the fourth is made of
their lowest bytes: `a << 8 ^ b << 16 ^ c << 24`. So three of four numbers take no work to decode, and the fourth takes
five instructions of any processor. What the lowest bytes add to the other integers is known when these are chosen, so
each is the nearest to its number of all with these 24 upper bits.

The greatest integer stands for the greatest number of its lane and group. So a number changes by at most 2**-24 of that
one (or by 2**-119), and by three roundings of itself: of the scale, of its integer, of the product. A long sum of
products in float32 rounds more in any case, whatever the numbers, as groups are short beside such a sum. Powers of two
as scales would be exact for some weights, but lose one bit of numbers that were drawn with 24: always the same one, so
that errors add up. Where a number is infinite, the scale is such that its integer becomes infinity again; where one is
NaN, the scale is NaN. So sums of products with finite factors become infinite or NaN where those with float32 do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LANES = 16  # side by side, as in every block of a layout
ROWS = 64  # that share scales: 2 % more bytes, and few beside sums of two thousand terms
FOUR = 4  # rows that share three vectors
GREATEST = 2.0**31 - 256  # integer
# smaller ones would be denormal; with greater ones finite numbers would be infinite; this one is for infinite ones
LEAST_SCALE, MOST_SCALE, INFINITE_SCALE = 2.0**-126, 2.0**97, 2.0**98
GROUP = np.dtype([("scale", "<f4", LANES), ("fours", "<i4", (ROWS // FOUR, FOUR - 1, LANES))])


def groups(rows: int) -> int:
    """How many groups hold so many rows."""
    return -(-rows // ROWS)


def pack(matrix: np.ndarray, out: np.ndarray) -> None:
    """Float32 [rows, columns] into `out` [panels, groups] of GROUP. What a last panel or group lacks is zero, or
    next to it where other rows of the four are there."""
    # rows of four, and fours of a group, outermost: what is done by lane and group then runs along whole arrays
    shape = (FOUR, ROWS // FOUR, out.shape[1], LANES)
    numbers, quotients = np.empty(shape, np.float32), np.empty(shape, np.float64)
    for panel, columns in _panels(matrix, out):
        if columns.shape != (len(panel) * ROWS, LANES):
            missing = len(panel) * ROWS - columns.shape[0], LANES - columns.shape[1]
            columns = np.pad(columns, [(0, n) for n in missing])
        np.copyto(numbers, columns.reshape(-1, ROWS // FOUR, FOUR, LANES).transpose(2, 1, 0, 3))
        greatest = np.maximum(numbers.max((0, 1)), -numbers.min((0, 1)))
        valid = ~np.isnan(greatest)
        finite = np.clip(greatest / np.float32(GREATEST), LEAST_SCALE, MOST_SCALE)
        scale = np.float32(np.where(np.isinf(greatest), INFINITE_SCALE, finite))
        panel["scale"] = scale
        if not valid.all():
            numbers[..., ~valid], scale[~valid] = 0, 1
        np.multiply(numbers, 1 / scale.astype(np.float64), out=quotients)
        a, b, c, last = quotients
        rest = _nearest(last, 0) >> 8
        a = _nearest(a, rest & 255)
        b = _nearest(b, (rest ^ a) >> 8 & 255)
        c = _nearest(c, (rest ^ b << 8 ^ a) >> 16 & 255)
        for k, integers in enumerate((a, b, c)):
            panel["fours"][:, :, k] = integers.transpose(1, 0, 2)


def _nearest(quotients: np.ndarray, lowest: np.ndarray | int) -> np.ndarray:
    """The integers nearest to float64 `quotients`, which it changes, of those with these lowest bytes."""
    quotients -= lowest
    quotients /= 256
    np.clip(np.rint(quotients, out=quotients), -(2**23), 2**23 - 1, out=quotients)
    return (quotients.astype(np.int32) << 8) + np.int32(lowest)


def unpack(stored: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The float32 numbers [rows, columns] that `stored` [panels, groups] stands for."""
    matrix = np.empty((rows, columns), np.float32)
    for panel, out in _panels(matrix, stored):
        a, b, c = panel["fours"].transpose(2, 0, 1, 3)
        integers = np.stack((a, b, c, a << 8 ^ b << 16 ^ c << 24), 2)
        with np.errstate(over="ignore"):
            numbers = integers.astype(np.float32) * panel["scale"][:, None, None]
        out[:] = numbers.reshape(-1, LANES)[:rows, : out.shape[1]]
    return matrix


def _panels(matrix: np.ndarray, stored: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The groups of each panel, and its columns of the matrix."""
    for n, panel in enumerate(stored):
        yield panel, matrix[:, n * LANES : (n + 1) * LANES]
