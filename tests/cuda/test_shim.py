"""The CPU that speaks CUDA: what it computes is what the language says."""

import numpy as np
import pytest
from shim.build import compile_kernels, compilers

from graphc.backends.cuda.emit import KernelCode

COMPILERS = list(compilers())
pytestmark = pytest.mark.skipif(
    not COMPILERS, reason="no C++ compiler for the shim: g++, clang++ or pip install ziglang"
)

SUMS = """
KERNEL(sums, 64, 1)(const float *b0, float *b1) {
  SHARED(float, part, [2]);
  float s = 0;
  for (int i = threadIdx.x; i < 100; i += 64) s += b0[blockIdx.x * 100 + i];
  for (int m = 16; m; m /= 2) s += __shfl_xor_sync(FULL, s, m);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x == 0) b1[blockIdx.x] = part[0] + part[1];
}
"""


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("checked", [False, True])
def test_sums_of_rows_in_every_order(compiler, checked):
    library = compile_kernels(SUMS, checked, compiler)
    x = np.random.default_rng(0).standard_normal((5, 100), np.float32)
    results = []
    for order in ("forward", "backward", 1, 2):
        y = np.full(5, np.nan, np.float32)
        library.launch(KernelCode("sums", SUMS, ("x", "y"), (5, 1, 1), 64), {"x": x, "y": y}, order)
        results.append(y)
    np.testing.assert_allclose(results[0], x.sum(1, dtype=np.float64), rtol=1e-5, atol=1e-5)
    assert all(r.tobytes() == results[0].tobytes() for r in results)
