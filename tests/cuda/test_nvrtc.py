"""NVRTC without a driver: cubins, resource reports, errors, the cache."""

import ctypes

import pytest

from graphc import cache
from graphc.backends.cuda import nvrtc
from graphc.backends.cuda.prelude import DEVICE
from graphc.backends.cuda.target import TARGETS

try:
    nvrtc.load()
except nvrtc.NvrtcMissing:
    HAS = False
else:
    HAS = True
needs_nvrtc = pytest.mark.skipif(not HAS, reason="no NVRTC: pip install nvidia-cuda-nvrtc (Linux and Windows)")

# Every name of the prelude.
ALL = """
KERNEL(all, 128, 2)(const float *__restrict__ b0, float *b1, unsigned char *b2, int *b3) {
  SHARED(float, tile, [4][64]);
  SHARED_DYN(float, ring, 4096);
  float acc[2][2][4] = {};
  unsigned a[2][4], b[2][2], c[2][4], d[2][2];
  copy4(&tile[0][threadIdx.x], b0 + threadIdx.x);
  copy16(&ring[1024 + threadIdx.x * 4], b0 + 4 * threadIdx.x);
  copy16_if(&ring[threadIdx.x * 4], b0, threadIdx.x < 3);
  copy4_if(&ring[600 + threadIdx.x], b0, threadIdx.x < 5);
  copy_commit();
  copy_wait<0>();
  __syncthreads();
  for (int i = 0; i < 8; i++) {
    a[i / 4][i % 4] = to_tf32(ring[threadIdx.x + i]);
    c[i / 4][i % 4] = pack_bf16(tile[1][i], tile[0][i]);
  }
  for (int i = 0; i < 4; i++) {
    b[i / 2][i % 2] = to_tf32(ring[threadIdx.x + 9 * i]);
    d[i / 2][i % 2] = c[0][i];
  }
  mma_tf32<2, 2>(acc, a, b);
  mma_bf16<2, 2>(acc, c, d);
  float4 v = ld4(b0 + 4 * threadIdx.x);
  float2 w = ld2(b0 + 2 * threadIdx.x);
  v.x = __shfl_xor_sync(FULL, v.y, 3) + INFINITY + erff(v.w) + __shfl_sync(FULL, w.x, 0);
  __syncwarp();
  st4(b1 + 4 * threadIdx.x, v);
  st2(b1 + 2000 + 2 * threadIdx.x, w);
  st4b(b2 + 4 * threadIdx.x, ld4b(b2 + 2000));
  st4i(b3, ld4i(b3 + 4 * blockIdx.x));
  b1[5000 + threadIdx.x] = acc[0][1][2] + fmaxf(v.x, NAN) + __umulhi(threadIdx.x, 77u);
}
"""


@needs_nvrtc
@pytest.mark.parametrize("arch", TARGETS)
def test_the_prelude_compiles_and_the_report_is_read(arch):
    made = nvrtc.compile_module(DEVICE + ALL, arch)
    assert made.cubin[:4] == b"\x7fELF"
    (used,) = made.kernels.values()
    assert list(made.kernels) == ["all"]
    assert 20 < used.registers < 128 and used.shared == 1024 and used.barriers == 1
    assert used.stack == used.spill_stores == used.spill_loads == 0
    assert "warning" not in made.log


# 96 values that live at once, in the 64 registers that three blocks of 256 threads leave a thread.
SPILLING = """
KERNEL(spilling, 256, 4)(const float *b0, float *b1) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; i++) v[i] = b0[i * 256 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; i++) b1[i * 256 + threadIdx.x] = v[95 - i];
}
KERNEL(small, 32, 1)(float *b0) { b0[threadIdx.x] = 1.0f; }
"""


@needs_nvrtc
def test_spills_are_seen_and_kernels_kept_apart():
    kernels = nvrtc.compile_module(DEVICE + SPILLING, "sm_80").kernels
    assert kernels["spilling"].spill_stores > 0 and kernels["spilling"].spill_loads > 0
    assert kernels["spilling"].registers <= 64
    assert kernels["small"].spill_stores == 0 and kernels["small"].registers < 20


@needs_nvrtc
def test_an_error_names_the_kernel_and_its_line():
    text = (
        DEVICE + "KERNEL(good, 32, 1)(float *b0) {\n  b0[0] = 1;\n}\nKERNEL(bad, 32, 1)(float *b0) {\n  b0[0] = q;\n}\n"
    )
    with pytest.raises(nvrtc.NvrtcError, match=r"(?s)kernel bad, line 5: b0\[0\] = q;.*\"q\" is undefined"):
        nvrtc.compile_module(text, "sm_80")


@needs_nvrtc
def test_an_error_of_the_assembler_names_the_kernel():
    text = DEVICE + "KERNEL(vast, 32, 1)(float *b0) {\n  SHARED(float, v, [12289]);\n  v[threadIdx.x] = 1;\n"
    text += "  __syncthreads();\n  b0[0] = v[b0[1] > 0];\n}\n"
    with pytest.raises(nvrtc.NvrtcError, match=r"(?s)kernel vast.*too much shared data"):
        nvrtc.compile_module(text, "sm_80")


@needs_nvrtc
def test_an_architecture_that_nvrtc_does_not_know():
    with pytest.raises(nvrtc.NvrtcError, match=r"(?s)does not compile for sm_20\n  it does for .*sm_80"):
        nvrtc.compile_module(DEVICE, "sm_20")


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch):
    def refuse(_):
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    nvrtc.load.cache_clear()
    try:
        with pytest.raises(nvrtc.NvrtcMissing, match="pip install nvidia-cuda-nvrtc"):
            nvrtc.compile_module(DEVICE, "sm_80")
    finally:
        nvrtc.load.cache_clear()


@needs_nvrtc
def test_a_module_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    text = DEVICE + "KERNEL(k, 32, 1)(float *b0) { b0[threadIdx.x] = 2; }\n"
    first = nvrtc.compile_module(text, "sm_80")
    cache.CODE.forget()
    monkeypatch.setattr(nvrtc, "_compile", None)
    assert nvrtc.compile_module(text, "sm_80") == first
    with pytest.raises(TypeError):  # another architecture is other code
        nvrtc.compile_module(text, "sm_90")


@needs_nvrtc
def test_the_same_text_gives_the_same_bytes(monkeypatch):
    library = nvrtc.load()
    assert nvrtc._compile(library, DEVICE + ALL, "sm_90").cubin == nvrtc._compile(library, DEVICE + ALL, "sm_90").cubin
