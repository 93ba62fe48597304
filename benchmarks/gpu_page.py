"""docs/gpu.md: what is known of graphc on GPUs, from the rows that `benchmarks.gpu` measured, or that none were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .measure import cell
from .page import table

Row = Mapping[str, object]

HEAD = """# graphc on GPUs

Kernels are CUDA C, compiled by NVRTC, launched as one CUDA graph through CuPy. `python -m benchmarks.gpu` builds, tests
and measures on the GPU at hand and writes this page; nothing here is typed by hand.
"""
UNMEASURED = """## No GPU was at hand

No figure of this page was ever measured: the project has not had a GPU so far, so there is no timing, no comparison
with PyTorch, and no kernel of graphc has run on one. The aims that `benchmarks.gpu` will hold its tables against:

| | aim |
| --- | --- |
| latency at batch 1, beside torch.compile's best | at least 1.2x on lenet5, resnet18, resnet50, vit_s16 |
| elementwise, norm and softmax kernels | at least 85 % of a copy's bandwidth in the same run |
| contractions in tf32, beside cuBLAS and cuDNN | at least 60 % on the shapes of ResNet-50 and ViT |
| training step of lenet5 | at least 2x PyTorch's best |
| training step of resnet18, batch 64, 224x224 | at least 0.8x |

## What is proved without one

`tests/cuda` runs everywhere, also in `.ci/run` (the long ones as far as its time goes):

- every kernel of every op sample, of its gradient and of every network of the zoo is compiled by NVRTC for sm_80 and
  sm_90; registers, shared memory and spills are read from the compiler's report;
- the same text runs on the processor: a small shim of the CUDA language (`tests/cuda/shim`) has a fiber for each
  thread, barriers, shuffles, asynchronous copies and tensor-core tiles by their mathematical meaning. Results are
  compared with float64, for all op samples and, end to end, for inference and training steps of networks;
- the shim's checked build finds accesses out of bounds, misaligned or of what was never written, races within a warp,
  a block and between blocks, divergent barriers and mistakes with asynchronous copies, by line; planted mistakes test
  the checker. It counts sectors and bank conflicts, so that coalescing is tested too.

What only a device can show stays open: speed, occupancy, the tensor cores' own rounding, and that capture as a CUDA
graph through CuPy works as its documentation says.
"""
TITLES = {
    "tests": "Tests on the device",
    "sanitizer": "compute-sanitizer",
    "inference": "Inference, input and output on the device, ms",
    "training": "Training step, ms",
    "bandwidth": "Kernels that stream, beside a copy of the same run (aim 85 %)",
    "products": "Contractions beside cuDNN and cuBLAS (aim 60 %)",
}


def page(found: Mapping[str, Sequence[Row]], facts: Mapping[str, str], notes: Sequence[str]) -> str:
    """The document; without any rows the one that says that nothing was measured."""
    if not any(found.values()):
        return "\n".join([HEAD, UNMEASURED])
    parts = [HEAD, "".join(f"- {name}: {value}\n" for name, value in facts.items())]
    for part, rows in found.items():
        if rows:
            columns = list(dict.fromkeys(c for row in rows for c, v in row.items() if not isinstance(v, Mapping)))
            header = [c.replace("_", " ") for c in columns]
            parts += [f"## {TITLES[part]}\n", table(header, [[cell(row.get(c)) for c in columns] for row in rows])]
    parts.append("".join(f"- {note}\n" for note in dict.fromkeys(notes)))
    return "\n".join(parts)
