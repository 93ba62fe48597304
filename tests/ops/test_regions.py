"""What ops say of parts of their results, against slices of the whole, and the arithmetic of regions."""

import random

import numpy as np
import pytest
from ops.samples import SAMPLES, Sample

from graphc.ops.regions import Region, extents, hull, reshaped, whole

PARTS = [s for s in SAMPLES if s.op.part is not None and 0 not in s.op.infer(*s.types)[0].shape]


def some_region(shape: tuple[int, ...], rng: random.Random) -> Region:
    """Random indices of each dimension: one, all, or some with steps."""
    region = []
    for n in shape:
        first = rng.randrange(n)
        region.append(rng.choice([range(n), range(first, first + 1), range(first, n, rng.randint(1, 3))]))
    return tuple(region)


def at(array: np.ndarray, region: Region) -> np.ndarray:
    return array[np.ix_(*region)] if region else array


@pytest.mark.parametrize("sample", PARTS, ids=str)
def test_parts_are_slices_of_the_whole(sample: Sample):
    rng = random.Random(str(sample))
    arrays = [a.astype(np.float64) if a.dtype == np.float32 else a for a in sample.arrays()]
    results = sample.op.reference(*arrays)
    for _ in range(5):
        asked = some_region(np.shape(results[0]), rng)
        part = sample.op.part(asked, *sample.types)
        assert all(set(a) <= set(r) for a, r in zip(asked, part.result, strict=True))
        operands = [at(a, region) for a, region in zip(arrays, part.operands, strict=True)]
        got = operands if part.op is None else part.op.reference(*operands)
        for a, b in zip(got, results, strict=True):
            assert a.shape == extents(part.result)
            np.testing.assert_allclose(a, at(np.asarray(b), part.result), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "asked", "source", "result"),
    [
        ((6, 5), (6, 5), (range(2, 3), range(5)), (range(2, 3), range(5)), (range(2, 3), range(5))),
        ((1, 6), (6,), (range(1, 4, 2),), (range(1), range(1, 4, 2)), (range(1, 4, 2),)),
        ((12,), (3, 4), (range(1, 2), range(4)), (range(4, 8),), (range(1, 2), range(4))),
        ((12,), (3, 4), (range(0, 3, 2), range(1)), (range(12),), (range(3), range(4))),
        ((3, 4), (12,), (range(5, 6),), (range(1, 2), range(4)), (range(4, 8),)),
        ((2, 9, 4), (2, 3, 12), (range(1), *whole((3, 12))), (range(1), *whole((9, 4))), (range(1), *whole((3, 12)))),
        ((9, 4), (3, 12), (range(1), range(12)), whole((9, 4)), whole((3, 12))),
        ((2, 3), (2, 1, 3, 1), (range(1, 2), range(1), range(2), range(1)), (range(1, 2), range(2)),
         (range(1, 2), range(1), range(2), range(1))),
    ],
)  # fmt: skip
def test_reshaped(old, new, asked, source, result):
    assert reshaped(asked, old, new) == (source, result)


def test_hull():
    assert hull((range(3), range(0, 9, 4)), (range(3), range(0, 9, 4))) == (range(3), range(0, 9, 4))
    assert hull((range(1, 2), range(0, 9, 4)), (range(4, 6), range(1))) == (range(1, 6), range(9))
