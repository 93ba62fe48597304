"""Register-tiled contractions against NumPy in float64: all kinds, odd sizes, layouts, epilogues; their machine code.

Sums of n products in float32, in any order, differ from the exact ones by at most n * 2**-24 * sum |x * w| (n * u,
Higham, Accuracy and Stability, section 3.1), so that is the tolerance. One more rounding goes to each epilogue step.
"""

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest
from assembly_text import innermost_loops
from llvmlite import ir

from graphc.backends.llvm import jit, target
from graphc.backends.llvm.kernels.contraction import emit_contraction
from graphc.backends.llvm.kernels.form import analyse
from graphc.backends.llvm.kernels.plans import plan
from graphc.backends.llvm.kernels.tiles import equalised
from graphc.schedule.expr import Aff, binary, const, guard, load
from graphc.schedule.kernels import ACC, Access, Contraction, Store
from graphc.schedule.layout import Buffer, Layout
from graphc.schedule.normal import flatten_contraction

N, C, O, M, K, G = (Aff.of(a) for a in ("n", "c", "o", "m", "k", "g"))
H, W, KH, KW = (Aff.of(a) for a in ("oh", "ow", "kh", "kw"))
PACKED = Layout(((0, "outer"), (1, "outer"), (2, "whole"), (3, "whole"), (1, "inner"), (0, "inner")), 16)
PACKED_PLAIN = Layout(((0, "outer"), (1, "whole"), (2, "whole"), (3, "whole"), (0, "inner")), 16)
PACKED_BACK = Layout(((1, "outer"), (0, "outer"), (2, "whole"), (3, "whole"), (0, "inner"), (1, "inner")), 16)
PACKED_ROWS = Layout(((0, "outer"), (1, "whole"), (0, "inner")), 16)
BLOCKED, PLAIN, VECTOR = Layout.blocked(4, 16), Layout.plain(4), Layout.blocked(1, 16, (0,))
HOST = target.host()
# every width and register count that tiles are made for; LLVM cuts vectors that this machine does not have
SHAPES = [replace(HOST, vector_bytes=b, vector_registers=r) for b, r in ((32, 16), (64, 32), (16, 32))]
# caches so small that plans fetch weights ahead, take the points first, and cut sums in pieces
SMALL = [replace(HOST, l1_bytes=1 << 9, l2_bytes=1 << n) for n in (11, 13, 15)]


def size(extent, kernel, stride, padding, dilation=1):
    return (extent + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def conv2d(
    n, c, o, h, w, k, stride=1, padding=None, dilation=1, plain=False, out=BLOCKED, halo=0, epilogue=ACC, groups=1
):
    """Kernel and buffers of a convolution, weights packed; `plain`: x and w as a first layer has them."""
    p = k // 2 if padding is None else padding
    oh, ow = size(h, k, stride, p, dilation), size(w, k, stride, p, dilation)
    x_layout, w_layout = (PLAIN, PACKED_PLAIN) if plain else (BLOCKED, PACKED)
    y_layout = out.with_halo({2: (halo, halo), 3: (halo, halo)})
    buffers = [
        Buffer("x", (n, c, h, w), "f32", x_layout.with_halo({2: (p, p), 3: (p, p)})),
        Buffer("w", (o, c // groups, k, k), "f32", w_layout, "weight"),
        Buffer("y", (n, o, oh, ow), "f32", y_layout),
        Buffer("bias", (o,), "f32", VECTOR, "weight"),
        Buffer("skip", (n, o, oh, ow), "f32", BLOCKED),
    ]
    par = (("n", n), ("o", o), ("oh", oh), ("ow", ow)) if groups == 1 else (
        ("n", n), ("g", groups), ("o", o // groups), ("oh", oh), ("ow", ow))  # fmt: skip
    channel, feature = (C, O) if groups == 1 else (G * (c // groups) + C, G * (o // groups) + O)
    at = H * stride + KH * dilation - p, W * stride + KW * dilation - p
    return Contraction(
        "conv", "conv2d", par, (("c", c // groups), ("kh", k), ("kw", k)), Access("x", (N, channel, *at)),
        Access("w", (feature, C, KH, KW)), (Store("y", (N, feature, H, W), epilogue),), "o",
    ), {b.name: b for b in buffers}  # fmt: skip


def conv2d_rows(n, c, o, h, w, k, spare=0, groups=1, epilogue=ACC):
    """A convolution of plain images whose lanes are the places of a row, with broadcast weights."""
    p = k // 2
    layout = replace(PLAIN.with_halo({2: (p, p), 3: (p, p)}), spare=((3, spare),) if spare else ())
    buffers = [
        Buffer("x", (n, c, h, w), "f32", layout),
        Buffer("w", (o, c // groups, k, k), "f32", Layout.blocked(4, 16, (0,)) if o > 16 else PLAIN, "weight"),
        Buffer("y", (n, o, h, w), "f32", PLAIN),
        Buffer("bias", (o,), "f32", VECTOR, "weight"),
        Buffer("skip", (n, o, h, w), "f32", PLAIN),
    ]
    par = [("n", n), ("g", groups), ("o", o // groups), ("oh", h), ("ow", w)]
    one = {a: Aff() for a, e in par if e == 1}
    channel, feature = (G * (m // groups) + i for m, i in ((c, C), (o, O)))
    at = [tuple(i.substitute(one) for i in indices) for indices in (
        (N, channel, H + KH - p, W + KW - p), (feature, C, KH, KW), (N, feature, H, W))]  # fmt: skip
    return Contraction(
        "rows", "conv2d", tuple(a for a in par if a[1] > 1), (("c", c // groups), ("kh", k), ("kw", k)),
        Access("w", at[1]), Access("x", at[0]), (Store("y", at[2], epilogue),), "ow",
    ), {b.name: b for b in buffers}  # fmt: skip


def conv2d_dw(n, c, o, h, w, k, stride=1, padding=None, plain=False, packed=True):
    p = k // 2 if padding is None else padding
    oh, ow = size(h, k, stride, p), size(w, k, stride, p)
    layout = (PACKED_PLAIN if plain else PACKED) if packed else PLAIN
    buffers = [
        Buffer("x", (n, c, h, w), "f32", (PLAIN if plain else BLOCKED).with_halo({2: (p, p), 3: (p, p)})),
        Buffer("dy", (n, o, oh, ow), "f32", BLOCKED),
        Buffer("y", (o, c, k, k), "f32", layout),
    ]
    return Contraction(
        "dw", "conv2d_dw", (("o", o), ("c", c), ("kh", k), ("kw", k)), (("n", n), ("oh", oh), ("ow", ow)),
        Access("x", (N, C, H * stride + KH - p, W * stride + KW - p)), Access("dy", (N, O, H, W)),
        (Store("y", (O, C, KH, KW), ACC),), "o",
    ), {b.name: b for b in buffers}  # fmt: skip


def conv2d_dx(n, c, o, h, w, k, stride, padding, r, q):
    """Gradient at the pixels (stride * a + r, stride * b + q): those that see the taps congruent to r + p, q + p."""
    oh, ow = size(h, k, stride, padding), size(w, k, stride, padding)
    kh0, kw0 = (r + padding) % stride, (q + padding) % stride
    i0, j0 = (r + padding - kh0) // stride, (q + padding - kw0) // stride
    taps = [-(-(k - first) // stride) for first in (kh0, kw0)]
    a, b = -(-(h - r) // stride), -(-(w - q) // stride)
    halo = {2: (taps[0], max(a + i0 - oh, 0)), 3: (taps[1], max(b + j0 - ow, 0))}
    buffers = [
        Buffer("x", (n, o, oh, ow), "f32", BLOCKED.with_halo(halo)),
        Buffer("w", (o, c, k, k), "f32", PACKED_BACK),
        Buffer("y", (n, c, h, w), "f32", BLOCKED),
    ]
    A, B, I, J = (Aff.of(s) for s in "abij")
    return Contraction(
        "dx", "conv2d_dx", (("n", n), ("c", c), ("a", a), ("b", b)), (("o", o), ("i", taps[0]), ("j", taps[1])),
        Access("x", (N, O, A + i0 - I, B + j0 - J)), Access("w", (O, C, I * stride + kh0, J * stride + kw0)),
        (Store("y", (N, C, A * stride + r, B * stride + q), ACC),), "c",
    ), {b.name: b for b in buffers}  # fmt: skip


def matmul(m, n, k, packed=True, batch=0, epilogue=ACC):
    w = Buffer("w", (n, k), "f32", PACKED_ROWS, "weight") if packed else Buffer("w", (k, n), "f32")
    b, more = ((Aff.of("b"),), (("b", batch),)) if batch else ((), ())
    if batch:
        w = Buffer("w", (batch, k, n), "f32")
    buffers = [
        Buffer("x", (*((batch,) if batch else ()), m, k), "f32"),
        w,
        Buffer("y", (*((batch,) if batch else ()), m, n), "f32"),
        Buffer("bias", (n,), "f32"),
    ]
    return Contraction(
        "mm", "matmul", (*more, ("m", m), ("o", n)), (("k", k),), Access("x", (*b, M, K)),
        Access("w", (O, K) if packed and not batch else (*b, K, O)), (Store("y", (*b, M, O), epilogue),), "o",
    ), {b.name: b for b in buffers}  # fmt: skip


BIAS_RELU = binary("max", ACC + load("bias", (O,)), const(0.0))
RESIDUAL = binary("max", ACC + load("bias", (O,)) + load("skip", (N, O, H, W)), const(0.0))

CASES = {
    "conv 64": conv2d(1, 64, 32, 12, 12, 3),
    "conv odd channels": conv2d(2, 37, 17, 7, 7, 3, epilogue=BIAS_RELU, halo=1),
    "conv 20 to 50": conv2d(1, 20, 50, 9, 9, 5, epilogue=BIAS_RELU, halo=2),
    "conv 1x1 of a 1x1 map": conv2d(3, 16, 33, 1, 1, 1),
    "conv one channel each": conv2d(1, 1, 1, 5, 6, 3, halo=1),
    "conv stride 3": conv2d(1, 16, 16, 17, 19, 3, stride=3, padding=1, epilogue=BIAS_RELU),
    "conv kernel larger than input": conv2d(1, 16, 16, 3, 3, 7, padding=3),
    "conv dilated": conv2d(1, 32, 16, 11, 11, 3, dilation=2, padding=2),
    "conv residual": conv2d(1, 16, 48, 7, 7, 1, epilogue=RESIDUAL, halo=1),
    "conv grouped": conv2d(2, 32, 64, 5, 5, 3, groups=2),
    "conv plain output": conv2d(1, 16, 21, 6, 5, 3, out=PLAIN, epilogue=BIAS_RELU),
    "conv all plain": conv2d(3, 3, 7, 8, 8, 3, plain=True, out=PLAIN),
    "conv first layer": conv2d(1, 3, 24, 31, 33, 7, stride=2, plain=True, epilogue=BIAS_RELU, halo=1),
    "conv padding lanes made zero": conv2d(1, 16, 21, 5, 5, 3, epilogue=ACC + 1.0, halo=1),
    "rows to one channel": conv2d_rows(1, 20, 1, 13, 13, 3, spare=1),
    "rows to three channels": conv2d_rows(2, 20, 3, 6, 21, 3, epilogue=RESIDUAL),
    "rows of few places": conv2d_rows(1, 9, 2, 4, 5, 3, epilogue=BIAS_RELU),
    "rows in blocks": conv2d_rows(1, 5, 1, 4, 37, 5),
    "rows of one image alone": conv2d_rows(1, 5, 20, 1, 40, 1, epilogue=BIAS_RELU),
    "rows grouped": conv2d_rows(2, 9, 6, 5, 16, 3, groups=3, epilogue=BIAS_RELU),
    "dw": conv2d_dw(3, 32, 16, 14, 14, 3),
    "dw odd channels": conv2d_dw(2, 20, 37, 9, 9, 5),
    "dw few channels": conv2d_dw(2, 5, 17, 9, 8, 3),
    "dw long sum": conv2d_dw(40, 16, 16, 14, 14, 3),
    "dw stride 2": conv2d_dw(2, 16, 16, 9, 9, 3, stride=2),
    "dw first layer": conv2d_dw(2, 3, 20, 17, 17, 5, plain=True),
    "dw plain result": conv2d_dw(2, 20, 18, 8, 8, 3, packed=False),
    "dx stride 1": conv2d_dx(2, 17, 20, 9, 7, 3, 1, 1, 0, 0),
    "dx stride 2": conv2d_dx(1, 16, 32, 9, 10, 3, 2, 1, 1, 0),
    "matmul": matmul(64, 37, 50),
    "matmul one row": matmul(1, 500, 64, epilogue=ACC + load("bias", (O,))),
    "matmul few rows": matmul(3, 10, 17),
    "matmul 8 rows": matmul(8, 100, 33, epilogue=binary("max", ACC, const(0.0))),
    "matmul unpacked": matmul(7, 37, 21, packed=False),
    "matmul copied": matmul(128, 603, 131, packed=False),
    "matmul batched": matmul(5, 19, 8, packed=False, batch=3),
    "matmul of ones": matmul(1, 1, 1),
}


def exact(kernel, arrays):
    """The stores' values and the sums of |x * w| in float64, over the kernel's parallel axes: one product at a time."""
    ranges = np.meshgrid(*(np.arange(e) for _, e in kernel.par), indexing="ij", sparse=True)
    grid = dict(zip([a for a, _ in kernel.par], ranges, strict=True))

    def read(access, env):
        array, index = (
            arrays[access.buffer],
            [np.asarray(sum(c * env[a] for a, c in i.terms) + i.const) for i in access.indices],
        )
        inside = np.array(True)
        for i, extent in zip(index, array.shape, strict=True):
            inside = inside & (i >= 0) & (i < extent)
        clipped = [np.clip(i, 0, e - 1) for i, e in zip(index, array.shape, strict=True)]
        return np.where(inside, array[tuple(clipped)], 0.0)

    shape = tuple(e for _, e in kernel.par)
    acc, bound = np.zeros(shape), np.zeros(shape)
    for point in np.ndindex(*(e for _, e in kernel.red)):
        env = grid | dict(zip([a for a, _ in kernel.red], point, strict=True))
        product = read(kernel.x, env) * read(kernel.w, env)
        acc, bound = acc + product, bound + abs(product)
    return acc, bound, grid


def epilogue(e, acc, arrays, grid):
    """The few expressions used above, in float64."""
    if e is ACC:
        return acc
    if e.op == "const":
        return e.attr
    if e.op == "load":
        name, index = e.attr
        return arrays[name][tuple(sum(c * grid[a] for a, c in i.terms) + i.const for i in index)]
    x, y = (epilogue(a, acc, arrays, grid) for a in e.args)
    return {"add": np.add, "max": np.maximum}[e.op](x, y)


def aligned(count):
    room = np.full(count + 64, np.nan, np.float32)
    start = (-room.ctypes.data % 64) // 4 + 16
    return room, room[start : start + count]


def poisoned(buffer):
    """NaN wherever a kernel must write: the interior and the padding lanes; the halo is zero."""
    block = buffer.layout.block
    full = [-(-n // block) * block if d in buffer.layout.blocked_dims else n for d, n in enumerate(buffer.shape)]
    return replace(buffer, shape=tuple(full)).pack(np.full(full, np.nan)).reshape(-1)


class Compiled:
    """A kernel with operands in memory. NaN surrounds every buffer."""

    def __init__(self, kernel, buffers, machine, seed=0):
        module = ir.Module("test")
        self.code = emit_contraction(module, "k", kernel, buffers, machine)
        self.code.function.linkage = "external"
        self._loaded = jit.load_object([jit.compile_object(module, machine)], ["k"])
        types = [ctypes.c_void_p] * len(self.code.arguments) + [ctypes.c_int64] * 2
        self._call = ctypes.CFUNCTYPE(None, *types)(self._loaded.address("k"))
        self.buffers, random = buffers, np.random.default_rng(seed)
        self.logical, self.memory, self._rooms = {}, {}, {}
        for name, b in buffers.items():
            self._rooms[name], self.memory[name] = aligned(b.elements)
            self.logical[name] = random.standard_normal(b.shape).astype(np.float32)
            self.memory[name][:] = b.pack(self.logical[name]).reshape(-1)

    def run(self, ranges=None):
        self.memory["y"][:] = poisoned(self.buffers["y"])
        pointers = [self.memory[name].ctypes.data for name in self.code.arguments]
        for lo, hi in ranges or [(0, self.code.units)]:
            self._call(*pointers, lo, hi)
        for room in self._rooms.values():
            assert np.isnan(room[:15]).all() and np.isnan(room[-15:]).all()
        return self.memory["y"].copy()


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    kernel, buffers = CASES[name]
    compiled = Compiled(kernel, buffers, HOST)
    got = compiled.run()
    arrays = {n: a.astype(np.float64) for n, a in compiled.logical.items()}
    acc, bound, grid = exact(kernel, arrays)
    (store,) = kernel.stores
    steps = int(np.prod([e for _, e in kernel.red]))
    want = epilogue(store.expr, acc, arrays, grid)
    index = tuple(np.asarray(sum(c * grid[a] for a, c in i.terms) + i.const) for i in store.indices)
    result = buffers["y"].unpack(got)[index]
    tolerance = (steps + 4) * 2.0**-24 * (bound + abs(want) + 1)
    assert (abs(result - want) <= tolerance).all()
    if kernel.kind != "conv2d_dx":  # which stores a part of its output
        np.testing.assert_array_equal(buffers["y"].pack(buffers["y"].unpack(got)).reshape(-1), got)


@pytest.mark.parametrize("name", [
    "conv 64", "conv odd channels", "conv 20 to 50", "conv grouped", "conv plain output", "conv first layer",
    "dw odd channels", "dw long sum", "dx stride 2", "matmul", "matmul one row", "matmul 8 rows", "matmul unpacked",
    "matmul copied", "rows to one channel", "rows to three channels", "rows of few places", "rows in blocks",
    "rows grouped",
])  # fmt: skip
def test_same_bits_for_any_units_and_any_vectors(name):
    kernel, buffers = CASES[name]
    first = Compiled(kernel, buffers, SHAPES[0])
    want = first.run()
    cuts = np.linspace(0, first.code.units, min(first.code.units, 5) + 1).astype(int)
    ranges = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
    np.testing.assert_array_equal(first.run(ranges[::-1]), want)
    for machine in SHAPES[1:] + SMALL:
        np.testing.assert_array_equal(Compiled(kernel, buffers, machine).run(), want)


SCANNED = {
    "3x3 on 56": conv2d(1, 64, 64, 56, 56, 3, epilogue=BIAS_RELU),
    "3x3 on 14": conv2d(1, 256, 256, 14, 14, 3, epilogue=BIAS_RELU),
    "3x3 on 7": conv2d(1, 512, 512, 7, 7, 3, epilogue=BIAS_RELU),
    "5x5, 20 to 50": conv2d(1, 20, 50, 14, 14, 5, epilogue=BIAS_RELU),
    "first layer": conv2d(1, 3, 64, 224, 224, 7, stride=2, plain=True, epilogue=BIAS_RELU),
    "dw on 28": conv2d_dw(1, 128, 128, 28, 28, 3),
    "dw first layer": conv2d_dw(4, 3, 64, 224, 224, 7, stride=2, plain=True),
    "matmul 64": matmul(64, 500, 2450),
    "matmul 197": matmul(197, 1152, 384),
    "1x1 on 14, fetched ahead": conv2d(1, 1024, 256, 14, 14, 1, epilogue=BIAS_RELU),
    "matmul 16, fetched ahead": matmul(16, 1024, 512),
    "matmul copied": matmul(128, 603, 131, packed=False),
    "matmul 1": matmul(1, 1000, 512),
    "matmul 3": matmul(3, 1000, 512),
    "rows to one channel": conv2d_rows(1, 64, 1, 13, 13, 3, spare=1),
    "rows to three channels": conv2d_rows(1, 64, 3, 56, 56, 3),
}


@pytest.mark.parametrize("machine", [target.x86_64_v3(), target.x86_64_v4()], ids=lambda t: t.name)
@pytest.mark.parametrize("name", SCANNED)
def test_innermost_loops_keep_accumulators_in_registers(name, machine):
    kernel, buffers = SCANNED[name]
    module = ir.Module("scan")
    emit_contraction(module, "k", kernel, buffers, machine).function.linkage = "external"
    chosen = plan(analyse(flatten_contraction(kernel, buffers), buffers), buffers, machine)
    loops = list(innermost_loops(jit.assembly(module, machine)))
    assert loops
    expected = {size * g.tile.vectors for g in chosen.groups for size, _ in g.tile.sizes}
    wide = "zmm" if machine.vector_bytes == 64 else "ymm"
    for body in loops:
        assert not [x for x in body if re.search(r"mm\d+", x) and "(%rsp" in x]
        multiplies = [x for x in body if "vfmadd" in x]
        assert all(wide in x for x in multiplies)
        assert any(len(multiplies) == e * n for e in expected for n in (1, 2, 3, 4))
        assert bool(chosen.w_ahead or chosen.x_ahead) == any(x.startswith("prefetch") for x in body)


def test_neon_code_has_no_spill_in_its_loops():
    kernel, buffers = SCANNED["3x3 on 56"]
    module = ir.Module("scan")
    emit_contraction(module, "k", kernel, buffers, target.aarch64()).function.linkage = "external"
    text = jit.assembly(module, target.aarch64())
    loops = list(innermost_loops(text))
    assert sorted(sum("fmla" in x for x in body) for body in loops) == [5 * 4, 6 * 4]
    assert not [x for body in loops for x in body if "[sp" in x]


def test_vectors_of_a_row_overlap_unless_something_stored_is_read():
    for epilogue, overlaps in ((RESIDUAL, True), (ACC + load("y", (N, O, H, W)), False)):
        kernel, buffers = conv2d_rows(2, 8, 3, 5, 13, 3, epilogue=epilogue)
        form = analyse(flatten_contraction(kernel, buffers), buffers)
        assert (form.partner, form.rows, form.overlaps) == ("oh", True, overlaps)


def planned(case, machine=None):
    kernel, buffers = case
    return plan(analyse(flatten_contraction(kernel, buffers), buffers), buffers, machine or target.x86_64_v3())


@pytest.mark.parametrize(("case", "points_first", "w_ahead", "x_ahead"), [
    (matmul(16, 1024, 512), False, True, 0),  # 2 MiB of weights for 16 rows that stay near
    (matmul(1024, 64, 64), True, False, 18),  # 16 KiB of weights, which stay near while the rows go by
    (matmul(1, 4096, 4096), False, False, 0),  # nothing to hide the fetching behind
    (matmul(16, 1024, 512, batch=2), False, True, 0),  # a line of weights in each row
    (conv2d(1, 512, 256, 28, 28, 1), True, True, 6),  # both large: 13 pieces of x, fewer bytes than x for 16 groups
    (conv2d(1, 64, 64, 56, 56, 3), True, True, 0),  # the window returns to what was read before
    (conv2d(1, 256, 64, 56, 56, 1, stride=2), True, False, 0),  # half of what lies between pixels is unused
    (conv2d(1, 512, 512, 7, 7, 3), False, False, 0),  # one group's weights overflow the second-level cache
])  # fmt: skip
def test_what_comes_first_and_what_is_fetched_ahead(case, points_first, w_ahead, x_ahead):
    chosen = planned(case)
    assert (chosen.points_first, chosen.w_ahead, chosen.x_ahead) == (points_first, w_ahead, x_ahead)


@pytest.mark.parametrize(("case", "copied"), [
    (matmul(128, 603, 131, packed=False), True),  # 131 rows of 2.4 kB each, a page for each but few
    (matmul(128, 603, 131), False),  # packed weights lie together anyway
    (matmul(128, 300, 131, packed=False), False),  # on 39 pages
    (matmul(24, 603, 131, packed=False), False),  # four tiles that would share the copy
])  # fmt: skip
def test_weights_that_lie_on_many_pages_are_copied(case, copied):
    assert planned(case).w_copied == copied


@pytest.mark.parametrize(("extent", "tile", "want"), [
    (7, 6, ((4, 1), (3, 1))), (49, 6, ((6, 4), (5, 5))), (56, 14, ((14, 4),)), (13, 6, ((5, 1), (4, 2))),
])  # fmt: skip
def test_tiles_are_equalised(extent, tile, want):
    assert equalised(extent, tile) == want
    assert sum(s * n for s, n in want) == extent


def refused(kernel, buffers):
    with pytest.raises(ValueError) as error:
        emit_contraction(ir.Module("refused"), "k", kernel, buffers, HOST)
    return str(error.value)


def test_refuses_weights_without_unit_stride():
    kernel, buffers = matmul(4, 32, 8)
    buffers |= {"w": Buffer("w", (32, 8), "f32")}
    assert "stride 8 along the lanes" in refused(kernel, buffers)


def test_refuses_integers():
    kernel, buffers = matmul(4, 32, 8)
    assert "f32" in refused(kernel, buffers | {"x": replace(buffers["x"], dtype="i32")})


def test_refuses_depthwise():
    buffers = {
        "x": Buffer("x", (1, 32, 6, 6), "f32", BLOCKED),
        "w": Buffer("w", (32, 3, 3), "f32", Layout(((0, "outer"), (1, "whole"), (2, "whole"), (0, "inner")), 16)),
        "y": Buffer("y", (1, 32, 4, 4), "f32", BLOCKED),
    }
    kernel = Contraction(
        "depthwise", "conv2d", (("o", 32), ("oh", 4), ("ow", 4)), (("kh", 3), ("kw", 3)),
        Access("x", (Aff(), O, H + KH, W + KW)), Access("w", (O, KH, KW)), (Store("y", (Aff(), O, H, W), ACC),), "o",
    )  # fmt: skip
    assert "depends on the lanes" in refused(kernel, buffers)


def test_guarded_epilogue_keeps_its_meaning():
    inside = guard(ACC, const(-1.0), ((H, 1, 4), (O, 0, 18)))
    kernel, buffers = conv2d(1, 16, 21, 5, 5, 1, epilogue=inside)
    compiled = Compiled(kernel, buffers, HOST)
    got = buffers["y"].unpack(compiled.run())
    acc, bound, _ = exact(kernel, {n: a.astype(np.float64) for n, a in compiled.logical.items()})
    keep = np.zeros(acc.shape, bool)
    keep[:, :18, 1:4] = True
    assert (got[~keep] == -1.0).all()
    assert (abs(got - acc)[keep] <= 20 * 2.0**-24 * bound[keep]).all()
