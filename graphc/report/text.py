"""Words and numbers that every rendering of the report shares: cells, units, footer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.ir import NUMPY, dims
from graphc.ir.frozen import frozen

from .figures import Figures, Layer, Shape, Window

BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
DECIMAL = ("", "k", "M", "G", "T", "P")
CONVENTION = (
    "One MAC is one multiply-add of a convolution or matrix product; bias, activations and pooling count in FLOPs only."
)


@frozen
class Column:
    """`cell` makes the texts of all rows at once, so that a unit is chosen once for the column. A narrow terminal shows
    the columns that fit, those of low `rank` first, those of rank 0 always."""

    title: str
    cell: Callable[[Sequence[Layer], int | None], list[str]]
    right: bool = True
    rank: int = 0


def inputs(figures: Figures) -> str:
    """`input 1x1x28x28 float32`, several as `inputs a 3x4 float32, b 4x5 float32`."""
    shown = [f"{dims(v.shape)} {NUMPY[v.dtype]}" for v in figures.inputs]
    if len(shown) == 1:
        return f"input {shown[0]}"
    return "inputs " + ", ".join(f"{v.name} {text}" for v, text in zip(figures.inputs, shown, strict=True))


def batch(figures: Figures) -> int | None:
    """The leading extent that all inputs share, None where they do not."""
    leading = {v.shape[0] if v.type.rank > 1 else None for v in figures.inputs}
    return leading.pop() if len(leading) == 1 else None


def output(shape: Shape, batch: int | None) -> str:
    """A shape without its batch dimension."""
    return dims(shape[1:] if batch is not None and len(shape) > 1 and shape[0] == batch else shape)


def window(w: Window | None) -> str:
    """`5x5 / 1 / 2`: kernel, stride and padding, then dilation and groups where there are any."""
    if w is None:
        return ""
    parts = [dims(w.kernel), axes(w.stride)]
    if any(w.padding):
        parts.append(axes(w.padding))
    notes = [f"dilation {axes(w.dilation)}"] * any(d != 1 for d in w.dilation) + [f"groups {w.groups}"] * (w.groups > 1)
    return ", ".join([" / ".join(parts), *notes])


def axes(numbers: Shape) -> str:
    """One number where all axes agree."""
    return str(numbers[0]) if len(set(numbers)) == 1 else dims(numbers)


def weights(layer: Layer) -> str:
    return " + ".join(dims(s) for s in layer.weights.values())


def params(layer: Layer) -> str:
    return "shared" if layer.shared and not layer.params else count(layer.params)


def count(n: int) -> str:
    """A figure with separators, nothing for zero."""
    return f"{n:,}" if n else ""


def byte_column(sizes: Sequence[int]) -> list[str]:
    """Sizes in one unit, the smallest that leaves at most five digits before the point; bytes below 10 KiB."""
    greatest = max(sizes, default=0)
    power = next(p for p in range(len(BINARY)) if greatest < (100_000 if p else 10 * 1024) * 1024**p)
    shown = [f"{n / 1024**power:,.1f}" if power else f"{n:,}" for n in sizes]
    return [f"{'<0.1' if n and text == '0.0' else text} {BINARY[power]}" for n, text in zip(sizes, shown, strict=True)]


def scaled(n: float, step: int, units: Sequence[str]) -> str:
    """Three significant digits and a unit: 4.79 MiB, 13.1 M."""
    power = 0
    while power + 1 < len(units) and n >= step:
        n, power = n / step, power + 1
    digits = 0 if power == 0 or n >= 99.95 else 1 if n >= 9.995 else 2
    return f"{n:,.{digits}f} {units[power]}"


def bytes_(n: int) -> str:
    return scaled(n, 1024, BINARY)


COLUMNS = [
    Column("kernel/stride/pad", lambda rows, _: [window(r.window) for r in rows], right=False, rank=3),
    Column("output", lambda rows, b: [output(r.output_shape, b) for r in rows], right=False),
    Column("weights", lambda rows, _: [weights(r) for r in rows], right=False, rank=5),
    Column("params", lambda rows, _: [params(r) for r in rows]),
    Column("MACs", lambda rows, _: [count(r.macs) for r in rows]),
    Column("FLOPs", lambda rows, _: [count(r.flops) for r in rows], rank=6),
    Column("activations", lambda rows, _: byte_column([r.activation_bytes for r in rows]), rank=2),
    Column("field", lambda rows, _: [dims(r.receptive_field) if r.receptive_field else "" for r in rows], rank=4),
]


def footer(figures: Figures) -> list[str]:
    """The totals, one statement a line."""
    t = figures.totals
    trained = "all trainable" if t.trainable_params == t.params else f"{t.trainable_params:,} trainable"
    peak = (
        "peak activations not planned"
        if t.peak_activation_bytes is None
        else f"peak activations {bytes_(t.peak_activation_bytes)} (as planned)"
    )
    parts = [
        f"{t.params:,} parameters ({bytes_(t.weight_bytes)}), {trained}" if t.params else "no parameters",
        f"{t.macs:,} MACs",
        f"{scaled(t.flops, 1000, DECIMAL)}FLOP",
        peak,
    ]
    if t.buffer_bytes:
        parts.insert(1, f"buffers {bytes_(t.buffer_bytes)}")
    lines = [" · ".join(parts)]
    if t.training:
        m = t.training
        lines.append(
            f"Training: gradients {bytes_(m.gradients)} · optimizer state {bytes_(m.optimizer_state)} · "
            f"saved activations {bytes_(m.saved_activations)} · {bytes_(m.total)} in all (as planned)"
        )
    if figures.unused:
        lines.append(f"Read by no layer: {', '.join(figures.unused)}")
    lines.append(CONVENTION)
    if exceeds_input(figures):
        lines.append("Fields are those of an unbounded image; a global pool or a linear layer sees the whole input.")
    return lines


def exceeds_input(figures: Figures) -> bool:
    images = [v.shape[2:] for v in figures.inputs if v.type.rank >= 4]
    greatest = [max(sizes) for sizes in zip(*images, strict=False)]
    return any(
        extent > size
        for layer in figures.layers
        for extent, size in zip(layer.receptive_field or (), greatest, strict=False)
    )
