"""The sample table on the reference: types, the float32 run against float64, refusals, completeness of the table."""

import numpy as np
import pytest
from ops.comparator import check
from ops.samples import REFUSED, SAMPLES

import graphc.ops  # registers every op
from graphc.backends.reference import run
from graphc.ir import Op, ShapeError, parse, show

REGISTERED = {name: op for name, op in Op.registry.items() if op.__module__.startswith("graphc.")}


def reference32(graph, arrays):
    return run(graph, arrays, np.float32)[0]


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_float32_agrees_with_float64(sample):
    check(sample, reference32)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_reference_has_the_inferred_types(sample):
    # the runner casts; here the op's own results are looked at, in float64
    arrays = [a.astype(np.float64) if a.dtype == np.float32 else a for a in sample.arrays()]
    results = sample.op.reference(*arrays)
    inferred = sample.op.infer(*sample.types)
    assert [np.asarray(r).shape for r in results] == [t.shape for t in inferred]
    kinds = {"f32": "f", "i32": "i", "u8": "u", "i1": "b"}
    assert [np.asarray(r).dtype.kind for r in results] == [kinds[t.dtype] for t in inferred]


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_text_round_trip(sample):
    text = show(sample.graph())
    assert show(parse(text)) == text


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_cost_is_zero_just_where_elements_are_only_moved(sample):
    moved = ("constant", "reshape", "transpose", "slice", "pad", "concat", "expand", "one_hot", "space_to_depth")
    one_element = sample.op.name in ("max_pool2d", "sum_pool2d") and sample.op.taps == 1
    assert (sample.op.cost(*sample.types).flops == 0) == (sample.op.name in moved or one_element)


def contracts(sample):
    """A contraction without bias, and without padding, whose products with zero count too."""
    contraction = "conv2d" in sample.op.name or sample.op.name in ("matmul", "linear")
    return contraction and len(sample.types) == 2 and getattr(sample.op, "padding", (0, 0)) == (0, 0)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if contracts(s)], ids=str)
def test_macs_are_the_products_that_are_added(sample):
    """Ones in: every product is 1, so the sum of all results is the number of multiply-adds."""
    (result,) = sample.op.reference(*(np.ones(t.shape) for t in sample.types))
    assert sample.op.cost(*sample.types).macs == result.sum()


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_wrong_operands_are_refused(case):
    with pytest.raises(ShapeError) as error:
        case.op.infer(*case.types)
    assert case.message in str(error.value)


def test_every_op_is_in_the_table():
    assert {s.op.name for s in SAMPLES} == set(REGISTERED)
    assert len({str(s) for s in SAMPLES}) == len(SAMPLES)


def test_every_op_that_can_refuse_is_in_the_error_table():
    # elementwise ops share one rule, tested on a few of them
    single = {n for n, op in REGISTERED.items() if not issubclass(op, graphc.ops.elementwise.Elementwise)}
    assert single <= {r.op.name for r in REFUSED}
