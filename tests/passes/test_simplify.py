"""Every identity of `simplify`: what it makes, that numbers stay, and where it must not apply."""

import numpy as np
import pytest
from passes.rewriting import graph_from, inputs_of, leaves_alone, same_numbers

from graphc.backends.reference import run
from graphc.ir import show, verify
from graphc.passes import simplify
from graphc.passes.simplify import FAMILIES, RULES

HEAD = (
    "graph @g(%x: f32[3,4], %y: f32[3,4], %c: i1[3,4], %n: i32[3,4], %v: f32[4], %i: f32[1,3,1,4], "
    "%m: f32[6,4], %b: f32[2,3,4])"
)


def constant(value, name, shape="", dtype="f32"):
    return f'%{name} = constant(values=[{value}], dtype="{dtype}", shape=[{shape}]) : {dtype}[{shape}]\n'


# Name of the rule, nodes before, value returned, nodes after, value returned.
CASES = [
    ("add_zero", constant("0.0", 0) + "%1 = add(%x, %0) : f32[3,4]", "%1", "", "%x"),
    ("add_zero", constant("0.0", 0) + "%1 = add(%0, %x) : f32[3,4]", "%1", "", "%x"),
    (
        "add_zero",
        constant("-0.0", 0, "3,4") + "%1 = add(%v, %0) : f32[3,4]",
        "%1",
        "%0 = expand(%v, shape=[3,4]) : f32[3,4]",
        "%0",
    ),
    ("add_zero", constant("0", 0, "", "i32") + "%1 = add(%n, %0) : i32[3,4]", "%1", "", "%n"),
    ("add_negative", "%0 = neg(%y) : f32[3,4]\n%1 = add(%x, %0) : f32[3,4]", "%1", "%0 = sub(%x, %y) : f32[3,4]", "%0"),
    ("add_negative", "%0 = neg(%x) : f32[3,4]\n%1 = add(%0, %y) : f32[3,4]", "%1", "%0 = sub(%y, %x) : f32[3,4]", "%0"),
    (
        "add_pads",
        "%0 = pad(%x, before=[3,0], after=[1,2], interior=[0,0]) : f32[7,6]\n"
        "%1 = pad(%y, before=[0,0], after=[4,2], interior=[0,0]) : f32[7,6]\n"
        "%2 = add(%0, %1) : f32[7,6]",
        "%2",
        "%0 = concat(%y, %x, axis=0) : f32[6,4]\n%1 = pad(%0, before=[0,0], after=[1,2], interior=[0,0]) : f32[7,6]",
        "%1",
    ),
    (
        "add_pads",
        "%0 = pad(%m, before=[6,0], after=[3,0], interior=[0,0]) : f32[15,4]\n"
        "%1 = pad(%x, before=[3,0], after=[9,0], interior=[0,0]) : f32[15,4]\n"
        "%2 = add(%0, %1) : f32[15,4]\n"
        "%3 = pad(%y, before=[0,0], after=[12,0], interior=[0,0]) : f32[15,4]\n"
        "%4 = pad(%y, before=[12,0], after=[0,0], interior=[0,0]) : f32[15,4]\n"
        "%5 = add(%2, %3) : f32[15,4]\n"
        "%6 = add(%5, %4) : f32[15,4]",
        "%6",
        "%0 = concat(%y, %x, %m, %y, axis=0) : f32[15,4]",
        "%0",
    ),
    ("subtract_zero", constant("0.0", 0) + "%1 = sub(%x, %0) : f32[3,4]", "%1", "", "%x"),
    (
        "subtract_negative",
        "%0 = neg(%y) : f32[3,4]\n%1 = sub(%x, %0) : f32[3,4]",
        "%1",
        "%0 = add(%x, %y) : f32[3,4]",
        "%0",
    ),
    ("multiply_one", constant("1.0", 0) + "%1 = mul(%x, %0) : f32[3,4]", "%1", "", "%x"),
    ("multiply_one", constant("1.0", 0, "3,4") + "%1 = mul(%0, %x) : f32[3,4]", "%1", "", "%x"),
    (
        "multiply_minus_one",
        constant("-1.0", 0) + "%1 = mul(%0, %x) : f32[3,4]",
        "%1",
        "%0 = neg(%x) : f32[3,4]",
        "%0",
    ),
    ("divide_one", constant("1.0", 0) + "%1 = div(%x, %0) : f32[3,4]", "%1", "", "%x"),
    (
        "divide_power_of_two",
        constant("-8.0", 0) + "%1 = div(%x, %0) : f32[3,4]",
        "%1",
        constant("-0.125", 0) + "%1 = mul(%x, %0) : f32[3,4]",
        "%1",
    ),
    ("negate_negative", "%0 = neg(%x) : f32[3,4]\n%1 = neg(%0) : f32[3,4]", "%1", "", "%x"),
    ("abs_of_sign", "%0 = neg(%x) : f32[3,4]\n%1 = abs(%0) : f32[3,4]", "%1", "%0 = abs(%x) : f32[3,4]", "%0"),
    ("abs_of_sign", "%0 = abs(%x) : f32[3,4]\n%1 = abs(%0) : f32[3,4]", "%1", "%0 = abs(%x) : f32[3,4]", "%0"),
    ("relu_twice", "%0 = relu(%x) : f32[3,4]\n%1 = relu(%0) : f32[3,4]", "%1", "%0 = relu(%x) : f32[3,4]", "%0"),
    ("not_not", "%0 = not(%c) : i1[3,4]\n%1 = not(%0) : i1[3,4]", "%1", "", "%c"),
    ("cast_same", '%0 = cast(%x, dtype="f32") : f32[3,4]', "%0", "", "%x"),
    (
        "select_constant",
        constant("true", 0, "", "i1") + "%1 = select(%0, %x, %y) : f32[3,4]",
        "%1",
        "",
        "%x",
    ),
    (
        "select_constant",
        constant("false", 0, "3,4", "i1") + "%1 = select(%0, %x, %v) : f32[3,4]",
        "%1",
        "%0 = expand(%v, shape=[3,4]) : f32[3,4]",
        "%0",
    ),
    ("select_same", "%0 = select(%c, %x, %x) : f32[3,4]", "%0", "", "%x"),
    (
        "select_not",
        "%0 = not(%c) : i1[3,4]\n%1 = select(%0, %x, %y) : f32[3,4]",
        "%1",
        "%0 = select(%c, %y, %x) : f32[3,4]",
        "%0",
    ),
    (
        "log_of_softmax",
        "%0 = softmax(%x, axis=1) : f32[3,4]\n%1 = log(%0) : f32[3,4]",
        "%1",
        "%0 = log_softmax(%x, axis=1) : f32[3,4]",
        "%0",
    ),
    (
        "drop_expand",
        "%0 = expand(%v, shape=[3,4]) : f32[3,4]\n%1 = mul(%0, %x) : f32[3,4]",
        "%1",
        "%0 = mul(%v, %x) : f32[3,4]",
        "%0",
    ),
    (
        "drop_expand",
        constant("2.5", 0, "3,4") + "%1 = maximum(%x, %0) : f32[3,4]",
        "%1",
        constant("2.5", 0) + "%1 = maximum(%x, %0) : f32[3,4]",
        "%1",
    ),
    ("reshape_same", "%0 = reshape(%x, shape=[3,4]) : f32[3,4]", "%0", "", "%x"),
    (
        "reshape_twice",
        "%0 = reshape(%x, shape=[12]) : f32[12]\n%1 = reshape(%0, shape=[2,6]) : f32[2,6]",
        "%1",
        "%0 = reshape(%x, shape=[2,6]) : f32[2,6]",
        "%0",
    ),
    (
        "reshape_constant",
        constant("2.5", 0, "2,6") + "%1 = reshape(%0, shape=[12]) : f32[12]",
        "%1",
        constant("2.5", 0, "12"),
        "%0",
    ),
    (
        "reshape_constant",
        constant("2.5", 0) + "%1 = expand(%0, shape=[3,4]) : f32[3,4]",
        "%1",
        constant("2.5", 0, "3,4"),
        "%0",
    ),
    ("transpose_same", "%0 = transpose(%x, axes=[0,1]) : f32[3,4]", "%0", "", "%x"),
    (
        "transpose_twice",
        "%0 = transpose(%i, axes=[3,1,0,2]) : f32[4,3,1,1]\n%1 = transpose(%0, axes=[3,0,2,1]) : f32[1,4,1,3]",
        "%1",
        "%0 = transpose(%i, axes=[2,3,0,1]) : f32[1,4,1,3]",
        "%0",
    ),
    (
        "transpose_units",
        "%0 = transpose(%i, axes=[1,0,2,3]) : f32[3,1,1,4]",
        "%0",
        "%0 = reshape(%i, shape=[3,1,1,4]) : f32[3,1,1,4]",
        "%0",
    ),
    ("expand_same", "%0 = expand(%x, shape=[3,4]) : f32[3,4]", "%0", "", "%x"),
    (
        "expand_twice",
        "%0 = expand(%v, shape=[1,4]) : f32[1,4]\n%1 = expand(%0, shape=[5,4]) : f32[5,4]",
        "%1",
        "%0 = expand(%v, shape=[5,4]) : f32[5,4]",
        "%0",
    ),
    ("slice_all", "%0 = slice(%x, start=[0,0], stop=[3,4], step=[1,1]) : f32[3,4]", "%0", "", "%x"),
    (
        "slice_twice",
        "%0 = slice(%x, start=[1,0], stop=[3,4], step=[1,2]) : f32[2,2]\n"
        "%1 = slice(%0, start=[1,0], stop=[2,2], step=[1,1]) : f32[1,2]",
        "%1",
        "%0 = slice(%x, start=[2,0], stop=[3,3], step=[1,2]) : f32[1,2]",
        "%0",
    ),
    (
        "slice_of_concat",
        "%0 = concat(%x, %y, axis=0) : f32[6,4]\n%1 = slice(%0, start=[3,0], stop=[6,4], step=[1,1]) : f32[3,4]",
        "%1",
        "",
        "%y",
    ),
    (
        "slice_of_concat",
        "%0 = concat(%x, %y, axis=1) : f32[3,8]\n%1 = slice(%0, start=[0,5], stop=[3,8], step=[1,2]) : f32[3,2]",
        "%1",
        "%0 = slice(%y, start=[0,1], stop=[3,4], step=[1,2]) : f32[3,2]",
        "%0",
    ),
    (
        "slice_of_pad",
        "%0 = pad(%x, before=[1,0], after=[2,1], interior=[0,1]) : f32[6,8]\n"
        "%1 = slice(%0, start=[1,0], stop=[4,7], step=[1,2]) : f32[3,4]",
        "%1",
        "",
        "%x",
    ),
    ("pad_nothing", "%0 = pad(%x, before=[0,0], after=[0,0], interior=[0,0]) : f32[3,4]", "%0", "", "%x"),
    (
        "pad_twice",
        "%0 = pad(%x, before=[1,0], after=[0,2], interior=[0,0]) : f32[4,6]\n"
        "%1 = pad(%0, before=[1,1], after=[1,0], interior=[0,0]) : f32[6,7]",
        "%1",
        "%0 = pad(%x, before=[2,1], after=[1,2], interior=[0,0]) : f32[6,7]",
        "%0",
    ),
    ("concat_one", "%0 = concat(%x, axis=0) : f32[3,4]", "%0", "", "%x"),
    (
        "concat_one",
        "%0 = slice(%x, start=[0,0], stop=[0,4], step=[1,1]) : f32[0,4]\n%1 = concat(%0, %y, axis=0) : f32[3,4]",
        "%1",
        "",
        "%y",
    ),
    (
        "reduce_units",
        "%0 = sum(%i, axes=[0,2], keepdim=false) : f32[3,4]",
        "%0",
        "%0 = reshape(%i, shape=[3,4]) : f32[3,4]",
        "%0",
    ),
    (
        "reduce_units",
        "%0 = max(%i, axes=[2], keepdim=true) : f32[1,3,1,4]",
        "%0",
        "",
        "%i",
    ),
    (
        "matmul_of_transpose",
        "%0 = transpose(%y, axes=[1,0]) : f32[4,3]\n"
        "%1 = matmul(%x, %0, transpose_a=false, transpose_b=false) : f32[3,3]",
        "%1",
        "%0 = matmul(%x, %y, transpose_a=false, transpose_b=true) : f32[3,3]",
        "%0",
    ),
    (
        "matmul_of_transpose",
        "%0 = transpose(%y, axes=[1,0]) : f32[4,3]\n"
        "%1 = matmul(%0, %0, transpose_a=true, transpose_b=false) : f32[3,3]",
        "%1",
        "%0 = matmul(%y, %y, transpose_a=false, transpose_b=true) : f32[3,3]",
        "%0",
    ),
    (
        "dropout_nothing",
        constant("1,2,3,4", 0, "4", "i32") + "%1 = dropout(%x, %0, p=0.0, stream=0) : f32[3,4]",
        "%1",
        "",
        "%x",
    ),
    (
        "rows_of_elementwise",
        "%0 = reshape(%m, shape=[2,3,4]) : f32[2,3,4]\n%1 = add(%0, %b) : f32[2,3,4]\n%2 = mul(%1, %v) : f32[2,3,4]",
        "%2",
        "%0 = reshape(%b, shape=[6,4]) : f32[6,4]\n%1 = add(%m, %0) : f32[6,4]\n%2 = mul(%1, %v) : f32[6,4]\n"
        "%3 = reshape(%2, shape=[2,3,4]) : f32[2,3,4]",
        "%3",
    ),
    (
        "rows_of_elementwise",  # one number a row
        "%0 = sum(%m, axes=[1], keepdim=false) : f32[6]\n%1 = reshape(%0, shape=[2,3,1]) : f32[2,3,1]\n"
        "%2 = mul(%b, %1) : f32[2,3,4]",
        "%2",
        "%0 = sum(%m, axes=[1], keepdim=false) : f32[6]\n%1 = reshape(%b, shape=[6,4]) : f32[6,4]\n"
        "%2 = reshape(%0, shape=[6,1]) : f32[6,1]\n%3 = mul(%1, %2) : f32[6,4]\n"
        "%4 = reshape(%3, shape=[2,3,4]) : f32[2,3,4]",
        "%4",
    ),
    (
        "rows_of_reduction",
        "%0 = reshape(%m, shape=[2,3,4]) : f32[2,3,4]\n%1 = sum(%0, axes=[2], keepdim=true) : f32[2,3,1]",
        "%1",
        "%0 = sum(%m, axes=[1], keepdim=true) : f32[6,1]\n%1 = reshape(%0, shape=[2,3,1]) : f32[2,3,1]",
        "%1",
    ),
    (
        "rows_of_reduction",
        "%0 = reshape(%m, shape=[2,3,4]) : f32[2,3,4]\n%1 = max(%0, axes=[0,1], keepdim=false) : f32[4]",
        "%1",
        "%0 = max(%m, axes=[0], keepdim=false) : f32[4]",
        "%0",
    ),
]


def graph_text(nodes, result):
    return "\n".join([HEAD + " {", *(f"  {line}" for line in nodes.splitlines()), f"  return {result}", "}"]) + "\n"


@pytest.mark.parametrize(("rule", "before", "result", "after", "new_result"), CASES, ids=[c[0] for c in CASES])
def test_rule(rule, before, result, after, new_result):
    old = graph_from(graph_text(before, result))
    new = verify(simplify(old), "simplify")
    assert show(new) == graph_text(after, new_result)
    same_numbers(old, new, 1e-15 if rule == "log_of_softmax" else 0.0)
    assert simplify(new) is new


def test_every_rule_has_a_case():
    rules = {rule.__name__ for table in (RULES, FAMILIES) for rules in table.values() for rule in rules}
    assert rules == {case[0] for case in CASES}


UNTOUCHED = [
    # a broadcast over some of the rows, a sum over some of them
    ("%0 = reshape(%m, shape=[2,3,4]) : f32[2,3,4]\n%1 = add(%0, %x) : f32[2,3,4]", "%1"),
    (
        "%0 = reshape(%m, shape=[2,3,4]) : f32[2,3,4]\n%1 = sum(%0, axes=[1], keepdim=false) : f32[2,4]",
        "%1",
    ),
    # a reshape that splits no rows
    ("%0 = reshape(%x, shape=[3,4,1]) : f32[3,4,1]\n%1 = neg(%0) : f32[3,4,1]", "%1"),
    # 0 * x is not 0 for infinite x
    (constant("0.0", 0) + "%1 = mul(%x, %0) : f32[3,4]", "%1"),
    # x - x is not 0 for infinite x, x / x not 1 for 0
    ("%0 = sub(%x, %x) : f32[3,4]\n%1 = div(%0, %x) : f32[3,4]", "%1"),
    # 0 - x is not -x for 0
    (constant("0.0", 0) + "%1 = sub(%0, %x) : f32[3,4]", "%1"),
    # 1/3 is not exact
    (constant("3.0", 0) + "%1 = div(%x, %0) : f32[3,4]", "%1"),
    # broadcasting changes the result's shape
    ("%0 = expand(%v, shape=[3,4]) : f32[3,4]\n%1 = add(%0, %v) : f32[3,4]\n%2 = exp(%0) : f32[3,4]", "%1, %2"),
    # truncation loses
    ('%0 = cast(%x, dtype="i32") : i32[3,4]\n%1 = cast(%0, dtype="f32") : f32[3,4]', "%1"),
    # a slice across two operands
    ("%0 = concat(%x, %y, axis=0) : f32[6,4]\n%1 = slice(%0, start=[2,0], stop=[5,4], step=[1,1]) : f32[3,4]", "%1"),
    # a slice of other elements than those padded
    (
        "%0 = pad(%x, before=[1,0], after=[1,0], interior=[0,0]) : f32[5,4]\n"
        "%1 = slice(%0, start=[2,0], stop=[5,4], step=[1,1]) : f32[3,4]",
        "%1",
    ),
]


@pytest.mark.parametrize(("nodes", "result"), UNTOUCHED)
def test_what_is_not_an_identity_stays(nodes, result):
    leaves_alone(graph_text(nodes, result), simplify)


def test_rules_feed_each_other():
    nodes = (
        constant("1.0", 0, "3,4")
        + "%1 = mul(%x, %0) : f32[3,4]\n%2 = neg(%1) : f32[3,4]\n%3 = neg(%2) : f32[3,4]\n"
        + "%4 = reshape(%3, shape=[12]) : f32[12]\n%5 = reshape(%4, shape=[3,4]) : f32[3,4]"
    )
    assert simplify(graph_from(graph_text(nodes, "%5"))).outputs[0].name == "x"


def test_special_values_stay():
    special = np.tile(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40], np.float32), 2)
    for rule, before, result, *_ in CASES:
        if rule == "log_of_softmax":
            continue  # log(0) is meant to change
        old = graph_from(graph_text(before, result))
        inputs = [
            special.reshape(v.shape) if v.dtype == "f32" and v.type.elements == 12 else array
            for v, array in zip(old.inputs, inputs_of(old), strict=True)
        ]
        (want,), (got,) = run(old, inputs)[0], run(simplify(old), inputs)[0]
        np.testing.assert_array_equal(got, want, err_msg=rule)
        if rule not in ("add_zero", "add_pads", "reduce_units"):  # -0 + 0 is 0
            number = ~np.isnan(want)
            np.testing.assert_array_equal(np.signbit(1.0 * got[number]), np.signbit(1.0 * want[number]), err_msg=rule)
