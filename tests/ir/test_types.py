"""Tensor types: parsing, printing, sizes, and what is refused."""

import pytest

from graphc.ir import TensorType, dims


@pytest.mark.parametrize("text", ["f32[]", "i32[3]", "u8[1,28,28]", "i1[0,7]"])
def test_text_round_trip(text):
    assert str(TensorType.parse(text)) == text


def test_sizes():
    kind = TensorType("f32", (3, 7, 5))
    assert (kind.rank, kind.elements, kind.bytes) == (3, 105, 420)
    assert TensorType("u8", ()).bytes == 1
    assert (dims((64, 1, 28, 28)), dims(())) == ("64x1x28x28", "scalar")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f16[3]", "no element type 'f16'"),
        ("f32", "not a tensor type"),
        ("f32[-1]", "not a tensor type"),
    ],
)
def test_bad_text(text, message):
    with pytest.raises(ValueError, match=message):
        TensorType.parse(text)


def test_negative_extent():
    with pytest.raises(ValueError, match="negative extent"):
        TensorType("f32", (3, -1))
