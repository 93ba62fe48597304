"""Contractions of few points: a vector, or several, times a matrix that has to be read once.

What enters: a `Form` of at most `MOST_POINTS` points whose w has neighbours along the lanes. What leaves: its text. A
block makes a strip of columns: each thread takes every so many-th row of the matrix, so that many rows are on their way
at once; then the threads' sums are added in a fixed order. All in float32: arithmetic is not what takes the time.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.schedule.layout import Buffer

from ..emit import KernelCode, Writer, parameters
from .epilogue import place, write_columns
from .form import VECTOR, Form

MOST_POINTS = 8
LEAST_DEPTH = 128  # a shorter sum does not need so many threads
COLUMNS = 32  # of a strip: 128 bytes of each row
THREADS = 256
WARP = 32
UNROLL = 8  # rows that a thread has on their way


def suits(form: Form) -> bool:
    return form.m <= MOST_POINTS and form.k >= LEAST_DEPTH and not form.w.deep


def emit_vectors(name: str, form: Form, buffers: Mapping[str, Buffer]) -> KernelCode:
    write = Writer()
    params, pointers = parameters(form.arguments, form.written, buffers)
    width = form.w.width
    lanes = COLUMNS // width  # threads side by side
    slices, across = THREADS // lanes, -(-form.n // COLUMNS)
    with write.block(f"KERNEL({name}, {THREADS}, {2048 // THREADS // 2})({params})"):
        sizes = f"{form.batch} x [{form.m} x {form.k}] [{form.k} x {form.n}]"
        write(f"// {form.kind} {sizes}, strips of {COLUMNS} columns, f32")
        write.fill(
            """
            SHARED(float, parts, [$parts]);
            const int thread = threadIdx.x, lane = thread % $warp, warp = thread / $warp;
            const unsigned batch = $batch;
            const int n0 = int(blockIdx.x % $across) * $columns, slice = thread / $lanes;
            const unsigned first = n0 + thread % $lanes * $width;
            const unsigned exists = first < $n ? first : $last;
            const float *x = $x_buffer + $x_const + $x_batch;
            const float *w = $w_buffer + $w_const + $w_batch + $w_column;
            float acc[$m][$width] = {};
            auto add = [&](unsigned k) {
              const float *from = w + $w_depth, *by = x + $x_depth;
            """,
            parts=THREADS // WARP * form.m * COLUMNS, warp=WARP, across=across, columns=COLUMNS, lanes=lanes,
            batch=f"blockIdx.x / {across}" if form.batch > 1 else "0", width=width, n=form.n, last=form.n - width,
            x_buffer=pointers[form.x.buffer], x_const=form.x.const, x_batch=form.x.batch.offset("batch"),
            w_buffer=pointers[form.w.buffer], w_const=form.w.const, w_batch=form.w.batch.offset("batch"),
            w_column=form.w.rows.offset("exists"), m=form.m,
            w_depth=form.w.depth.offset("k"), x_depth=form.x.depth.offset("k"),
        )  # fmt: skip
        write.depth += 1
        write(*(["const float4 v = ld4(from);"] if width == VECTOR else ["const float v = *from;"]))
        parts = [f"v.{c}" for c in "xyzw"] if width == VECTOR else ["v"]
        write("#pragma unroll")
        with write.block(f"for (unsigned row = 0; row < {form.m}; ++row)"):
            write(f"const float a = by[{form.x.rows.offset('row')}];")
            write(*(f"acc[row][{e}] = fmaf(a, {p}, acc[row][{e}]);" for e, p in enumerate(parts)))
        write.depth -= 1
        rest = form.k % slices
        write.fill(
            """
            };
            #pragma unroll $unroll
            for (int k = 0; k < $whole; k += $slices) add(k + slice);
            """,
            unroll=UNROLL, whole=form.k - rest, slices=slices,
        )  # fmt: skip
        if rest:
            write(f"if (slice < {rest}) add({form.k - rest} + slice);")
        write("#pragma unroll")
        with write.block(f"for (int row = 0; row < {form.m}; ++row)"):
            write("#pragma unroll")
            with write.block(f"for (int e = 0; e < {width}; ++e)"):
                for over in (2**k for k in range(4, -1, -1) if lanes <= 2**k):
                    write(f"acc[row][e] += __shfl_xor_sync(FULL, acc[row][e], {over});")
                to = f"parts[(warp * {form.m} + row) * {COLUMNS} + lane * {width} + e]"
                write(f"if (lane < {lanes}) {to} = acc[row][e];")
        write("__syncthreads();")
        axes = place(write, "batch", form.axes.batch)
        with write.block(f"if (thread < {form.m * lanes})"):
            write(f"const int row = thread / {lanes}, column = n0 + thread % {lanes} * {width};")
            write(f"float total[{width}] = {{}};", "#pragma unroll")
            with write.block(f"for (int part = 0; part < {THREADS // WARP}; ++part)"):
                at = f"(part * {form.m} + row) * {COLUMNS} + thread % {lanes} * {width}"
                write(*(f"total[{e}] += parts[{at} + {e}];" for e in range(width)))
            axes |= place(write, "row", form.axes.points)
            sums = tuple(f"total[{e}]" for e in range(width))
            write_columns(write, form, buffers, pointers, axes, sums, form.n % COLUMNS != 0)
    return KernelCode(name, write.text, form.arguments, (across * form.batch, 1, 1), THREADS)
