"""Data sets: labelled arrays in memory, where they come from, and the batches of an epoch.

Enters: the digits of scikit-learn, or an `.npz` file. Leaves: frozen `Dataset`s, and batches whose order depends on
the seed and the epoch alone (Philox, counter based: Salmon et al., SC 2011), so that a run can be repeated or resumed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from graphc.ir import GraphcError, dims
from graphc.ir.frozen import frozen

DIGITS_SIZE = 28
DIGITS_MAXIMUM = 16.0  # scikit-learn's digits count dark pixels of 4x4 cells: 0..16
TEST_FRACTION = 0.2


class DataError(GraphcError):
    """A data set that is missing, damaged, or does not hold what training needs."""


@frozen(eq=False)
class Dataset:
    """Samples and their labels, in the same order.

    images  float32 (N, ...): one sample's shape is what the network takes
    labels  int32 (N,) class numbers, or float32 (N, ...) values for a regression
    """

    name: str
    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{self.name}: got {len(self.images)} images and {len(self.labels)} labels, expected as many"
            )
        if len(self.images) == 0:
            raise DataError(f"{self.name}: holds no samples")
        for what, array in (("images", self.images), ("labels", self.labels)):
            if not np.isfinite(array).all():
                first = next(i for i, sample in enumerate(array) if not np.isfinite(sample).all())
                raise DataError(
                    f"{self.name}: {what}[{first}] is not finite\n"
                    f"  expected finite numbers, got inf or nan\n  take the sample out, or mend it"
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    def subset(self, index: np.ndarray | slice, name: str = "") -> Dataset:
        """The samples at `index`, in that order."""
        return Dataset(name or self.name, self.images[index], self.labels[index])

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All samples in their order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size], self.labels[start : start + size]

    def shuffled(self, size: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All samples once, in the order of (seed, epoch); the last batch may be smaller."""
        order = permutation(len(self), seed, epoch)
        for start in range(0, len(self), size):
            index = order[start : start + size]
            yield self.images[index], self.labels[index]


@frozen
class Splits:
    """What a network learns from, and what it is judged by."""

    train: Dataset
    test: Dataset


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n samples in this epoch: a function of its arguments alone.

    Sorts the generator's raw bits, which NumPy promises never to change, unlike its own permutations (NEP 19).
    """
    key = np.array([seed % 2**64, epoch % 2**64], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def split(data: Dataset, seed: int = 0, fraction: float = TEST_FRACTION) -> Splits:
    """A part of `fraction` for testing, chosen by `seed`; the rest is for training."""
    held_out = round(len(data) * fraction)
    if not 0 < held_out < len(data):
        raise DataError(f"{data.name}: {len(data)} samples cannot be split for training and testing")
    # Epoch 2**64 - 1 never trains, so the split's stream is its own.
    order = permutation(len(data), seed, -1)
    return Splits(
        data.subset(np.sort(order[held_out:]), f"{data.name}/train"),
        data.subset(np.sort(order[:held_out]), f"{data.name}/test"),
    )


def digits(seed: int = 0) -> Splits:
    """The 1,797 handwritten digits that come with scikit-learn, as 28x28 images: 1,438 to train with, 359 to test.

    Images are float32 (N, 1, 28, 28) in [0, 1], labels int32 (N,). Source: E. Alpaydin, C. Kaynak, Optical Recognition
    of Handwritten Digits, UCI Machine Learning Repository, 1998 (its test part, 8x8).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "data set digits: scikit-learn, which carries it, is not installed\n"
            "  expected the extra `demo` of graphc-compiler\n"
            '  pip install "graphc-compiler[demo]"'
        ) from None
    source = load_digits()
    small = source.images.astype(np.float32) / np.float32(DIGITS_MAXIMUM)
    images = resize(small, (DIGITS_SIZE, DIGITS_SIZE))[:, None]
    return split(Dataset("digits", images, source.target.astype(np.int32)), seed)


def resize(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation of images (..., H, W) to `shape`; pixel centres at half integers, edges repeated.

    As torch.nn.functional.interpolate(mode="bilinear", align_corners=False). Values stay within those of the input.
    """
    rows, columns = (_interpolation(new, old) for new, old in zip(shape, images.shape[-2:], strict=True))
    return (rows @ images @ columns.T).astype(images.dtype)


def _interpolation(new: int, old: int) -> np.ndarray:
    """The matrix (new, old) that interpolates a line of `old` pixels at `new` places; its rows sum to 1."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(at.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    matrix[np.arange(new), left] = 1 - (at - left)
    matrix[np.arange(new), np.minimum(left + 1, old - 1)] += at - left
    return matrix


NAMED = {"digits": digits}


def load(source: str, seed: int = 0) -> Splits:
    """The splits of a named data set, or of an `.npz` file.

    The file holds `images` (N, ...) float32, or uint8 which is divided by 255, and `labels` (N,) integers. Arrays
    `test_images` and `test_labels` are the test part; without them a fifth is set apart by `seed`.
    """
    if source in NAMED:
        return NAMED[source](seed)
    path = Path(source)
    if path.suffix != ".npz":
        raise DataError(
            f"data set {source}: unknown\n  expected {', '.join(NAMED)}, or a file FILE.npz with `images` and `labels`"
        )
    arrays = _read_npz(path)
    whole = _dataset(path, arrays, "")
    if "test_images" not in arrays and "test_labels" not in arrays:
        return split(whole, seed)
    return Splits(whole, _dataset(path, arrays, "test_"))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise DataError(f"data set {path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DataError(f"data set {path}: is damaged, or no .npz file: {error}") from None


def _dataset(path: Path, arrays: dict[str, np.ndarray], prefix: str) -> Dataset:
    missing = [prefix + name for name in ("images", "labels") if prefix + name not in arrays]
    if missing:
        raise DataError(
            f"data set {path}: has no {' and no '.join(missing)}\n  expected arrays `{prefix}images` and "
            f"`{prefix}labels`, got {', '.join(arrays) or 'none'}"
        )
    images, labels = arrays[prefix + "images"], arrays[prefix + "labels"]
    wrong = []
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    elif np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32)
    else:
        wrong.append(f"{prefix}images: expected float32 or uint8, got {images.dtype}")
    if images.ndim < 2:
        wrong.append(f"{prefix}images: expected one sample a row, got shape {dims(images.shape)}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        wrong.append(f"{prefix}labels: expected integers of shape (N,), got {labels.dtype} of {dims(labels.shape)}")
    elif len(labels) and labels.min() < 0:
        wrong.append(f"{prefix}labels: expected class numbers from 0, got {labels.min()}")
    if wrong:
        raise DataError("\n  ".join([f"data set {path}: does not fit", *wrong]))
    return Dataset(f"{path.stem}/{prefix.rstrip('_') or 'train'}", images, labels.astype(np.int32))
