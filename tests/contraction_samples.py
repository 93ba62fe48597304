"""Contractions of every kind at odd sizes, with their exact values: what the tests of all backends' kernels share.

N batch, C and O channels in and out, H W height and width, KH KW window; M N K of a matrix product.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphc.schedule.expr import Aff, binary, const, load, unary
from graphc.schedule.kernels import ACC, Access, Contraction, Store
from graphc.schedule.layout import Buffer, Layout

N, C, O, M, K, G = (Aff.of(a) for a in ("n", "c", "o", "m", "k", "g"))
H, W, KH, KW = (Aff.of(a) for a in ("oh", "ow", "kh", "kw"))
PACKED = Layout(((0, "outer"), (1, "outer"), (2, "whole"), (3, "whole"), (1, "inner"), (0, "inner")), 16)
PACKED_PLAIN = Layout(((0, "outer"), (1, "whole"), (2, "whole"), (3, "whole"), (0, "inner")), 16)
PACKED_BACK = Layout(((1, "outer"), (0, "outer"), (2, "whole"), (3, "whole"), (0, "inner"), (1, "inner")), 16)
PACKED_ROWS = Layout(((0, "outer"), (1, "whole"), (0, "inner")), 16)
BLOCKED, PLAIN, VECTOR = Layout.blocked(4, 16), Layout.plain(4), Layout.blocked(1, 16, (0,))


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


def conv2d_dw(n, c, o, h, w, k, stride=1, padding=None, plain=False, packed=True, epilogue=ACC):
    p = k // 2 if padding is None else padding
    oh, ow = size(h, k, stride, p), size(w, k, stride, p)
    layout = (PACKED_PLAIN if plain else PACKED) if packed else PLAIN
    buffers = [
        Buffer("x", (n, c, h, w), "f32", (PLAIN if plain else BLOCKED).with_halo({2: (p, p), 3: (p, p)})),
        Buffer("dy", (n, o, oh, ow), "f32", BLOCKED),
        Buffer("y", (o, c, k, k), "f32", layout),
        Buffer("rate", (), "f32"),
    ]
    return Contraction(
        "dw", "conv2d_dw", (("o", o), ("c", c), ("kh", k), ("kw", k)), (("n", n), ("oh", oh), ("ow", ow)),
        Access("x", (N, C, H * stride + KH - p, W * stride + KW - p)), Access("dy", (N, O, H, W)),
        (Store("y", (O, C, KH, KW), epilogue),), "o",
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


def matmul(m, n, k, packed=True, batch=0, epilogue=ACC, turned=False):
    """`turned`: x lies as [k, m]."""
    w = Buffer("w", (n, k), "f32", PACKED_ROWS, "weight") if packed else Buffer("w", (k, n), "f32")
    b, more = ((Aff.of("b"),), (("b", batch),)) if batch else ((), ())
    if batch:
        w = Buffer("w", (batch, k, n), "f32")
    buffers = [
        Buffer("x", (*((batch,) if batch else ()), *((k, m) if turned else (m, k))), "f32"),
        w,
        Buffer("y", (*((batch,) if batch else ()), m, n), "f32"),
        Buffer("bias", (n,), "f32"),
    ]
    return Contraction(
        "mm", "matmul", (*more, ("m", m), ("o", n)), (("k", k),), Access("x", (*b, *((K, M) if turned else (M, K)))),
        Access("w", (O, K) if packed and not batch else (*b, K, O)), (Store("y", (*b, M, O), epilogue),), "o",
    ), {b.name: b for b in buffers}  # fmt: skip


BIAS_RELU = binary("max", ACC + load("bias", (O,)), const(0.0))
RESIDUAL = binary("max", ACC + load("bias", (O,)) + load("skip", (N, O, H, W)), const(0.0))
LONG = unary("tanh", ACC + load("bias", (O,)))  # epilogues of many steps, as activations and optimizers have them
UPDATE = ACC / (unary("sqrt", unary("abs", load("rate", ()))) + 1.0)

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
    "conv long epilogue": conv2d(2, 20, 40, 7, 13, 3, epilogue=LONG, halo=1),
    "conv long epilogue, plain output": conv2d(1, 16, 21, 6, 5, 3, out=PLAIN, epilogue=LONG),
    "rows to one channel": conv2d_rows(1, 20, 1, 13, 13, 3, spare=1),
    "rows to three channels": conv2d_rows(2, 20, 3, 6, 21, 3, epilogue=RESIDUAL),
    "rows of few places": conv2d_rows(1, 9, 2, 4, 5, 3, epilogue=BIAS_RELU),
    "rows in blocks": conv2d_rows(1, 5, 1, 4, 37, 5),
    "rows of one image alone": conv2d_rows(1, 5, 20, 1, 40, 1, epilogue=BIAS_RELU),
    "rows grouped": conv2d_rows(2, 9, 6, 5, 16, 3, groups=3, epilogue=BIAS_RELU),
    "rows in one line": conv2d_rows(2, 20, 3, 13, 13, 1, epilogue=RESIDUAL),
    "rows in one short line": conv2d_rows(1, 37, 2, 5, 7, 1, epilogue=BIAS_RELU),
    "rows in one line, many outputs": conv2d_rows(1, 5, 20, 7, 7, 1, epilogue=BIAS_RELU),
    "rows long epilogue": conv2d_rows(1, 20, 3, 13, 21, 3, epilogue=LONG),
    "dw": conv2d_dw(3, 32, 16, 14, 14, 3),
    "dw odd channels": conv2d_dw(2, 20, 37, 9, 9, 5),
    "dw few channels": conv2d_dw(2, 5, 17, 9, 8, 3),
    "dw long sum": conv2d_dw(40, 16, 16, 14, 14, 3),
    "dw stride 2": conv2d_dw(2, 16, 16, 9, 9, 3, stride=2),
    "dw first layer": conv2d_dw(2, 3, 20, 17, 17, 5, plain=True),
    "dw plain result": conv2d_dw(2, 20, 18, 8, 8, 3, packed=False),
    "dw long epilogue": conv2d_dw(2, 20, 37, 9, 9, 5, epilogue=UPDATE),
    "dx stride 1": conv2d_dx(2, 17, 20, 9, 7, 3, 1, 1, 0, 0),
    "dx stride 2": conv2d_dx(1, 16, 32, 9, 10, 3, 2, 1, 1, 0),
    "matmul": matmul(64, 37, 50),
    "matmul one row": matmul(1, 500, 64, epilogue=ACC + load("bias", (O,))),
    "matmul long epilogue": matmul(13, 90, 33, epilogue=LONG),
    "matmul few rows": matmul(3, 10, 17),
    "matmul 8 rows": matmul(8, 100, 33, epilogue=binary("max", ACC, const(0.0))),
    "matmul unpacked": matmul(7, 37, 21, packed=False),
    "matmul copied": matmul(128, 603, 131, packed=False),
    "matmul batched": matmul(5, 19, 8, packed=False, batch=3),
    "matmul turned": matmul(100, 37, 41, turned=True),
    "matmul of ones": matmul(1, 1, 1),
    "matmul one long row": matmul(1, 500, 300, epilogue=ACC + load("bias", (O,))),
    "matmul few long rows": matmul(3, 37, 517, packed=False),
    "matmul batched long rows": matmul(2, 52, 260, packed=False, batch=3),
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


FUNCTIONS = {
    "add": np.add, "max": np.maximum, "div": np.divide, "tanh": np.tanh, "sqrt": np.sqrt, "abs": np.abs,
}  # fmt: skip


def epilogue(e, acc, arrays, grid):
    """The few expressions used above, in float64."""
    if e is ACC:
        return acc
    if e.op == "const":
        return e.attr
    if e.op == "load":
        name, index = e.attr
        return arrays[name][tuple(sum(c * grid[a] for a, c in i.terms) + i.const for i in index)]
    return FUNCTIONS[e.op](*(epilogue(a, acc, arrays, grid) for a in e.args))


def unblocked(buffers):
    """The same buffers without blocks: the channel that was inside of a block lies innermost, as GPUs have it."""

    def layout(of):
        if not of.blocked_dims:
            return of
        return replace(
            of,
            order=tuple((d, "whole") for d, part in of.order if part == "inner" or d not in of.blocked_dims),
            block=1,
        )

    return {name: replace(b, layout=layout(b.layout)) for name, b in buffers.items()}
