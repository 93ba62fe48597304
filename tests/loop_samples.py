"""Hand-written kernels, one for every row of the table of operators, with NumPy's answer beside each.

Shared by the tests of the interpreter, the normal form and the emitters. N batch, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from graphc.schedule.expr import Aff, axis, binary, cast, const, guard, load, select, temp, unary
from graphc.schedule.kernels import ACC, Access, Contraction, Kernel, Loops, Reduce, Stage, Store
from graphc.schedule.layout import Buffer, Layout

A = Aff.of
INF = float("inf")
BLOCKED = Layout.blocked(4, 16)
VECTOR = Layout.blocked(1, 16, (0,))


@dataclass(frozen=True)
class Sample:
    """`inputs` and `expected` are logical arrays by buffer name; expected values are computed in float64."""

    kernel: Kernel
    buffers: dict[str, Buffer]
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]

    def arrays(self, poison: float = np.nan) -> dict[str, np.ndarray]:
        """Physical arrays at 64-byte boundaries: inputs packed; outputs poisoned, but the halo zero as it must be."""
        out = {}
        for name, buffer in self.buffers.items():
            if name in self.inputs:
                physical = buffer.pack(self.inputs[name])
            else:
                physical = np.full(buffer.pshape, poison if buffer.dtype == "f32" else 77).astype(
                    buffer.pack(np.zeros(buffer.shape)).dtype
                )
                physical[_halo(buffer)] = 0
            out[name] = aligned(physical)
        return out


def _halo(buffer: Buffer) -> np.ndarray:
    """Where a physical array is halo; padding lanes are not, kernels write them."""
    mark = np.zeros(buffer.pshape, bool)
    for k, (dim, part) in enumerate(buffer.layout.order):
        lo, hi = buffer.layout.halos.get(dim, (0, 0))
        if part == "whole" and (lo or hi):
            at = np.arange(buffer.pshape[k])
            outside = (at < lo) | (at >= buffer.pshape[k] - hi)
            mark |= outside.reshape([-1 if j == k else 1 for j in range(len(buffer.pshape))])
    return mark


def beyond(buffer: Buffer) -> np.ndarray:
    """Where a physical array is halo or padding lanes: zero before a kernel and after it."""
    mark = np.ones(buffer.shape, np.float32)
    plain = Buffer("mark", buffer.shape, "f32", buffer.layout)
    return plain.pack(mark).reshape(-1) == 0


def aligned(array: np.ndarray) -> np.ndarray:
    """A flat copy that begins at a multiple of 64 bytes."""
    flat = np.ascontiguousarray(array).reshape(-1)
    raw = np.empty(flat.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start : start + flat.nbytes].view(flat.dtype)
    out[...] = flat
    return out


def ids(*names: str) -> tuple[Aff, ...]:
    return tuple(A(n) for n in names)


def relu(x):
    return binary("max", x, 0.0)


def layout(kind: str, halo: int = 0) -> Layout:
    """plain or blocked NCHW, with a halo around H and W."""
    base = BLOCKED if kind == "blocked" else Layout.plain(4)
    return base.with_halo({2: (halo, halo), 3: (halo, halo)})


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed or 1)


def pointwise(par, *stores: Store, name: str = "k") -> Loops:
    return Loops(name, par, (Stage((), stores),))


NCHW = ("n", "c", "h", "w")


def nchw(shape) -> tuple:
    return tuple(zip(NCHW, shape, strict=True))


# elementwise


def bias_relu_residual(shape, kind="blocked", halo=1) -> Sample:
    """y = relu(x + bias[c] + r), z = exp(x): several stores in one stage, one of them plain."""
    c = shape[1]
    g = rng(*shape)
    x, r, bias = g.normal(size=shape), g.normal(size=shape), g.normal(size=c)
    blocked = kind == "blocked"
    buffers = _named(
        Buffer("x", shape, "f32", layout(kind, halo)),
        Buffer("r", shape, "f32", layout(kind)),
        Buffer("bias", (c,), "f32", VECTOR if blocked else None),
        Buffer("y", shape, "f32", layout(kind, halo)),
        Buffer("z", shape, "f32"),
    )
    i = ids(*NCHW)
    xv = load("x", i)
    kernel = pointwise(
        nchw(shape),
        Store("y", i, relu(xv + load("bias", (A("c"),)) + load("r", i))),
        Store("z", i, unary("exp", xv)),
    )
    x32 = np.float32(x).astype(float)
    y = np.maximum(x32 + np.float32(bias).reshape(1, c, 1, 1) + np.float32(r), 0)
    return Sample(kernel, buffers, {"x": x, "r": r, "bias": bias}, {"y": y, "z": np.exp(x32)})


def plain_relu(size: int) -> Sample:
    x = rng(size).normal(size=size)
    buffers = _named(Buffer("x", (size,), "f32"), Buffer("y", (size,), "f32"))
    kernel = pointwise((("i", size),), Store("y", ids("i"), relu(load("x", ids("i")))))
    return Sample(kernel, buffers, {"x": x}, {"y": np.maximum(np.float32(x), 0)})


def broadcast_row_column(m: int, n: int) -> Sample:
    """y[i, j] = a[i] * b[j] - s."""
    g = rng(m, n)
    a, b, s = g.normal(size=m), g.normal(size=n), g.normal(size=())
    buffers = _named(
        Buffer("a", (m,), "f32"), Buffer("b", (n,), "f32"), Buffer("s", (), "f32"), Buffer("y", (m, n), "f32")
    )
    kernel = pointwise(
        (("i", m), ("j", n)), Store("y", ids("i", "j"), load("a", ids("i")) * load("b", ids("j")) - load("s", ()))
    )
    return Sample(
        kernel, buffers, {"a": a, "b": b, "s": s}, {"y": np.outer(np.float32(a), np.float32(b)) - np.float32(s)}
    )


def affine_norm(shape, kind) -> Sample:
    """Batch norm applied, not zero on padding: y = x * scale[c] + shift[c] + 1."""
    c = shape[1]
    g = rng(*shape)
    x, scale, shift = g.normal(size=shape), g.normal(size=c), g.normal(size=c)
    vector = VECTOR if kind == "blocked" else None
    buffers = _named(
        Buffer("x", shape, "f32", layout(kind)),
        Buffer("scale", (c,), "f32", vector),
        Buffer("shift", (c,), "f32", vector),
        Buffer("y", shape, "f32", layout(kind, 2)),
    )
    i, ci = ids(*NCHW), (A("c"),)
    kernel = pointwise(nchw(shape), Store("y", i, load("x", i) * load("scale", ci) + load("shift", ci) + 1.0))
    y = np.float32(x).astype(float) * np.float32(scale).reshape(1, c, 1, 1) + np.float32(shift).reshape(1, c, 1, 1) + 1
    return Sample(kernel, buffers, {"x": x, "scale": scale, "shift": shift}, {"y": y})


def sgd_momentum(size: int) -> Sample:
    """m = 0.9 m + g; w = w - 0.1 m, where both expressions hold the old m."""
    g = rng(size)
    w, m, grad = (g.normal(size=size) for _ in range(3))
    buffers = _named(*(Buffer(n, (size,), "f32", place="state") for n in ("w", "m")), Buffer("g", (size,), "f32"))
    i = ids("i")
    new = load("m", i) * 0.9 + load("g", i)
    kernel = pointwise((("i", size),), Store("m", i, new), Store("w", i, load("w", i) - new * 0.1))
    m1 = 0.9 * np.float32(m).astype(float) + np.float32(grad)
    return Sample(kernel, buffers, {"w": w, "m": m, "g": grad}, {"m": m1, "w": np.float32(w) - 0.1 * m1})


def adamw(size: int) -> Sample:
    g = rng(size)
    w, m, grad = (g.normal(size=size) for _ in range(3))
    v = g.uniform(0.1, 1, size)
    buffers = _named(*(Buffer(n, (size,), "f32", place="state") for n in ("w", "m", "v")), Buffer("g", (size,), "f32"))
    i = ids("i")
    m1 = load("m", i) * 0.9 + load("g", i) * 0.1
    v1 = load("v", i) * 0.999 + load("g", i) * load("g", i) * 0.001
    w1 = load("w", i) * 0.99 - m1 / (unary("sqrt", v1) + 1e-6) * 0.01
    kernel = pointwise((("i", size),), Store("m", i, m1), Store("v", i, v1), Store("w", i, w1))
    w, m, v, grad = (np.float32(a).astype(float) for a in (w, m, v, grad))
    e_m, e_v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
    expected = {"m": e_m, "v": e_v, "w": 0.99 * w - 0.01 * e_m / (np.sqrt(e_v) + 1e-6)}
    return Sample(kernel, buffers, {"w": w, "m": m, "v": v, "g": grad}, expected)


def masks_and_counts(rows: int, size: int) -> Sample:
    """i1 and i32 in memory: y = x where kept, the sign as a mask, and how many are kept in each row."""
    g = rng(rows, size)
    x, keep = g.normal(size=(rows, size)), g.integers(0, 2, (rows, size)).astype(bool)
    buffers = _named(
        *(Buffer(n, (rows, size), d) for n, d in (("x", "f32"), ("keep", "i1"), ("y", "f32"), ("negative", "i1"))),
        *(Buffer(n, (rows,), "i32") for n in ("count", "last")),
    )
    i = ids("m", "i")
    kept = load("keep", i, "i1")
    kernel = Loops(
        "masks",
        (("m", rows),),
        (
            Stage(
                (("i", size),),
                (
                    Store("y", i, select(kept, load("x", i), 0.0)),
                    Store("negative", i, load("x", i) < 0.0),
                    Reduce("c", "sum", cast(kept, "i32")),
                    Reduce("l", "max", select(kept, axis("i"), const(-1, "i32"))),
                ),
            ),
            Stage((), (Store("count", ids("m"), temp("c", "i32")), Store("last", ids("m"), temp("l", "i32")))),
        ),
    )
    last = np.where(keep, np.arange(size), -1).max(1)
    expected = {"y": np.where(keep, np.float32(x), 0), "negative": x < 0, "count": keep.sum(1), "last": last}
    return Sample(kernel, buffers, {"x": x, "keep": keep}, expected)


# rows


def softmax_last(rows: int, size: int) -> Sample:
    x = rng(rows, size).normal(size=(rows, size)) * 3
    buffers = _named(Buffer("x", (rows, size), "f32"), Buffer("y", (rows, size), "f32"))
    scratch = Buffer("row", (size,), "f32", place="scratch")
    e = unary("exp", load("x", ids("m", "j")) - temp("mx"))
    kernel = Loops(
        "softmax",
        (("m", rows),),
        (
            Stage((("i", size),), (Reduce("mx", "max", load("x", ids("m", "i"))),)),
            Stage((("j", size),), (Store("row", ids("j"), e), Reduce("s", "sum", e))),
            Stage((("k", size),), (Store("y", ids("m", "k"), load("row", ids("k")) * (const(1.0) / temp("s"))),)),
        ),
        (scratch,),
    )
    return Sample(kernel, buffers, {"x": x}, {"y": _softmax(np.float32(x), 1)})


def softmax_channels(shape, kind) -> Sample:
    n, c, h, w = shape
    x = rng(*shape).normal(size=shape) * 3
    buffers = _named(Buffer("x", shape, "f32", layout(kind)), Buffer("y", shape, "f32", layout(kind, 1)))
    e = unary("exp", load("x", ids("n", "j", "h", "w")) - temp("mx"))
    kernel = Loops(
        "softmax",
        (("n", n), ("h", h), ("w", w)),
        (
            Stage((("i", c),), (Reduce("mx", "max", load("x", ids("n", "i", "h", "w"))),)),
            Stage((("j", c),), (Store("row", ids("j"), e), Reduce("s", "sum", e))),
            Stage((("k", c),), (Store("y", ids("n", "k", "h", "w"), load("row", ids("k")) / temp("s")),)),
        ),
        (Buffer("row", (c,), "f32", place="scratch"),),
    )
    return Sample(kernel, buffers, {"x": x}, {"y": _softmax(np.float32(x), 1)})


def _softmax(x, dim):
    e = np.exp(x.astype(float) - x.max(dim, keepdims=True))
    return e / e.sum(dim, keepdims=True)


def layer_norm(rows: int, size: int) -> Sample:
    g = rng(rows, size)
    x, scale, shift = g.normal(size=(rows, size)) + 2, g.normal(size=size), g.normal(size=size)
    buffers = _named(
        Buffer("x", (rows, size), "f32"),
        Buffer("scale", (size,), "f32"),
        Buffer("shift", (size,), "f32"),
        Buffer("y", (rows, size), "f32"),
    )
    d = load("x", ids("m", "j")) - temp("mean") * (1 / size)
    normal = (load("x", ids("m", "k")) - temp("mean") * (1 / size)) * (
        const(1.0) / unary("sqrt", temp("var") * (1 / size) + 1e-5)
    )
    kernel = Loops(
        "layer_norm",
        (("m", rows),),
        (
            Stage((("i", size),), (Reduce("mean", "sum", load("x", ids("m", "i"))),)),
            Stage((("j", size),), (Reduce("var", "sum", d * d),)),
            Stage(
                (("k", size),), (Store("y", ids("m", "k"), normal * load("scale", ids("k")) + load("shift", ids("k"))),)
            ),
        ),
    )
    x32 = np.float32(x).astype(float)
    y = (x32 - x32.mean(1, keepdims=True)) / np.sqrt(x32.var(1, keepdims=True) + 1e-5) * np.float32(scale) + np.float32(
        shift
    )
    return Sample(kernel, buffers, {"x": x, "scale": scale, "shift": shift}, {"y": y})


def batch_statistics(shape, kind, halo=0) -> Sample:
    """Sum and sum of squares over N, H, W for each channel."""
    n, c, h, w = shape
    x = rng(*shape).normal(size=shape)
    vector = VECTOR if kind == "blocked" else None
    buffers = _named(
        Buffer("x", shape, "f32", layout(kind, halo)),
        Buffer("s", (c,), "f32", vector),
        Buffer("q", (c,), "f32", vector),
    )
    v = load("x", ids(*NCHW))
    kernel = Loops(
        "statistics",
        (("c", c),),
        (
            Stage((("n", n), ("h", h), ("w", w)), (Reduce("s", "sum", v), Reduce("q", "sum", v * v))),
            Stage((), (Store("s", ids("c"), temp("s")), Store("q", ids("c"), temp("q")))),
        ),
    )
    x32 = np.float32(x).astype(float)
    return Sample(kernel, buffers, {"x": x}, {"s": x32.sum((0, 2, 3)), "q": (x32**2).sum((0, 2, 3))})


def column_sums(rows: int, size: int) -> Sample:
    """The gradient of a bias."""
    x = rng(rows, size).normal(size=(rows, size))
    buffers = _named(Buffer("x", (rows, size), "f32"), Buffer("s", (size,), "f32"))
    kernel = Loops(
        "columns",
        (("j", size),),
        (
            Stage((("i", rows),), (Reduce("s", "sum", load("x", ids("i", "j"))),)),
            Stage((), (Store("s", ids("j"), temp("s")),)),
        ),
    )
    return Sample(kernel, buffers, {"x": x}, {"s": np.float32(x).astype(float).sum(0)})


def total(size: int) -> Sample:
    """One number: sum, least and greatest."""
    x = rng(size).normal(size=size)
    buffers = _named(Buffer("x", (size,), "f32"), *(Buffer(n, (), "f32") for n in ("s", "lo", "hi")))
    v = load("x", ids("i"))
    kernel = Loops(
        "total",
        (),
        (
            Stage((("i", size),), (Reduce("s", "sum", v), Reduce("lo", "min", v), Reduce("hi", "max", v))),
            Stage((), tuple(Store(n, (), temp(n)) for n in ("s", "lo", "hi"))),
        ),
    )
    x = np.float32(x).astype(float)
    return Sample(kernel, buffers, {"x": x}, {"s": x.sum(), "lo": x.min(), "hi": x.max()})


def arg_max(rows: int, size: int, columns: bool = False) -> Sample:
    """Position and value of the greatest element of each row (or column); ties and NaN among them."""
    x = rng(rows, size).integers(0, 5, size=(rows, size)).astype(np.float32)
    x[rows // 2, size // 2 :] = np.nan
    x[0] = -INF
    data = x.T.copy() if columns else x
    buffers = _named(Buffer("x", data.shape, "f32"), Buffer("at", (rows,), "i32"), Buffer("best", (rows,), "f32"))
    indices = ids("i", "m") if columns else ids("m", "i")
    kernel = Loops(
        "argmax",
        (("m", rows),),
        (
            Stage((("i", size),), (Reduce("b", "argmax", load("x", indices), axis("i")),)),
            Stage((), (Store("at", ids("m"), temp("b.i", "i32")), Store("best", ids("m"), temp("b")))),
        ),
    )
    return Sample(kernel, buffers, {"x": data}, {"at": x.argmax(1), "best": x[np.arange(rows), x.argmax(1)]})


# windows


@dataclass(frozen=True)
class Window:
    k: int
    stride: int
    padding: int

    def out(self, size: int) -> int:
        return (size + 2 * self.padding - self.k) // self.stride + 1

    def row(self, o: str, k: str) -> Aff:
        return A(o) * self.stride + A(k) - self.padding


def _windows(x: np.ndarray, win: Window, fill: float) -> np.ndarray:
    """[n, c, oh, ow, kh, kw]"""
    p = win.padding
    x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, (win.k, win.k), (2, 3))[:, :, :: win.stride, :: win.stride]


def pool(shape, kind, win: Window, op: str, halo: int = 0) -> Sample:
    n, c, h, w = shape
    oh, ow = win.out(h), win.out(w)
    g = rng(*shape, win.k)
    x = g.normal(size=shape)
    buffers = _named(Buffer("x", shape, "f32", layout(kind, halo)), Buffer("y", (n, c, oh, ow), "f32", layout(kind, 1)))
    ih, iw = win.row("h", "kh"), win.row("w", "kw")
    fill = 0.0 if op == "sum" else -INF
    v = guard(load("x", (A("n"), A("c"), ih, iw)), const(fill), ((ih, 0, h), (iw, 0, w)))
    result = temp("m") * (1 / win.k**2) if op == "sum" else temp("m")
    kernel = Loops(
        f"{op}_pool",
        (("n", n), ("c", c), ("h", oh), ("w", ow)),
        (Stage((("kh", win.k), ("kw", win.k)), (Reduce("m", op, v),)), Stage((), (Store("y", ids(*NCHW), result),))),
    )
    seen = _windows(np.float32(x).astype(float), win, fill)
    y = seen.sum((4, 5)) / win.k**2 if op == "sum" else seen.max((4, 5))
    return Sample(kernel, buffers, {"x": x}, {"y": y})


def depthwise(shape, kind, win: Window, halo: int | None = None) -> Sample:
    """conv2d of each channel by itself, with bias and relu. Without `halo` it is the window's padding."""
    n, c, h, w = shape
    g = rng(*shape, win.k, 1)
    x, weight, bias = g.normal(size=shape), g.normal(size=(c, 1, win.k, win.k)), g.normal(size=c)
    y_shape = (n, c, win.out(h), win.out(w))
    buffers = _named(
        Buffer("x", shape, "f32", layout(kind, win.padding if halo is None else halo)),
        Buffer(
            "w", weight.shape, "f32", Layout(((0, "outer"), (1, "whole"), (2, "whole"), (3, "whole"), (0, "inner")), 16)
        ),
        Buffer("bias", (c,), "f32", VECTOR),
        Buffer("y", y_shape, "f32", layout(kind, 1)),
    )
    ih, iw = win.row("h", "kh"), win.row("w", "kw")
    seen = guard(load("x", (A("n"), A("c"), ih, iw)), const(0.0), ((ih, 0, h), (iw, 0, w)))
    kernel = Loops(
        "depthwise",
        tuple(zip(NCHW, y_shape, strict=True)),
        (
            Stage(
                (("kh", win.k), ("kw", win.k)),
                (Reduce("m", "sum", seen * load("w", (A("c"), Aff(), A("kh"), A("kw")))),),
            ),
            Stage((), (Store("y", ids(*NCHW), relu(temp("m") + load("bias", ids("c")))),)),
        ),
    )
    windows = _windows(np.float32(x).astype(float), win, 0.0)
    y = np.einsum("nchwij,cij->nchw", windows, np.float32(weight[:, 0]).astype(float))
    return Sample(
        kernel,
        buffers,
        {"x": x, "w": weight, "bias": bias},
        {"y": np.maximum(y + np.float32(bias).reshape(1, -1, 1, 1), 0)},
    )


def pool_position(shape, kind, win: Window) -> Sample:
    """Max pool with the position in its window as u8."""
    n, c, h, w = shape
    oh, ow = win.out(h), win.out(w)
    x = rng(*shape, win.k).integers(-3, 3, size=shape).astype(np.float32)
    buffers = _named(
        Buffer("x", shape, "f32", layout(kind)),
        Buffer("y", (n, c, oh, ow), "f32", layout(kind)),
        Buffer("at", (n, c, oh, ow), "u8", layout(kind)),
    )
    ih, iw = win.row("h", "kh"), win.row("w", "kw")
    v = guard(load("x", (A("n"), A("c"), ih, iw)), const(-INF), ((ih, 0, h), (iw, 0, w)))
    reduce = Reduce("m", "argmax", v, axis(A("kh") * win.k + A("kw")))
    kernel = Loops(
        "max_pool",
        (("n", n), ("c", c), ("h", oh), ("w", ow)),
        (
            Stage((("kh", win.k), ("kw", win.k)), (reduce,)),
            Stage((), (Store("y", ids(*NCHW), temp("m")), Store("at", ids(*NCHW), cast(temp("m.i", "i32"), "u8")))),
        ),
    )
    seen = _windows(x, win, -INF).reshape(n, c, oh, ow, -1)
    return Sample(kernel, buffers, {"x": x}, {"y": seen.max(4), "at": seen.argmax(4)})


def pool_gradient(shape, kind, win: Window) -> Sample:
    """The gradient of max pool gathered: padded row s*a + r gets from window oh = a - j, where kh = r + s*j."""
    n, c, h, w = shape
    oh, ow, s, p = win.out(h), win.out(w), win.stride, win.padding
    g = rng(*shape, win.k)
    dy = g.normal(size=(n, c, oh, ow))
    at = g.integers(0, win.k**2, size=dy.shape)
    steps = -(-win.k // s)
    rows, columns = -(-(h + p) // s), -(-(w + p) // s)
    buffers = _named(
        Buffer("dy", dy.shape, "f32", layout(kind)),
        Buffer("at", dy.shape, "u8", layout(kind)),
        Buffer("dx", (n, c, rows * s, columns * s), "f32", layout(kind)),
    )
    th, tw = A("a") - A("i"), A("b") - A("j")
    kh, kw = A("r") + A("i") * s, A("q") + A("j") * s
    hit = binary("eq", cast(load("at", (A("n"), A("c"), th, tw), "u8"), "i32"), axis(kh * win.k + kw))
    v = select(hit, load("dy", (A("n"), A("c"), th, tw)), 0.0)
    v = guard(v, const(0.0), ((th, 0, oh), (tw, 0, ow), (kh, 0, win.k), (kw, 0, win.k)))
    kernel = Loops(
        "max_pool_dx",
        (("n", n), ("c", c), ("a", rows), ("r", s), ("b", columns), ("q", s)),
        (
            Stage((("i", steps), ("j", steps)), (Reduce("d", "sum", v),)),
            Stage((), (Store("dx", (A("n"), A("c"), A("a") * s + A("r"), A("b") * s + A("q")), temp("d")),)),
        ),
    )
    dx = np.zeros((n, c, rows * s + win.k + s, columns * s + win.k + s))
    for y in range(oh):
        for z in range(ow):
            for k in range(win.k**2):
                dx[:, :, y * s + k // win.k, z * s + k % win.k] += np.where(
                    at[:, :, y, z] == k, np.float32(dy[:, :, y, z]), 0
                )
    return Sample(kernel, buffers, {"dy": dy, "at": at}, {"dx": dx[:, :, : rows * s, : columns * s]})


def global_pool(shape, kind, halo=0) -> Sample:
    n, c, h, w = shape
    x = rng(*shape).normal(size=shape)
    out = Layout.blocked(2, 16) if kind == "blocked" else None
    buffers = _named(Buffer("x", shape, "f32", layout(kind, halo)), Buffer("y", (n, c), "f32", out))
    kernel = Loops(
        "gap",
        (("n", n), ("c", c)),
        (
            Stage((("h", h), ("w", w)), (Reduce("s", "sum", load("x", ids(*NCHW))),)),
            Stage((), (Store("y", ids("n", "c"), temp("s") * (1 / (h * w))),)),
        ),
    )
    return Sample(kernel, buffers, {"x": x}, {"y": np.float32(x).astype(float).mean((2, 3))})


# copies and index arithmetic


def reorder(shape, source: str, target: str, halo=0) -> Sample:
    x = rng(*shape).normal(size=shape)
    buffers = _named(Buffer("x", shape, "f32", layout(source)), Buffer("y", shape, "f32", layout(target, halo)))
    kernel = pointwise(nchw(shape), Store("y", ids(*NCHW), load("x", ids(*NCHW))), name="reorder")
    return Sample(kernel, buffers, {"x": x}, {"y": np.float32(x)})


def permute(shape, order) -> Sample:
    x = rng(*shape).normal(size=shape)
    names = tuple("abcd"[: len(shape)])
    out = tuple(shape[k] for k in order)
    buffers = _named(Buffer("x", shape, "f32"), Buffer("y", out, "f32"))
    kernel = pointwise(
        tuple(zip(names, shape, strict=True)), Store("y", ids(*(names[k] for k in order)), load("x", ids(*names)))
    )
    return Sample(kernel, buffers, {"x": x}, {"y": np.float32(x).transpose(order)})


def slice_step(shape, kind, offset: int) -> Sample:
    """y = x[:, offset:, 1::2, ::2]: channels of a larger tensor, which blocks need not divide."""
    n, c, h, w = shape
    x = rng(*shape).normal(size=(n, c + offset, h, w))
    oh, ow = (h - 1 + 1) // 2, (w + 1) // 2
    buffers = _named(Buffer("x", x.shape, "f32", layout(kind)), Buffer("y", (n, c, oh, ow), "f32", layout(kind)))
    source = (A("n"), A("c") + offset, A("h") * 2 + 1, A("w") * 2)
    kernel = pointwise(nchw((n, c, oh, ow)), Store("y", ids(*NCHW), load("x", source)))
    return Sample(kernel, buffers, {"x": x}, {"y": np.float32(x)[:, offset:, 1::2, ::2]})


def concat_part(shape, before: int) -> Sample:
    """The last part of a blocked concat, stored in place behind `before` channels that stay as they are."""
    n, c, h, w = shape
    g = rng(*shape)
    x, y = g.normal(size=shape), g.normal(size=(n, before + c, h, w))
    buffers = _named(Buffer("x", shape, "f32", BLOCKED), Buffer("y", y.shape, "f32", BLOCKED))
    kernel = pointwise(nchw(shape), Store("y", (A("n"), A("c") + before, A("h"), A("w")), load("x", ids(*NCHW))))
    return Sample(kernel, buffers, {"x": x, "y": y}, {"y": np.float32(np.concatenate([y[:, :before], x], 1))})


def single_channel(shape) -> Sample:
    """A store at the constant channel 0 of a blocked buffer still writes the padding lanes."""
    n, _, h, w = shape
    x = rng(*shape).normal(size=(n, 1, h, w))
    buffers = _named(Buffer("x", x.shape, "f32"), Buffer("y", x.shape, "f32", BLOCKED))
    at = (A("n"), A(0), A("h"), A("w"))
    kernel = pointwise((("n", n), ("h", h), ("w", w)), Store("y", at, load("x", at) + 1.0))
    return Sample(kernel, buffers, {"x": x}, {"y": np.float32(x) + 1})


def zero_pad(shape, kind, pad: int) -> Sample:
    h, w = shape[2:]
    x = rng(*shape).normal(size=shape)
    y = np.pad(np.float32(x), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    buffers = _named(Buffer("x", shape, "f32", layout(kind)), Buffer("y", y.shape, "f32", layout(kind)))
    ih, iw = A("h") - pad, A("w") - pad
    v = guard(load("x", (A("n"), A("c"), ih, iw)), const(0.0), ((ih, 0, h), (iw, 0, w)))
    return Sample(pointwise(nchw(y.shape), Store("y", ids(*NCHW), v)), buffers, {"x": x}, {"y": y})


def table_rows(shape, kind, mode: str) -> Sample:
    """Reflect padding by 2, or nearest resize to 5/3: rows and columns by a constant table."""
    n, c, h, w = shape
    x = rng(*shape).normal(size=shape)
    if mode == "reflect":
        rows, columns = (np.pad(np.arange(k), 2, mode="reflect") for k in (h, w))
    else:
        rows, columns = (np.arange(k * 5 // 3) * k // (k * 5 // 3) for k in (h, w))
    out = (n, c, len(rows), len(columns))
    buffers = _named(
        Buffer("x", shape, "f32", layout(kind)),
        Buffer("rows", rows.shape, "i32", place="const"),
        Buffer("columns", columns.shape, "i32", place="const"),
        Buffer("y", out, "f32", layout(kind)),
    )
    at = (A("n"), A("c"), load("rows", ids("h"), "i32"), load("columns", ids("w"), "i32"))
    kernel = pointwise(nchw(out), Store("y", ids(*NCHW), load("x", at)), name=mode)
    return Sample(
        kernel, buffers, {"x": x, "rows": rows, "columns": columns}, {"y": np.float32(x)[:, :, rows][..., columns]}
    )


def nearest_factor(shape, kind, factor: int) -> Sample:
    """Stores at factor*a + r, loads at a."""
    n, c, h, w = shape
    x = rng(*shape).normal(size=shape)
    out = (n, c, h * factor, w * factor)
    buffers = _named(Buffer("x", shape, "f32", layout(kind)), Buffer("y", out, "f32", layout(kind)))
    par = (("n", n), ("c", c), ("a", h), ("r", factor), ("b", w), ("q", factor))
    to = (A("n"), A("c"), A("a") * factor + A("r"), A("b") * factor + A("q"))
    kernel = pointwise(par, Store("y", to, load("x", ids("n", "c", "a", "b"))))
    return Sample(kernel, buffers, {"x": x}, {"y": np.float32(x).repeat(factor, 2).repeat(factor, 3)})


def pixel_shuffle(shape) -> Sample:
    """y[n, c, 2h+i, 2w+j] = x[n, 4c + 2i + j, h, w]: a blocked dimension indexed by three axes."""
    n, c, h, w = shape
    x = rng(*shape).normal(size=(n, 4 * c, h, w))
    buffers = _named(Buffer("x", x.shape, "f32", BLOCKED), Buffer("y", (n, c, 2 * h, 2 * w), "f32"))
    par = (("n", n), ("c", c), ("h", h), ("i", 2), ("w", w), ("j", 2))
    v = load("x", (A("n"), A("c") * 4 + A("i") * 2 + A("j"), A("h"), A("w")))
    kernel = pointwise(par, Store("y", (A("n"), A("c"), A("h") * 2 + A("i"), A("w") * 2 + A("j")), v))
    y = np.float32(x).reshape(n, c, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, 2 * h, 2 * w)
    return Sample(kernel, buffers, {"x": x}, {"y": y})


def reversed_channels(shape) -> Sample:
    """An index that blocks cannot divide: y[n, c] = x[n, C-1-c], both blocked."""
    x = rng(*shape).normal(size=shape)
    buffers = _named(Buffer("x", shape, "f32", BLOCKED), Buffer("y", shape, "f32", BLOCKED))
    at = (A("n"), -A("c") + (shape[1] - 1), A("h"), A("w"))
    kernel = pointwise(nchw(shape), Store("y", ids(*NCHW), load("x", at)))
    return Sample(kernel, buffers, {"x": x}, {"y": np.float32(x)[:, ::-1]})


def embedding(tokens: int, words: int, size: int) -> Sample:
    g = rng(tokens, words)
    table, ix = g.normal(size=(words, size)), g.integers(0, words, tokens)
    buffers = _named(
        Buffer("e", (words, size), "f32"), Buffer("ix", (tokens,), "i32"), Buffer("y", (tokens, size), "f32")
    )
    v = load("e", (load("ix", ids("t"), "i32"), A("d")))
    kernel = pointwise((("t", tokens), ("d", size)), Store("y", ids("t", "d"), v))
    return Sample(kernel, buffers, {"e": table, "ix": ix}, {"y": np.float32(table)[ix]})


def embedding_gradient(tokens: int, words: int, size: int) -> Sample:
    g = rng(tokens, words)
    dy, ix = g.normal(size=(tokens, size)), g.integers(0, words, tokens)
    buffers = _named(
        Buffer("dy", (tokens, size), "f32"), Buffer("ix", (tokens,), "i32"), Buffer("de", (words, size), "f32")
    )
    v = select(binary("eq", load("ix", ids("t"), "i32"), axis("v")), load("dy", ids("t", "d")), 0.0)
    kernel = Loops(
        "embedding_gradient",
        (("v", words), ("d", size)),
        (Stage((("t", tokens),), (Reduce("s", "sum", v),)), Stage((), (Store("de", ids("v", "d"), temp("s")),))),
    )
    de = np.zeros((words, size))
    np.add.at(de, ix, np.float32(dy).astype(float))
    return Sample(kernel, buffers, {"dy": dy, "ix": ix}, {"de": de})


def cross_entropy(rows: int, classes: int) -> Sample:
    """Loss and its gradient in one kernel: x[label] by a gather, one-hot as class == label."""
    g = rng(rows, classes)
    x, label = g.normal(size=(rows, classes)) * 2, g.integers(0, classes, rows)
    buffers = _named(
        Buffer("x", (rows, classes), "f32"),
        Buffer("label", (rows,), "i32"),
        Buffer("loss", (rows,), "f32"),
        Buffer("dx", (rows, classes), "f32"),
    )
    e = unary("exp", load("x", ids("m", "j")) - temp("mx"))
    mine = load("label", ids("m"), "i32")
    onehot = select(binary("eq", axis("k"), mine), const(1.0), 0.0)
    kernel = Loops(
        "cross_entropy",
        (("m", rows),),
        (
            Stage((("i", classes),), (Reduce("mx", "max", load("x", ids("m", "i"))),)),
            Stage((("j", classes),), (Store("row", ids("j"), e), Reduce("s", "sum", e))),
            Stage((), (Store("loss", ids("m"), unary("log", temp("s")) + temp("mx") - load("x", (A("m"), mine))),)),
            Stage(
                (("k", classes),),
                (Store("dx", ids("m", "k"), (load("row", ids("k")) / temp("s") - onehot) * (1 / rows)),),
            ),
        ),
        (Buffer("row", (classes,), "f32", place="scratch"),),
    )
    p = _softmax(np.float32(x), 1)
    one = np.eye(classes)[label]
    loss = -np.log(p[np.arange(rows), label])
    return Sample(kernel, buffers, {"x": x, "label": label}, {"loss": loss, "dx": (p - one) / rows})


def dropout(size: int) -> Sample:
    """Philox4x32-10 by counter: element word * (size/4) + i, one stage with four stores; kept where the word's 24
    upper bits are at least 0.25 of their range."""
    quarter = size // 4
    x = rng(size).normal(size=size)
    key = (0x1234567, -0x5678901)
    buffers = _named(Buffer("x", (size,), "f32"), Buffer("y", (size,), "f32"))
    c = [axis("i"), const(7, "i32"), const(0, "i32"), const(0, "i32")]
    k0, k1 = key
    for _ in range(10):
        m0, m1 = const(_signed(0xD2511F53), "i32"), const(_signed(0xCD9E8D57), "i32")
        c = [
            binary("umulhi", m1, c[2]) ^ c[1] ^ const(_signed(k0), "i32"),
            c[2] * m1,
            binary("umulhi", m0, c[0]) ^ c[3] ^ const(_signed(k1), "i32"),
            c[0] * m0,
        ]
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    stores = []
    for word, r in enumerate(c):
        at = (A("i") + word * quarter,)
        keep = const(1 << 22, "i32") <= binary("shr", r, const(8, "i32"))
        stores.append(Store("y", at, select(keep, load("x", at) * (4 / 3), 0.0)))
    y = np.where(_philox(quarter, key).reshape(-1) >> 8 >= 1 << 22, np.float32(x).astype(float) * (4 / 3), 0)
    return Sample(pointwise((("i", quarter),), *stores, name="dropout"), buffers, {"x": x}, {"y": y})


def _signed(x: int) -> int:
    return (x + 2**31) % 2**32 - 2**31


def _philox(count: int, key) -> np.ndarray:
    """Four words for each counter (i, 7, 0, 0); Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"."""
    c = [np.arange(count, dtype=np.uint64), np.full(count, 7, np.uint64), *(np.zeros(count, np.uint64) for _ in "ab")]
    k0, k1 = (k % 2**32 for k in key)
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            p1 & low,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            p0 & low,
        ]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack(c)


# contractions as loops


def convolution(shape, out: int, win: Window, kind="blocked", halo: int | None = None) -> Sample:
    """conv2d with bias and relu. Without `halo` it is the window's padding."""
    n, c, h, w = shape
    g = rng(*shape, out)
    x, weight, bias = g.normal(size=shape), g.normal(size=(out, c, win.k, win.k)) * 0.2, g.normal(size=out)
    order = ((0, "outer"), (1, "outer"), (2, "whole"), (3, "whole"), (1, "inner"), (0, "inner"))
    if kind == "plain":
        order = ((0, "outer"), (1, "whole"), (2, "whole"), (3, "whole"), (0, "inner"))
    y_shape = (n, out, win.out(h), win.out(w))
    buffers = _named(
        Buffer("x", shape, "f32", layout(kind, win.padding if halo is None else halo)),
        Buffer("w", weight.shape, "f32", Layout(order, 16)),
        Buffer("bias", (out,), "f32", VECTOR),
        Buffer("y", y_shape, "f32", layout("blocked", 1)),
    )
    kernel = Contraction(
        "conv",
        "conv2d",
        tuple(zip(("n", "o", "oh", "ow"), y_shape, strict=True)),
        (("c", c), ("kh", win.k), ("kw", win.k)),
        Access("x", (A("n"), A("c"), win.row("oh", "kh"), win.row("ow", "kw"))),
        Access("w", ids("o", "c", "kh", "kw")),
        (Store("y", ids("n", "o", "oh", "ow"), relu(ACC + load("bias", ids("o")))),),
        "o",
    )
    seen = _windows(np.float32(x).astype(float), win, 0.0)
    y = np.einsum("nchwij,ocij->nohw", seen, np.float32(weight).astype(float)) + np.float32(bias).reshape(1, -1, 1, 1)
    return Sample(kernel, buffers, {"x": x, "w": weight, "bias": bias}, {"y": np.maximum(y, 0)})


def matmul(m: int, n: int, k: int, packed: bool) -> Sample:
    """y[m, n] = sum x[m, k] w[n, k]; w packed by 16 columns, or a plain [k, n] operand."""
    g = rng(m, n, k)
    x, w = g.normal(size=(m, k)), g.normal(size=(n, k))
    stored = (
        Buffer("w", (n, k), "f32", Layout(((0, "outer"), (1, "whole"), (0, "inner")), 16))
        if packed
        else Buffer("w", (k, n), "f32")
    )
    buffers = _named(Buffer("x", (m, k), "f32"), stored, Buffer("y", (m, n), "f32"))
    kernel = Contraction(
        "matmul",
        "matmul",
        (("m", m), ("n", n)),
        (("k", k),),
        Access("x", ids("m", "k")),
        Access("w", ids("n", "k") if packed else ids("k", "n")),
        (Store("y", ids("m", "n"), ACC),),
        "n",
    )
    return Sample(
        kernel,
        buffers,
        {"x": x, "w": w if packed else w.T},
        {"y": np.float32(x).astype(float) @ np.float32(w).astype(float).T},
    )


def _named(*buffers: Buffer) -> dict[str, Buffer]:
    return {b.name: b for b in buffers}


SAMPLES: dict[str, Callable[[], Sample]] = {}
_KINDS: dict[tuple[str, str | None], list[str]] = {}  # (kernel, layout) -> names


def _table() -> Iterator[tuple[str, Callable[..., Sample], tuple]]:
    shapes = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 7, 9, 4), (3, 17, 3, 5), (1, 37, 6, 6), (2, 32, 4, 9)]
    for kind in ("plain", "blocked"):
        for s in shapes:
            yield "bias_relu_residual", bias_relu_residual, (s, kind, 1)
            yield "affine_norm", affine_norm, (s, kind)
            yield "softmax_channels", softmax_channels, (s, kind)
            yield "batch_statistics", batch_statistics, (s, kind, s[0] % 2)
            yield "global_pool", global_pool, (s, kind, s[0] % 2)
            yield "reorder", reorder, (s, kind, "plain" if kind == "blocked" else "blocked", s[0] % 2)
            yield "zero_pad", zero_pad, (s, kind, 2)
            yield "nearest_factor", nearest_factor, (s, kind, 2)
        for s, win in [
            ((1, 3, 8, 8), Window(3, 2, 1)),
            ((2, 17, 7, 9), Window(3, 2, 1)),
            ((1, 20, 28, 28), Window(2, 2, 0)),
            ((1, 7, 2, 3), Window(5, 1, 2)),  # larger than the input
            ((1, 5, 11, 10), Window(3, 3, 1)),
            ((1, 4, 13, 12), Window(7, 2, 3)),  # too many iterations to unroll
            ((1, 4, 24, 17), Window(1, 1, 0)),
        ]:
            yield "max_pool", pool, (s, kind, win, "max")
            yield "sum_pool", pool, (s, kind, win, "sum", win.padding)
            yield "pool_position", pool_position, (s, kind, win)
            yield "pool_gradient", pool_gradient, (s, kind, win)
        for s, win in [
            ((1, 1, 1, 1), Window(3, 1, 1)),
            ((2, 37, 9, 8), Window(3, 1, 1)),  # neighbours in blocks of 4
            ((1, 16, 5, 29), Window(3, 1, 1)),  # of 6 and a rest
            ((1, 17, 15, 28), Window(3, 2, 1)),
            ((1, 3, 11, 20), Window(3, 3, 1)),
            ((1, 16, 8, 28), Window(3, 1, 1)),
        ]:
            yield "depthwise", depthwise, (s, kind, win)
            yield "depthwise", depthwise, (s, kind, win, 0)
        for mode in ("reflect", "nearest"):
            yield "table_rows", table_rows, ((2, 17, 5, 7), kind, mode)
        yield "slice_step", slice_step, ((2, 19, 6, 7), kind, 16)
        yield "slice_step", slice_step, ((1, 12, 5, 5), kind, 3)
    for size in (1, 3, 31, 64, 1000, 20_001):
        yield "plain_relu", plain_relu, (size,)
        yield "total", total, (size,)
    for m, n in [(1, 1), (3, 5), (7, 17), (64, 37), (5, 300)]:
        yield "broadcast_row_column", broadcast_row_column, (m, n)
        yield "softmax_last", softmax_last, (m, n)
        yield "layer_norm", layer_norm, (m, n)
        yield "column_sums", column_sums, (m, n)
        yield "arg_max", arg_max, (m, n)
        yield "arg_max", arg_max, (m, n, True)
        yield "cross_entropy", cross_entropy, (m, n)
        yield "masks_and_counts", masks_and_counts, (m, n)
    yield "column_sums", column_sums, (130, 515)
    yield "softmax_last", softmax_last, (3, 1500)
    for size in (5, 1000):
        yield "sgd_momentum", sgd_momentum, (size,)
        yield "adamw", adamw, (size,)
    yield "permute", permute, ((5, 37), (1, 0))
    yield "permute", permute, ((64, 48), (1, 0))
    yield "permute", permute, ((3, 20, 33), (2, 0, 1))
    yield "permute", permute, ((2, 17, 4, 19), (0, 3, 1, 2))
    yield "concat_part", concat_part, ((2, 20, 3, 5), 16)
    yield "concat_part", concat_part, ((1, 16, 2, 2), 32)
    yield "single_channel", single_channel, ((2, 1, 3, 5),)
    yield "pixel_shuffle", pixel_shuffle, ((1, 8, 3, 5),)
    yield "reversed_channels", reversed_channels, ((1, 37, 2, 3),)
    yield "embedding", embedding, (13, 50, 24)
    yield "embedding", embedding, (5, 9, 3)
    yield "embedding_gradient", embedding_gradient, (29, 11, 20)
    yield "dropout", dropout, (400,)
    yield "convolution", convolution, ((1, 3, 8, 8), 18, Window(3, 1, 1), "plain")
    yield "convolution", convolution, ((2, 20, 6, 5), 17, Window(3, 1, 1))
    yield "convolution", convolution, ((1, 16, 9, 9), 32, Window(3, 2, 1))
    yield "convolution", convolution, ((1, 20, 5, 5), 16, Window(1, 1, 0))
    yield "convolution", convolution, ((1, 20, 5, 5), 16, Window(5, 1, 2), "blocked", 0)
    yield "matmul", matmul, (5, 17, 20, True)
    yield "matmul", matmul, (5, 10, 20, False)
    yield "matmul", matmul, (33, 64, 48, True)


for _kind, _make, _args in _table():
    _name = f"{_kind}-" + "-".join(str(a).replace(" ", "") for a in _args)
    SAMPLES[_name] = lambda make=_make, args=_args: make(*args)
    _KINDS.setdefault((_kind, next((a for a in _args if a in ("plain", "blocked")), None)), []).append(_name)


def names(*kinds: str) -> list:
    """The samples (of these kernels) for `pytest.mark.parametrize`: two of each kernel and layout, the rest slow."""
    quick = {name for group in _KINDS.values() for name in (group[min(1, len(group) - 1)], group[len(group) // 2])}
    chosen = [name for name in SAMPLES if not kinds or name.startswith(kinds)]
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in chosen]
