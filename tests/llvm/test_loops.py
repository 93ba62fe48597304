"""The generic emitter against the samples: values, zeros kept, and the same bits for any cut and any vector width."""

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest
from assembly_text import innermost_loops, narrow, spills
from loop_samples import SAMPLES, beyond, layer_norm, names

from graphc import nn
from graphc.backends.llvm import ir, jit
from graphc.backends.llvm.kernels.ahead import aheads
from graphc.backends.llvm.kernels.loops import emit_loops
from graphc.backends.llvm.target import Target, aarch64, host, x86_64_v3, x86_64_v4
from graphc.driver import traced_graph
from graphc.passes import FAST_INFERENCE, run_passes
from graphc.schedule import make_schedule
from graphc.schedule.kernels import Contraction
from graphc.schedule.layout import Layout
from graphc.schedule.nest import normalise
from graphc.schedule.traits import CPU

# float32 sums of up to a few thousand terms of size about 1, in another order than NumPy's
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
# vectors of 4 and 16 lanes run on every machine: LLVM cuts or joins them as it has to
NARROW, WIDE = replace(host(), vector_bytes=16), replace(host(), vector_bytes=64)
REDUCING = ("softmax", "layer_norm", "batch_statistics", "column_sums", "total", "arg_max", "max_pool", "sum_pool",
            "pool", "depthwise", "global_pool", "embedding_gradient",
            "cross_entropy", "convolution", "matmul")  # fmt: skip


class Compiled:
    """One kernel in this process."""

    def __init__(self, sample, target: Target):
        kernel = sample.kernel
        loops = kernel.to_loops(sample.buffers) if isinstance(kernel, Contraction) else kernel
        module = ir.Module("test")
        self.code = emit_loops(module, "kernel", loops, sample.buffers, target)
        self.code.function.linkage = "external"
        self.loaded = jit.load_object([jit.compile_object(module, target)], ["kernel"])
        pointers = [ctypes.c_void_p] * len(self.code.arguments)
        call = ctypes.CFUNCTYPE(None, *pointers, ctypes.c_int64, ctypes.c_int64)
        self.function = call(self.loaded.address("kernel"))
        self.sample = sample

    def run(self, parts: int = 1) -> dict[str, np.ndarray]:
        """The arrays after all units, in `parts` ranges in shuffled order."""
        arrays, units = self.sample.arrays(), self.code.units
        pointers = [arrays[a].ctypes.data for a in self.code.arguments]
        for k in np.random.default_rng(parts).permutation(parts):
            self.function(*pointers, units * k // parts, units * (k + 1) // parts)
        return arrays


def same_bits(a: dict, b: dict, names) -> bool:
    return all(a[n].tobytes() == b[n].tobytes() for n in names)


@pytest.mark.parametrize("name", names())
def test_values_zeros_and_units(name):
    sample = SAMPLES[name]()
    compiled = Compiled(sample, host())
    arrays = compiled.run()
    for output, expected in sample.expected.items():
        buffer = sample.buffers[output]
        np.testing.assert_allclose(buffer.unpack(arrays[output]), expected, **CLOSE)
        assert not arrays[output][beyond(buffer)].any(), f"{output}: halo or padding lanes are not zero"
    for given in sample.inputs.keys() - sample.expected.keys():
        assert arrays[given].tobytes() == sample.arrays()[given].tobytes(), f"input {given} was written"
    for parts in (2, 3, 7):
        assert same_bits(arrays, compiled.run(parts), sample.expected), f"{parts} ranges give other bits"


@pytest.mark.parametrize("name", names(*REDUCING))
def test_same_bits_for_every_vector_width(name):
    sample = SAMPLES[name]()
    bits = Compiled(sample, host()).run()
    for target in (NARROW, WIDE):
        assert same_bits(bits, Compiled(sample, target).run(), sample.expected), f"{target.vl} lanes give other bits"


@pytest.mark.parametrize("target", [x86_64_v4(), aarch64()], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "name", ["softmax_channels-(3,17,3,5)-blocked", "layer_norm-5-300", "dropout-400", "arg_max-64-37", "adamw-1000"]
)
def test_compiles_for_other_processors(name, target):
    sample = SAMPLES[name]()
    module = ir.Module("test")
    emit_loops(module, "kernel", sample.kernel, sample.buffers, target).function.linkage = "external"
    assert jit.compile_object(module, target)


@pytest.mark.parametrize("target", [x86_64_v3(), x86_64_v4(), aarch64()], ids=lambda t: t.name)
def test_neighbours_under_a_window_share_their_loads(target):
    """The innermost loop of a depthwise 3x3 on a row of 28: 7 points of 9 products; 9 weights and 3 x 9 inputs are
    loaded, not 2 x 63, and no vector goes to the stack and back."""
    sample, module = SAMPLES["depthwise-(1,16,8,28)-blocked-Window(k=3,stride=1,padding=1)"](), ir.Module("test")
    emit_loops(module, "kernel", sample.kernel, sample.buffers, target).function.linkage = "external"
    (loop,) = innermost_loops(jit.assembly(module, target))
    assert sum(bool(re.match("vfmadd|fmla", x)) for x in loop) == 7 * 9
    assert not [x for x in loop if re.search(r"mm\d+.*\(%rsp|\(%rsp.*mm\d+|q\d+.*\[sp", x)]
    # a load is an instruction of its own or an operand of another; the bias may be read for each point
    loads = [x for x in loop if re.match(r"ld[rpu]|v[^,]*\(.*\).*,", x)]
    assert sum(1 + x.startswith("ldp") for x in loads) <= 9 + 3 * 9 + 7


ARITHMETIC = "v(add|sub|mul|div|max|min|fn?m(add|sub)\\w+)ps|f(add|sub|mul|div|max|min|mla|mls|cmgt|cmge)"
SCANNED = {
    "pointwise": "bias_relu_residual-(2,32,4,9)-blocked-1",
    "max pool": "max_pool-(1,20,28,28)-blocked-Window(k=2,stride=2,padding=0)-max",
    "softmax": "softmax_last-3-1500",
    "layer norm": "layer_norm-5-300",
    "optimizer": "adamw-1000",
    "depthwise": "depthwise-(1,16,8,28)-blocked-Window(k=3,stride=1,padding=1)",
}


# Several chains of an exp, or of an update with its square root, beside their constants: more than the registers hold.
SPILLING = ("softmax", "x86-64-v3"), ("softmax", "aarch64"), ("pointwise", "x86-64-v3"), ("optimizer", "x86-64-v3")


@pytest.mark.parametrize("target", [x86_64_v3(), x86_64_v4(), aarch64()], ids=lambda t: t.name)
@pytest.mark.parametrize("name", SCANNED)
def test_hot_loops_are_wide_and_stay_in_registers(name, target):
    sample, module = SAMPLES[SCANNED[name]](), ir.Module("test")
    emit_loops(module, "kernel", sample.kernel, sample.buffers, target).function.linkage = "external"
    loops = list(innermost_loops(jit.assembly(module, target), ARITHMETIC))
    assert loops
    for body in loops:
        assert (name, target.name) in SPILLING or not spills(body)
        assert target.arch == "aarch64" or not narrow(body, target.vector_bytes)


@pytest.mark.parametrize(("rows", "panels", "asks"), [(600, True, True), (600, False, False), (20, True, False)])
def test_rows_in_panels_are_asked_for_ahead(rows, panels, asks):
    """Pieces of a row far apart, of a matrix that no cache need hold; the hardware foresees rows in one piece. What
    lies behind the last row is asked for too, and does no harm."""
    sample = layer_norm(rows, 384)
    layout = CPU.layouts[2] if panels else Layout.plain(2)
    matrices = {n: replace(sample.buffers[n], layout=layout) for n in ("x", "y")}
    sample = replace(sample, buffers={**sample.buffers, **matrices})
    target = replace(host(), l2_bytes=1 << 20)
    module = ir.Module("scan")
    emit_loops(module, "k", sample.kernel, sample.buffers, target).function.linkage = "external"
    assert ("prefetch" in jit.assembly(module, target)) == asks
    got = sample.buffers["y"].unpack(Compiled(sample, target).run()["y"])
    np.testing.assert_allclose(got, sample.expected["y"], **CLOSE)


def test_what_the_next_point_touches_in_many_places_is_asked_for():
    """Two columns of a 6x6 tile are those of the next one, too, and 36 places are stored; what an inverse transform
    reads is all new, the 16 places where it stores are not asked for."""
    model = nn.Sequential(nn.Conv2d(16, 64, 1), nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 16, 1))
    schedule = make_schedule(run_passes(traced_graph(model, (1, 16, 28, 28)), FAST_INFERENCE))
    transforms = [k for k in schedule.kernels if ".winograd_" in k.name]
    assert [k.name for k in transforms] == ["1.winograd_input", "1.winograd_output"]
    for l2_bytes, lines in ((64 << 10, ((24, 36), (36, 0))), (64 << 20, ((0, 0), (0, 0)))):
        target = replace(x86_64_v3(), l2_bytes=l2_bytes)
        for kernel, (read, stored) in zip(transforms, lines, strict=True):
            (found,) = aheads(normalise(kernel, schedule.buffers), schedule.buffers, target)
            names = [n for n, _ in set(found.places)] if found else []
            assert sum(n in found.written for n in names) == stored
            assert len(names) == read + stored
            module = ir.Module("scan")
            emit_loops(module, "k", kernel, schedule.buffers, target).function.linkage = "external"
            assert ("prefetch" in jit.assembly(module, target)) == bool(read)
            assert str(module).count("i32 1, i32 2, i32 1") == stored
