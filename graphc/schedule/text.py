"""Schedule text, for people: buffers first with layouts and lifetimes, then numbered kernels with logical indices.

An expression node used more than once in a stage prints as `let`.
"""

from __future__ import annotations

from collections import Counter

from .expr import E, show_bounds, walk
from .expr import show as show_expr
from .kernels import Block, Contraction, Kernel, Reduce, Schedule, Stage, Store
from .layout import Buffer

PLACES = ("input", "weight", "state", "const", "arena", "thread", "output")


def show(schedule: Schedule) -> str:
    """The whole schedule as text."""
    sizes = [f"{v} {k}" for k, v in (("arena bytes", schedule.arena_bytes), ("weight bytes", schedule.weight_bytes),
                                     ("state bytes", schedule.state_bytes),
                                     ("bytes a thread", schedule.thread_bytes)) if v]  # fmt: skip
    lines = [f"schedule @{schedule.name} {{" + (f"  # {', '.join(sizes)}" if sizes else "")]
    for place in PLACES:
        lines += [show_buffer(schedule, b) for b in schedule.buffers.values() if b.place == place]
    for i, kernel in enumerate(schedule.kernels):
        lines += ["", *show_kernel(kernel, i)]
    return "\n".join([*lines, "}"]) + "\n"


def show_buffer(schedule: Schedule, b: Buffer) -> str:
    text = f"  {b.place:7}%{b.name}  {b.dtype}[{','.join(map(str, b.shape))}]  {b.layout}"
    if b.name in schedule.aliases:
        return f"{text}  alias of %{schedule.aliases[b.name]}"
    if b.offset is not None:
        text += f"  @{b.offset}  {b.bytes} B"
    if b.name in schedule.lifetimes:
        first, last = schedule.lifetimes[b.name]
        text += f"  life {first}..{last}"
    return text


def show_kernel(kernel: Kernel, number: int) -> list[str]:
    note = f"  # {kernel.scope}" if kernel.scope else ""
    if isinstance(kernel, Block):
        body = [line for k, part in enumerate(kernel.body) for line in show_kernel(part, k)]
        return [f"  {number} block @{kernel.name} steps{show_axes(kernel.steps)} {{{note}", *_indented(body), "    }"]
    if isinstance(kernel, Contraction):
        x, w = (show_expr(a.as_load()) for a in (kernel.x, kernel.w))
        head = f"  {number} {kernel.kind} @{kernel.name} {show_axes(kernel.par)} sum {show_axes(kernel.red)}"
        return [f"{head} {x} * {w} lanes {kernel.lanes} {{{note}", *show_outs(kernel.stores, "      "), "    }"]
    lines = [f"  {number} loops @{kernel.name} par{show_axes(kernel.par)} {{{note}"]
    lines += [f"      scratch %{b.name} {b.dtype}[{','.join(map(str, b.shape))}]" for b in kernel.scratch]
    for stage in kernel.stages:
        lines += show_stage(stage)
    return [*lines, "    }"]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def show_stage(stage: Stage) -> list[str]:
    if not stage.axes:
        return show_outs(stage.outs, "      ")
    head = f"      for{show_axes(stage.axes)}"
    body = show_outs(stage.outs, "        ")
    return [f"{head} {body[0].strip()}"] if len(body) == 1 else [head, *body]


def show_outs(outs: tuple[Reduce | Store, ...], indent: str) -> list[str]:
    names, lines = {}, []
    uses = Counter(a for e in walk(*(o.expr for o in outs)) for a in e.args) + Counter(o.expr for o in outs)
    for e in walk(*(o.expr for o in outs)):
        if uses[e] > 1 and e.op not in ("const", "axis", "load", "temp"):
            lines.append(f"{indent}let e{len(names)} = {show_expr(e, names)}")
            names[e] = f"e{len(names)}"
    for o in outs:
        value = show_expr(o.expr, names)
        if isinstance(o, Store):
            at = ", ".join(show_expr(i, names) if isinstance(i, E) else str(i) for i in o.indices)
            where = f" if {show_bounds(o.valid)}" if o.valid else ""
            lines.append(f"{indent}%{o.buffer}[{at}] = {value}{where}")
        else:
            at = f" at {show_expr(o.index, names)}" if o.index is not None else ""
            lines.append(f"{indent}{o.name} = {o.op} {value}{at}")
    return lines


def show_axes(axes: tuple) -> str:
    return "[" + ", ".join(f"{a}<{n}" for a, n in axes) + "]"
