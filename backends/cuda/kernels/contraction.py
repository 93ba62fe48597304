"""Contractions on tiles in shared memory: matrix products, convolution and both of its gradients from one generator.

What enters: a `Contraction` over unblocked buffers. What leaves: its text. Each block makes one tile of results: its
operands come slice by slice of the sum through stages in shared memory, copied while earlier slices are multiplied.
Every sum is taken in the order that the plan gives, which follows from shapes and the target's constants alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.schedule.kernels import Contraction
from graphc.schedule.layout import Buffer

from ..emit import KernelCode, Writer, parameters
from ..target import Target
from .copies import Copies
from .epilogue import write_epilogue
from .form import Form, Operand, analyse
from .plans import Plan, plan
from .vectors import emit_vectors, suits


def emit_contraction(
    name: str, kernel: Contraction, buffers: Mapping[str, Buffer], target: Target, arithmetic: str
) -> KernelCode:
    """The kernel as function `name`. `arithmetic` of the products: "f32"; "tf32" or "bf16", to which operands are
    rounded (to nearest) while sums stay in float32. ValueError where the operands do not have the form that tiles need;
    `kernel.to_loops(buffers)` is then the way."""
    form = analyse(kernel, buffers)
    if suits(form):
        return emit_vectors(name, form, buffers)
    return emit_tiles(name, form, plan(form, target, arithmetic), buffers, target)


def emit_tiles(name: str, form: Form, plan: Plan, buffers: Mapping[str, Buffer], target: Target) -> KernelCode:
    """The kernel by a plan of its form."""
    write, tile = Writer(), plan.tile
    params, pointers = parameters(form.arguments, form.written, buffers)
    sizes = f"{form.batch} x [{form.m} x {form.k}] [{form.k} x {form.n}]"
    dynamic = plan.bytes > target.static_shared
    with write.block(f"KERNEL({name}, {tile.threads}, {plan.resident})({params})"):
        write(f"// {form.kind} {sizes}, tile {tile.rows} x {tile.columns} x {tile.depth}, {tile.arithmetic}")
        _declare_stages(write, plan, dynamic)
        write("const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;")
        tiles = plan.down * plan.across
        write(f"const unsigned batch = {f'blockIdx.x / {tiles}' if form.batch > 1 else '0'};")
        write(f"const int m0 = int(blockIdx.x / {plan.across} % {plan.down}) * {tile.rows};")
        write(f"const int n0 = int(blockIdx.x % {plan.across}) * {tile.columns};")
        copies = [
            _copies(write, form.x, plan.x, "m0", form.m, form, plan, pointers),
            _copies(write, form.w, plan.w, "n0", form.n, form, plan, pointers),
        ]
        tile.declare(write)
        _pipeline(write, plan, copies)
        write_epilogue(write, form, plan, buffers, pointers)
    grid = (plan.down * plan.across * form.batch, 1, 1)
    return KernelCode(name, write.text, form.arguments, grid, tile.threads, plan.bytes if dynamic else 0)


def _declare_stages(write: Writer, plan: Plan, dynamic: bool) -> None:
    x, w = (plan.stages * stage.elements for stage in (plan.x, plan.w))
    if dynamic:
        write(f"SHARED_DYN(float, ring, {x + w});", f"float *xs = ring, *ws = ring + {x};")
    else:
        write(f"SHARED(float, xs, [{x}]);", f"SHARED(float, ws, [{w}]);")


def _copies(
    write: Writer, operand: Operand, stage, first: str, rows: int, form: Form, plan: Plan, pointers: Mapping[str, str]
) -> Copies:
    """An operand's copies, declared: `x` or `w` points to its element (0, 0) in the block's point of the batch."""
    pointer = stage.name
    write(f"const float *{pointer} = {pointers[operand.buffer]} + {operand.const} + {operand.batch.offset('batch')};")
    copies = Copies(operand, stage, first, rows, form.k, pointer, plan.tile.threads)
    copies.declare(write)
    return copies


def _pipeline(write: Writer, plan: Plan, copies: list[Copies]) -> None:
    """The sum. The slice that a barrier frees is the one of the step before, which every thread is done with."""
    with write.block("auto load = [&](int tile, int stage)", ";"):
        for each in copies:
            with write.block():
                each.copy(write)
    ahead = plan.stages - 1
    for k in range(ahead):
        write(f"load({k}, {k});" if k < plan.slices else "", "copy_commit();")
    write("int now = 0, next = " + f"{ahead};")
    with write.block(f"for (int tile = 0; tile < {plan.slices}; ++tile)"):
        write(f"copy_wait<{ahead - 1}>();", "__syncthreads();")
        write(f"if (tile + {ahead} < {plan.slices}) load(tile + {ahead}, next);", "copy_commit();")
        write(f"const float *x_now = xs + now * {plan.x.elements}, *w_now = ws + now * {plan.w.elements};")
        plan.tile.multiply(write, plan.x, plan.w)
        for at in ("now", "next"):
            write(f"{at} = {at} == {ahead} ? 0 : {at} + 1;")
