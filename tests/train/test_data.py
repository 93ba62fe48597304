"""Data sets: the digits, files, splits and the order of batches."""

import sys

import numpy as np
import pytest

from graphc.train.data import DataError, Dataset, digits, load, permutation, resize, split


def numbered(n: int) -> Dataset:
    return Dataset("numbers", np.arange(n, dtype=np.float32)[:, None], np.arange(n, dtype=np.int32))


def test_digits():
    splits = digits(seed=0)
    assert (len(splits.train), len(splits.test)) == (1438, 359)
    for part in (splits.train, splits.test):
        assert part.images.dtype == np.float32 and part.images.shape[1:] == (1, 28, 28)
        assert part.labels.dtype == np.int32 and set(part.labels) == set(range(10))
        assert part.images.min() == 0 and 0.9 < part.images.max() <= 1


def test_digits_split_is_fixed_by_the_seed():
    a, b, other = digits(3), digits(3), digits(4)
    assert np.array_equal(a.test.images, b.test.images)
    assert not np.array_equal(a.test.labels, other.test.labels)


def test_digits_without_sklearn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"graphc-compiler\[demo\]"):
        digits()


def test_split_parts_are_disjoint_and_complete():
    parts = split(numbered(50), seed=1)
    assert len(parts.test) == 10
    assert sorted([*parts.train.labels, *parts.test.labels]) == list(range(50))


@pytest.mark.parametrize(("n", "size", "last"), [(10, 4, 2), (8, 4, 4), (3, 3, 3), (3, 5, 3)])
def test_batches_hold_every_sample_once(n, size, last):
    for batches in (list(numbered(n).batches(size)), list(numbered(n).shuffled(size, 7, 2))):
        assert [len(labels) for _, labels in batches[:-1]] == [size] * (len(batches) - 1)
        assert len(batches[-1][1]) == last
        assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(n))
        assert all(np.array_equal(images[:, 0], labels) for images, labels in batches)


def test_order_depends_on_seed_and_epoch_alone():
    assert np.array_equal(permutation(100, 5, 3), permutation(100, 5, 3))
    assert not np.array_equal(permutation(100, 5, 3), permutation(100, 5, 4))
    assert not np.array_equal(permutation(100, 5, 3), permutation(100, 6, 3))
    # The stream of bits is specified, so this may not change between NumPy versions: a run is resumable years later.
    assert permutation(8, 0, 1).tolist() == PERMUTATION_8_0_1


PERMUTATION_8_0_1 = [5, 3, 7, 2, 4, 1, 0, 6]


def test_resize_of_a_line_is_the_hand_computed_one():
    # Pixel centres at half integers: 2 -> 4 samples at -0.25, 0.25, 0.75, 1.25, the outer ones at the edges.
    assert resize(np.array([[0.0, 1.0]]), (1, 4)).tolist() == [[0, 0.25, 0.75, 1]]


def test_resize_equals_pytorch():
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images)[:, None], size=(28, 20), mode="bilinear", align_corners=False
    )[:, 0].numpy()
    # Weights of both are exact to an ulp or two of numbers below 1.
    np.testing.assert_allclose(resize(images, (28, 20)), expected, atol=1e-6)


def test_npz_with_test_part(tmp_path):
    path = tmp_path / "mine.npz"
    images = np.array([[[0, 255]], [[51, 102]]], np.uint8)
    np.savez(path, images=images, labels=[1, 0], test_images=images[:1], test_labels=[1])
    parts = load(str(path))
    assert parts.train.images.dtype == np.float32 and parts.train.labels.dtype == np.int32
    np.testing.assert_allclose(parts.train.images, [[[0, 1]], [[0.2, 0.4]]], rtol=1e-6)
    assert len(parts.test) == 1


def test_npz_without_test_part_is_split(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros((10, 3), np.float32), labels=np.arange(10))
    parts = load(str(tmp_path / "d.npz"))
    assert (len(parts.train), len(parts.test)) == (8, 2)


GOOD = {"images": np.zeros((10, 3), np.float32), "labels": np.arange(10)}
BAD = {
    "no labels": ({"images": GOOD["images"]}, "has no labels"),
    "text": ({**GOOD, "images": np.array(["a"] * 10)}, "images: expected float32 or uint8, got"),
    "float labels": ({**GOOD, "labels": np.zeros(10)}, "labels: expected integers"),
    "negative": ({**GOOD, "labels": np.arange(10) - 1}, "class numbers from 0, got -1"),
    "count": ({**GOOD, "labels": np.arange(9)}, "10 images and 9 labels"),
    "nan": ({**GOOD, "images": np.full((10, 3), np.nan, np.float32)}, r"images\[0\] is not finite"),
    "empty": ({"images": np.zeros((0, 3), np.float32), "labels": np.zeros(0, int)}, "no samples"),
    "half a test part": ({**GOOD, "test_images": GOOD["images"]}, "has no test_labels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_npz(tmp_path, case):
    arrays, message = BAD[case]
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "d.npz"))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_damaged_npz(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        load(str(tmp_path / "d.npz"))


def test_missing_and_unknown_data(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load(str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match=r"mnits: unknown\n  expected digits"):
        load("mnits")
