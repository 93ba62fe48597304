"""Rewriting of stages: what each function changes, and when it refuses."""

from __future__ import annotations

from graphc.schedule.expr import Aff, axis, const, guard, load, temp
from graphc.schedule.kernels import AxisNames, Loops, Reduce, Stage, Store
from graphc.schedule.rewriting import forward, fresh_names, rename, substitute, without_stores
from graphc.schedule.text import show_kernel

I, J = Aff.of("i"), Aff.of("j")
READ = load("t", (I,))


def text(*stages: Stage) -> list[str]:
    return [line.strip() for line in show_kernel(Loops("k", (("i", 4),), stages), 0)[1:-1]]


def test_forward_puts_the_stored_value_for_the_load():
    (stage,) = forward([Stage((), (Store("y", (I,), READ * READ),))], [Store("t", (I,), load("x", (I,)) + 1.0)])
    assert text(stage) == ["let e0 = %x[i] + 1", "%y[i] = e0 * e0"]


def test_forward_refuses_another_element_and_sees_computed_indices():
    stored = [Store("t", (I,), const(1.0))]
    assert forward([Stage((), (Store("y", (I,), load("t", (I + 1,))),))], stored) is None
    index = load("t", (I + 1,), "i32")
    assert forward([Stage((), (Store("y", (index,), const(0.0)),))], stored) is None
    assert forward([Stage((("j", 2),), (Reduce("r", "argmax", const(0.0), index),))], stored) is None


def test_substitute_reaches_indices_guards_and_axis_values():
    value = guard(load("x", (I,)) + axis(I).cast("f32"), const(0.0), ((I, 0, 3),))
    stage = substitute(Stage((), (Store("y", (I,), value),)), {"i": J * 2 + 1})
    assert text(stage) == ["%y[2*j+1] = (%x[2*j+1] + cast_f32((2*j+1)) if 0<=2*j+1<3 else 0)"]


def test_rename_takes_axes_and_both_results_of_argmax():
    stage = Stage((("j", 5),), (Reduce("r", "argmax", load("x", (I, J)), axis(J)),))
    after = Stage((), (Store("y", (I,), temp("r")), Store("z", (I,), temp("r.i", "i32"))))
    names = {"j": "k", "r": "s"}
    assert text(rename(stage, names)) == ["for[k<5] s = argmax %x[i, k] at k"]
    assert text(rename(after, names)) == ["%y[i] = s", "%z[i] = s.i"]


def test_fresh_names_meet_none_of_the_other_kernel():
    kernel = Loops("k", (("i", 4), ("h1", 2)), (Stage((("j", 5),), (Reduce("r", "sum", READ),)),))
    assert fresh_names(kernel, kernel) == {"i": "i1", "h1": "h", "j": "j1", "r": "r1"}


def test_stages_of_nothing_but_needless_stores_go():
    stages = (Stage((), (Store("t", (I,), READ),)), Stage((), (Store("t", (I,), READ), Store("y", (I,), READ))))
    assert text(*without_stores(stages, {"t"})) == ["%y[i] = %t[i]"]


def test_names_are_handed_out_once():
    names = AxisNames(("h", "h2"))
    assert [names("h"), names("h"), names("w"), names("h")] == ["h1", "h3", "w", "h4"]
