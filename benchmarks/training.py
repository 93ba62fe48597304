"""Training steps beside PyTorch: same network, weights, data and optimizer, losses compared, steps in turn.

python -m benchmarks.training [--threads 1] [--cases lenet5 resnet18-32] [--peers eager NHWC inductor] [--seconds 5]

One run is for one number of threads. A step is forward, backward and update; PyTorch's optimizers are its fused ones.
Memory: of graphc what the program allocates (weights and state, arena, each thread's own), of PyTorch what
`benchmarks.memory` measures of an eager step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import graphc
from graphc import nn
from graphc.driver import traced_graph
from graphc.models import ZOO, get

from . import memory
from .measure import against_best, arguments, attempted, cores, detail, geometric_mean, interleaved, ms, pin, show
from .peers import Missing, compiled, need

STEPS_COMPARED = 3
# Both round in float32, in different orders, and each step carries the difference on.
AGREE = 2e-3


@dataclass(frozen=True)
class Case:
    """A network of the zoo, its input, and the same optimizer twice: ours, and the name and settings of PyTorch's."""

    model: str
    shape: tuple[int, ...]
    ours: object
    theirs: tuple[str, dict[str, float]]
    classes: int = 10

    def network(self) -> nn.Module:
        return get(self.model).make(classes=self.classes)


SGD = graphc.optim.SGD(lr=0.01), ("SGD", {"lr": 0.01})
MOMENTUM = graphc.optim.SGD(lr=0.01, momentum=0.9), ("SGD", {"lr": 0.01, "momentum": 0.9})
ADAM = graphc.optim.Adam(lr=1e-4), ("Adam", {"lr": 1e-4})
ADAMW = graphc.optim.AdamW(lr=1e-4), ("AdamW", {"lr": 1e-4})
CASES = {
    "mlp": Case("mlp", (64, 1, 28, 28), *SGD),
    "lenet5": Case("lenet5", (64, 1, 28, 28), *MOMENTUM),
    "lenet5-adam": Case("lenet5", (64, 1, 28, 28), *ADAM),
    "resnet18-32": Case("resnet18", (32, 3, 32, 32), *MOMENTUM),
    "resnet18-224": Case("resnet18", (8, 3, 224, 224), *MOMENTUM, 1000),
    "vit_s16": Case("vit_s16", (4, 3, 224, 224), *ADAMW, 1000),
}
Step = Callable[[], float]


def peer_step(name: str, model: nn.Module, case: Case, images: np.ndarray, labels: np.ndarray) -> Step:
    """A PyTorch training step: eager, channels-last from the start (NHWC), or by the inductor."""
    torch = need("torch", "pip install torch==2.13.0")
    twin = need("benchmarks.torch_twin", "").twin(traced_graph(model, images.shape))
    layout = torch.channels_last if name == "NHWC" else torch.contiguous_format
    twin = twin.to(memory_format=layout)
    x, y = torch.from_numpy(images).contiguous(memory_format=layout), torch.from_numpy(labels).long()
    kind, settings = case.theirs
    optimizer = getattr(torch.optim, kind)(twin.parameters(), fused=True, **settings)
    net = compiled(torch, twin) if name == "inductor" else twin

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def compare(name: str, options, notes: list[str]) -> dict[str, object]:
    """One row: all programs timed, and how far their losses lie apart."""
    case, rng = CASES[name], np.random.default_rng(0)
    images = rng.random(case.shape, np.float32)
    labels = rng.integers(0, case.classes, case.shape[0]).astype(np.int32)
    model, peers = case.network(), {}
    for peer in options.peers:
        try:
            peers[peer] = peer_step(peer, model, case, images, labels)
        except Missing as reason:
            notes.append(f"{peer} takes no part: {reason}")
    step = graphc.compile_training(
        model, input=case.shape, loss=nn.CrossEntropyLoss(), optimizer=case.ours, threads=options.threads
    )
    plan = step.program.schedule
    programs = {"graphc": lambda: step(images, labels), **peers}
    losses = {who: [float(program()) for _ in range(STEPS_COMPARED)] for who, program in programs.items()}
    apart = {
        peer: max(abs(a - b) / abs(b) for a, b in zip(losses["graphc"], losses[peer], strict=True)) for peer in peers
    }
    for peer, difference in apart.items():
        if not difference < AGREE:
            raise ValueError(f"losses differ from {peer}'s by {difference:.2g} within {STEPS_COMPARED} steps")
    timed = interleaved(programs, options.seconds)
    return {
        "step": name,
        "input": "x".join(map(str, case.shape)),
        "optimizer": case.theirs[0],
        "graphc_ms": ms(timed["graphc"]),
        **{peer: ms(timed[peer]) if peer in timed else None for peer in options.peers},
        **against_best(timed),
        "graphc_MB": (plan.arena_bytes + plan.state_bytes + options.threads * plan.thread_bytes) / 1e6,
        "peer_MB": memory.of_peer(name) if peers else None,
        "samples": {program: detail(t) for program, t in timed.items()},
        "difference": apart,
    }


def main() -> None:
    here = [name for name, case in CASES.items() if case.model in ZOO]
    options = arguments(__doc__, cases=here, peers=["eager", "NHWC", "inductor"], threads=1, seconds=5.0)
    if unknown := [c for c in options.cases if c not in here]:
        sys.exit(f"no case {', '.join(unknown)}\n  expected some of {', '.join(here)}")
    available, notes = cores(), []
    if options.threads > len(available):
        sys.exit(f"{options.threads} threads on {len(available)} cores would measure how they take turns")
    pin(available, options.threads)
    try:
        need("torch", "pip install torch==2.13.0").set_num_threads(options.threads)
    except Missing as reason:
        sys.exit(str(reason))
    rows, failed = attempted(options.cases, lambda name: compare(name, options, notes), notes)
    if speedups := [row["speedup"] for row in rows if row["speedup"]]:
        notes.insert(0, f"speed-up over PyTorch's best, geometric mean: {geometric_mean(speedups):.3f}")
    title = f"training step, {options.threads} thread(s), ms; speed-up above 1: graphc is faster"
    show(title, rows, options.json, list(dict.fromkeys(notes)))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
