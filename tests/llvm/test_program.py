"""Schedules as programs in this process: barriers where memory demands them, equal kernels once, inputs checked."""

import gc
import itertools
import os
import re
import signal
import threading
import time

import numpy as np
import pytest

from graphc.backends.llvm import target
from graphc.backends.llvm.assemble import BRIEF_NS, SHARED_NS, assemble, brief, calls_of, groups, pieces_of, work_ns
from graphc.backends.llvm.pieces import emit_piece
from graphc.backends.llvm.program import LlvmProgram
from graphc.ir import GraphcError
from graphc.schedule.expr import Aff, const, load
from graphc.schedule.image import aligned_zeros
from graphc.schedule.kernels import ACC, Access, Contraction, Loops, Reduce, Schedule, Stage, Store
from graphc.schedule.layout import Buffer
from graphc.schedule.places import places_of

SMALL, LARGE = 1000, 1_000_000  # elements: on one thread, shared
I = Aff.of("i")


def copy(name, source, destination, size, plus=1.0, at=0):
    """destination[i] = source[i + at] + plus."""
    value = load(source, (I + at,)) + const(plus)
    return Loops(name, (("i", size),), (Stage((), (Store(destination, (I,), value),)),))


def schedule(kernels, buffers, inputs=("x",), outputs=("y",), **sizes):
    arena = max((b.offset + b.bytes for b in buffers if b.place == "arena"), default=0)
    return Schedule("net", {b.name: b for b in buffers}, tuple(kernels), inputs, outputs, arena_bytes=arena, **sizes)


def arena(name, size, offset):
    return Buffer(name, (size,), "f32", place="arena", offset=offset)


def given(name, size, dtype="f32"):
    return Buffer(name, (size,) if isinstance(size, int) else size, dtype, place="input")


def result(name, size, dtype="f32"):
    return Buffer(name, (size,), dtype, place="output")


def program(made, **options):
    return LlvmProgram(made, np.zeros(made.weight_bytes, np.uint8), np.zeros(made.state_bytes, np.uint8), **options)


def chain(size, length=3):
    """x -> t0 -> t1 -> ... -> y, each one more than the one before."""
    names = ["x", *(f"t{k}" for k in range(length - 1)), "y"]
    kernels = [copy(f"k{k}", a, b, size) for k, (a, b) in enumerate(itertools.pairwise(names))]
    buffers = [given("x", size), *(arena(n, size, 4 * size * k) for k, n in enumerate(names[1:-1])), result("y", size)]
    return schedule(kernels, buffers)


# results


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_chain_of_kernels_for_any_number_of_threads(size):
    made = program(chain(size))
    x = np.arange(size, dtype=np.float32)
    for threads in (1, 2, 3, 8):
        made.threads = threads
        assert np.array_equal(made(x)[0], x + 3)


def test_outputs_are_fresh_and_inputs_untouched():
    made = program(chain(SMALL))
    x = np.zeros(SMALL, np.float32)
    first, second = made(x)[0], made(x + 1)[0]
    assert first is not second and first[0] == 3 and second[0] == 4 and not x.any()


def test_state_changes_in_place_and_weights_are_read():
    kernel = Loops("step", (("i", 8),), (Stage((), (
        Store("s", (I,), load("s", (I,)) + load("w", (I,))), Store("y", (I,), load("s", (I,))))),))  # fmt: skip
    buffers = [Buffer("s", (8,), "f32", place="state", offset=64), Buffer("w", (8,), "f32", place="weight", offset=0),
               result("y", 8)]  # fmt: skip
    made = schedule([kernel], buffers, inputs=(), weight_bytes=64, state_bytes=128)
    weights, state = np.arange(16, dtype=np.float32), np.zeros(32, np.float32)
    run = LlvmProgram(made, weights.view(np.uint8), state.view(np.uint8))
    assert run()[0].tolist() == [0] * 8  # expressions are evaluated before stores
    assert run()[0].tolist() == list(range(8))
    assert run.state.view(np.float32)[16:24].tolist() == [2 * k for k in range(8)]


def test_calls_from_several_threads_take_turns():
    made, errors = program(chain(LARGE), threads=2), []

    def work(start):
        for k in range(5):
            x = np.full(LARGE, start + k, np.float32)
            if not (made(x)[0] == x + 3).all():
                errors.append(start)

    callers = [threading.Thread(target=work, args=(100 * k,)) for k in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not errors


def test_a_child_runs_what_another_thread_of_its_parent_was_in():
    made, ended = program(chain(LARGE), threads=2), threading.Event()
    x = np.zeros(LARGE, np.float32)

    def work():
        while not ended.is_set():
            made(x)

    caller = threading.Thread(target=work)
    caller.start()
    try:
        for _ in range(5):  # nearly every fork meets a call
            child = os.fork()
            if not child:
                os._exit(0 if (made(x)[0] == 3).all() else 1)
            until = time.monotonic() + 20
            while not (found := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
                time.sleep(0.01)
            if not found[0]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            assert found == (child, 0)
    finally:
        ended.set()
        caller.join()


def test_threads_end_with_the_program():
    gc.collect()
    before = len(os.listdir("/proc/self/task"))
    made = program(chain(LARGE), threads=3)
    made(np.zeros(LARGE, np.float32))
    assert len(os.listdir("/proc/self/task")) == before + 2
    del made
    gc.collect()
    assert len(os.listdir("/proc/self/task")) == before


def test_source_is_text_made_when_asked_for():
    made = program(chain(SMALL))
    assert list(made.source) == [".ll", ".s"]
    assert "define" in made.source[".ll"] and "graphc_run:" in made.source[".s"]


# barriers


def barriers(made: Schedule) -> list[tuple[list[str], bool]]:
    """Kernels by group, and whether a barrier stands before it."""
    pieces = pieces_of(made, target.host())
    calls = calls_of(made, pieces, {p.key: emit_piece(p, target.host())[1] for p in pieces})
    return [([c.kernel.name for c in group], barrier) for group, barrier in groups(calls, places_of(made))]


def test_kernels_that_depend_meet_at_a_barrier():
    assert barriers(chain(LARGE)) == [(["k0"], False), (["k1"], True), (["k2"], True)]


def test_small_kernels_stay_on_one_thread_without_barriers():
    made = chain(SMALL)
    assert barriers(made) == [(["k0", "k1", "k2"], False)]
    text = str(assemble(made, target.host(), "net")[-1])
    assert re.search(r'call void @"body"\(.*, i32 0, i32 1\)', text)
    assert "pool" not in text and "pthread" not in text  # nobody to wake
    assert "pthread" in str(assemble(chain(LARGE), target.host(), "net")[-1])


def test_a_program_with_little_work_has_threads_only_if_it_was_made_for_them():
    size = LARGE // 10
    kernels = [copy("a", "x", "t", size), copy("b", "t", "y", size)]
    made = schedule(kernels, [given("x", size), arena("t", size, 0), result("y", size)])
    assert all(SHARED_NS < work_ns(k) < BRIEF_NS / 2 for k in kernels) and brief(made) and not brief(chain(LARGE))
    assert barriers(made) == [(["a"], False), (["b"], True)]
    x = np.random.default_rng(0).random(size, np.float32)
    before = len(os.listdir("/proc/self/task"))
    for threads, more in ((1, 0), (2, 1)):
        one = program(made, threads=threads)
        one.threads = 2
        for _ in range(40):  # with threads that sleep, wake and share
            np.testing.assert_array_equal(one(x)[0], x + np.float32(1) + np.float32(1))
        assert len(os.listdir("/proc/self/task")) == before + more


def independent(t_offset, u_offset, second_reads="x"):
    """t and u from the input, at these places of the arena; y from both."""
    both = Loops("join", (("i", LARGE),), (Stage((), (Store("y", (I,), load("t", (I,)) + load("u", (I,))),)),))
    kernels = [copy("t", "x", "t", LARGE), copy("u", second_reads, "u", LARGE), both]
    buffers = [given("x", LARGE), arena("t", LARGE, t_offset), arena("u", LARGE, u_offset), result("y", LARGE)]
    return schedule(kernels, buffers)


def test_kernels_that_only_read_the_same_need_no_barrier():
    assert barriers(independent(0, 4 * LARGE)) == [(["t", "u"], False), (["join"], True)]


@pytest.mark.parametrize("overlap", [4, 4 * LARGE])
def test_reuse_of_arena_memory_needs_a_barrier(overlap):
    """u is written where t, read by the kernel before, lies or ends."""
    kernels = [copy("a", "x", "t", LARGE), copy("b", "t", "y", LARGE), copy("c", "x", "u", LARGE, 5.0)]
    kernels.append(copy("d", "u", "z", LARGE))
    buffers = [given("x", LARGE), arena("t", LARGE, 0), arena("u", LARGE, 4 * LARGE - overlap), result("y", LARGE),
               result("z", LARGE)]  # fmt: skip
    made = schedule(kernels, buffers, outputs=("y", "z"))
    assert [barrier for _, barrier in barriers(made)] == [False, True, True, True]
    run = program(made, threads=3)
    x = np.arange(LARGE, dtype=np.float32)
    for _ in range(5):
        y, z = run(x)
        assert np.array_equal(y, x + 2) and np.array_equal(z, x + 6)


def test_apart_in_the_arena_by_a_byte_is_apart():
    kernels = [copy("a", "x", "t", LARGE), copy("b", "x", "u", LARGE)]
    buffers = [given("x", LARGE), arena("t", LARGE, 0), arena("u", LARGE, 4 * LARGE), result("y", LARGE)]
    assert barriers(schedule(kernels, buffers)) == [(["a", "b"], False)]


def test_a_small_kernel_between_shared_ones():
    kernels = [copy("a", "x", "t", LARGE), copy("b", "t", "u", SMALL), copy("c", "x", "v", SMALL),
               copy("d", "u", "w", SMALL), copy("e", "t", "y", LARGE)]  # fmt: skip
    buffers = [given("x", LARGE), arena("t", LARGE, 0), result("y", LARGE)]
    buffers += [arena(n, SMALL, 4 * LARGE + 4096 * k) for k, n in enumerate("uvw")]
    assert barriers(schedule(kernels, buffers)) == [(["a"], False), (["b", "c", "d"], True), (["e"], False)]


# kernels


def test_equal_kernels_are_emitted_once():
    *kernels, runner = assemble(chain(LARGE, 5), target.host(), "net")
    assert len(kernels) == 3  # from x, inside, to y: alignments differ
    for kernel in kernels:
        assert len(re.findall(r"define ", str(kernel))) == 1
        assert f'declare void @"{kernel.name}"' in str(runner)
    assert len(re.findall(r'call void @"graphc_loops_', str(runner))) == 5


def test_contractions_without_tiles_run_as_loops():
    """w has no unit stride along the lanes: the sum is right all the same."""
    M, N, K = 5, 7, 9
    matmul = Contraction(
        "mm", "matmul", (("m", M), ("n", N)), (("k", K),), Access("x", (Aff.of("m"), Aff.of("k"))),
        Access("w", (Aff.of("n"), Aff.of("k"))), (Store("y", (Aff.of("m"), Aff.of("n")), ACC),), "n",
    )  # fmt: skip
    buffers = [given("x", (M, K)), given("w", (N, K)), Buffer("y", (M, N), "f32", place="output")]
    made = program(schedule([matmul], buffers, inputs=("x", "w")))
    draw = np.random.default_rng(0)
    x, w = draw.standard_normal((M, K), np.float32), draw.standard_normal((N, K), np.float32)
    np.testing.assert_allclose(made(x, w)[0], x @ w.T, rtol=1e-5, atol=1e-6)


def test_a_kernel_may_not_write_where_it_reads_under_another_name():
    buffers = [arena("t", SMALL, 0), arena("u", SMALL, 64), given("x", SMALL), result("y", SMALL)]
    with pytest.raises(ValueError, match="kernel k writes u where t lies"):
        assemble(schedule([copy("k", "t", "u", SMALL)], buffers), target.host(), "net")


def test_an_unplanned_schedule_is_refused():
    buffers = [given("x", 8), Buffer("t", (8,), "f32"), result("y", 8)]
    made = Schedule("net", {b.name: b for b in buffers}, (copy("k", "x", "t", 8),), ("x",), ("y",))
    with pytest.raises(ValueError, match=r"buffer t \(arena\) has no offset"):
        assemble(made, target.host(), "net")


# inputs


@pytest.fixture(scope="module")
def labelled():
    """(x: f32[2,3], labels: i32[4]) -> the same."""

    def flat(name, source, destination, shape, dtype):
        axes = tuple((f"a{k}", n) for k, n in enumerate(shape))
        index = tuple(Aff.of(a) for a, _ in axes)
        return Loops(name, axes, (Stage((), (Store(destination, index, load(source, index, dtype)),)),))

    kernels = [flat("x", "x", "y", (2, 3), "f32"), flat("l", "labels", "z", (4,), "i32")]
    buffers = [given("x", (2, 3)), given("labels", (4,), "i32"), Buffer("y", (2, 3), "f32", place="output"),
               result("z", 4, "i32")]  # fmt: skip
    return program(schedule(kernels, buffers, inputs=("x", "labels"), outputs=("y", "z")))


X, LABELS = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.int32)


def test_inputs_of_any_memory_order(labelled):
    y, z = labelled(np.asfortranarray(X), np.arange(8, dtype=np.int32)[::2])
    assert np.array_equal(y, X) and z.tolist() == [0, 2, 4, 6]
    y, _ = labelled(np.broadcast_to(np.float32(7), (2, 3)), LABELS)
    assert (y == 7).all()


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int16, np.uint64])
def test_labels_of_any_integer_type(labelled, dtype):
    assert labelled(X, LABELS.astype(dtype))[1].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((X,), TypeError, r"expected 2 \(x, labels\), got 1"),
        ((X.astype(np.float64), LABELS), TypeError, "input x: wrong element type\n  expected float32, got float64"),
        ((X.astype(np.int32), LABELS), TypeError, "input x: wrong element type\n  expected float32, got int32"),
        ((X, LABELS.astype(np.float32)), TypeError, "input labels: wrong element type\n  expected int32, got float32"),
        ((X.T, LABELS), ValueError, "input x: wrong shape\n  expected 2x3, got 3x2\n.*reshape"),
        (
            (X, LABELS.astype(np.int64) + 2**40),
            ValueError,
            f"input labels: values out of range\n  expected whole numbers that int32 holds, got {2**40}",
        ),
        ((X, 3), ValueError, "input labels: wrong shape\n  expected 4, got scalar"),
    ],
)
def test_wrong_inputs_are_told(labelled, inputs, error, message):
    with pytest.raises(error, match=message):
        labelled(*inputs)


def test_numbers_are_scalars():
    kernel = Loops("k", (), (Stage((), (Store("y", (), load("x", ()) * 2.0),)),))
    made = program(schedule([kernel], [given("x", ()), Buffer("y", (), "f32", place="output")]))
    assert made(1.5)[0] == 3.0 and made(2)[0] == 4.0 and made(np.float64(0.5))[0] == 1.0


def test_a_program_for_another_processor_is_refused():
    other = target.aarch64() if target.host().arch == "x86_64" else target.x86_64_v3()
    with pytest.raises(GraphcError, match=f"for {other.name} cannot run here"):
        program(chain(SMALL), target=other)


def test_aligned_memories_are_not_copied():
    made = schedule([], [], inputs=(), outputs=(), weight_bytes=64, state_bytes=128)
    held = []
    for _ in range(20):
        weights, state = aligned_zeros(64), aligned_zeros(128)
        run = LlvmProgram(made, weights, state)
        assert run.weights is weights and run.state is state
        held.append(np.zeros(64, np.uint8))  # the allocator's next addresses are others


def test_memories_of_the_wrong_size_are_told():
    with pytest.raises(ValueError, match="weights: expected 0 bytes"):
        LlvmProgram(chain(SMALL), np.zeros(3, np.uint8), np.zeros(0, np.uint8))


def test_estimates_tell_small_from_large():
    total = Loops("sum", (("i", 10),), (Stage((("k", 10**6),), (Reduce("s", "sum", load("x", (Aff.of("k"),))),)),))
    assert work_ns(total) > SHARED_NS > work_ns(copy("k", "x", "y", SMALL))
