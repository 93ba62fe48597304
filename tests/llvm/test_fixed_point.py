"""Products by weights in 24 bits: the bits of the same product by the numbers that these stand for, everywhere."""

import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from assembly_text import innermost_loops, spills
from compiled_contraction import HOST, SHAPES, Compiled
from contraction_samples import BIAS_RELU, matmul

import graphc
from graphc import nn
from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm.kernels.contraction import emit_contraction
from graphc.schedule.interpret import run_kernel

INF, NAN = float("inf"), float("nan")


def case(rows, outputs, inputs):
    """The product by weights in float32, and by the same in 24 bits."""
    kernel, buffers = matmul(rows, outputs, inputs, epilogue=BIAS_RELU)
    return kernel, buffers, buffers | {"w": replace(buffers["w"], dtype="f24")}


@pytest.mark.parametrize("inputs", [1, 7, 64, 100, 1100])
@pytest.mark.parametrize("outputs", [1, 3, 17, 37, 1000])
@pytest.mark.parametrize("rows", [1, 3])
def test_same_bits_as_the_numbers_in_float32(rows, outputs, inputs):
    kernel, plain, compact = case(rows, outputs, inputs)
    machines = SHAPES if outputs < 1000 else SHAPES[:1]
    for machine in machines:
        got, want = Compiled(kernel, compact, machine), Compiled(kernel, plain, machine)
        want.memory["w"][:] = plain["w"].pack(compact["w"].unpack(got.memory["w"])).reshape(-1)
        np.testing.assert_array_equal(got.run(), want.run())


def test_the_interpreter_decodes_them_too():
    kernel, _, buffers = case(1, 17, 100)
    compiled = Compiled(kernel, buffers, HOST)
    got = compiled.run()
    arrays = {n: m.copy() for n, m in compiled.memory.items()}
    arrays["y"][:] = NAN
    run_kernel(kernel, buffers, arrays)
    np.testing.assert_allclose(got, arrays["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("machine", [target.x86_64_v3(), target.x86_64_v4(), target.aarch64()], ids=lambda t: t.name)
@pytest.mark.parametrize("outputs", [4096, 1000])
def test_decoding_stays_in_registers_of_full_width(outputs, machine):
    """Three of four vectors are converted as they are loaded, the fourth is made of them. So much comes from memory:
    what lies further on is asked for."""
    kernel, _, buffers = case(1, outputs, 4096)
    module = ir.Module("scan")
    emit_contraction(module, "k", kernel, buffers, machine).function.linkage = "external"
    loops = list(innermost_loops(jit.assembly(module, machine)))
    assert loops
    for body in loops:
        assert not spills(body)
        multiplies, converted, shifted = (
            [x for x in body if re.match(p, x)] for p in ("vfmadd|fmla", "vcvtdq2ps|scvtf", r"vpslld|shl\s")
        )
        assert len(multiplies) == len(converted) > 0 and len(multiplies) % 4 == 0
        assert len(shifted) == 3 * len(multiplies) // 4
        assert any(re.match("prefetch|prfm", x) for x in body)
        wide = {64: "zmm", 32: "ymm", 16: ".4s"}[machine.vector_bytes]
        assert all(wide in x for x in multiplies + converted + shifted)


# whole programs


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2050, 2051), nn.Linear(2051, 1101)

    def forward(self, x):
        return self.second(self.first(x).relu())


def answer(model, x):
    weights = {n: a.astype(np.float64) for n, a in model.state_dict().items()}
    hidden = np.maximum(x @ weights["first.weight"].T + weights["first.bias"], 0)
    return hidden @ weights["second.weight"].T + weights["second.bias"]


def rms(a):
    return np.sqrt(np.mean(np.square(a, dtype=np.float64)))


@pytest.mark.parametrize("outliers", [0, 1e-3])
def test_a_program_in_24_bits(outliers):
    """As near to float64 as in float32; the same bits for any number of threads; new weights; smaller memory."""
    random, model = np.random.default_rng(0), Two()
    x = random.standard_normal((1, 2050)).astype(np.float32)
    fast, exact = (graphc.compile(model, x.shape, precision=p) for p in ("fast", "exact"))
    assert fast.program.weights.nbytes < 0.8 * exact.program.weights.nbytes
    for _ in range(2):
        drawn = {n: random.standard_normal(a.shape).astype(np.float32) for n, a in model.state_dict().items()}
        for a in drawn.values():
            a[random.random(a.shape) < outliers] *= 100
        model.load_state_dict(drawn)
        fast.refresh(), exact.refresh()
        want = answer(model, x)
        fast.program.poison()
        got = fast(x)
        assert rms(got - want) <= 1.5 * rms(exact(x) - want)  # of one draw, whose hidden values all outputs share
        for threads in (2, 3, 8):
            other = graphc.compile(model, x.shape, threads=threads)
            np.testing.assert_array_equal(other(x), got)


def test_weights_that_are_not_finite_give_what_float32_gives():
    model, x = Two(), np.ones((1, 2050), np.float32)
    weights = {n: a.copy() for n, a in model.state_dict().items()}
    weights["second.weight"][3, 4], weights["second.weight"][5, 6], weights["second.weight"][7, 8] = INF, -INF, NAN
    weights["first.bias"][[4, 6]] = 100  # or ReLU makes it 0
    model.load_state_dict(weights)
    fast, exact = (graphc.compile(model, x.shape, precision=p)(x)[0] for p in ("fast", "exact"))
    assert fast[3] == INF and fast[5] == -INF and np.isnan(fast[7]) and np.isfinite(fast).sum() == 1101 - 3
    np.testing.assert_allclose(fast, exact, rtol=1e-4, atol=1e-5)


def test_an_executable_holds_them_and_gives_the_same_bits(tmp_path):
    model = Two()
    for precision in ("fast", "exact"):
        graphc.build(model, (1, 2050), tmp_path / precision, cpu="native", precision=precision)
    sizes = [(tmp_path / p).stat().st_size for p in ("fast", "exact")]
    assert sizes[1] - sizes[0] > 0.2 * 4 * (2050 * 2051 + 2051 * 1101)
    for threads in ("1", "3"):
        done = subprocess.run(
            [tmp_path / "fast", "--selftest", "--threads", threads], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
