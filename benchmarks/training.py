"""A LeNet-5 training step beside PyTorch, eager and channels-last: same weights, same data, losses compared.

python -m benchmarks.training [--threads 1 2] [--batch 64] [--seconds 8] [--json]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import graphc
from graphc import nn
from graphc.models import lenet5

from .measure import arguments, cores, interleaved, ms, peer, pin, show, spread

LR, MOMENTUM = 0.01, 0.9
STEPS_COMPARED = 10
# Both round in float32, in different orders; ten steps with momentum carry the difference on.
AGREE = 1e-3


def peer_model(torch, model: nn.Module):
    """The same network in PyTorch with the same weights."""

    t = torch.nn
    features = [t.Conv2d(1, 20, 5, padding=2), t.MaxPool2d(2), t.Conv2d(20, 50, 5, padding=2), t.MaxPool2d(2)]
    twin = t.Sequential(*features, t.Flatten(), t.Linear(2450, 500), t.ReLU(), t.Linear(500, 10))
    arrays = model.state_dict()
    # Both list their parameters in the order of the layers.
    for parameter, array in zip(twin.parameters(), arrays.values(), strict=True):
        assert tuple(parameter.shape) == array.shape
        parameter.data = torch.from_numpy(array.copy())
    return twin


def peer_step(torch, model: nn.Module, images: np.ndarray, labels: np.ndarray, format: str) -> Callable[[], float]:
    """A PyTorch training step in one memory format (contiguous, channels_last)."""
    layout = getattr(torch, f"{format}_format" if format == "contiguous" else format)
    twin = peer_model(torch, model).to(memory_format=layout)
    x, y = torch.from_numpy(images).contiguous(memory_format=layout), torch.from_numpy(labels).long()
    optimizer = torch.optim.SGD(twin.parameters(), lr=LR, momentum=MOMENTUM)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(twin(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def compare(torch, batch: int, threads: int, seconds: float) -> dict[str, object]:
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    images = rng.random((batch, 1, 28, 28), np.float32)
    labels = rng.integers(0, 10, batch).astype(np.int32)
    model = lenet5()
    peers = {f"pytorch {f}": peer_step(torch, model, images, labels, f) for f in ("contiguous", "channels_last")}
    step = graphc.compile_training(
        model,
        input=images.shape,
        loss=nn.CrossEntropyLoss(),
        optimizer=graphc.optim.SGD(lr=LR, momentum=MOMENTUM),
        threads=threads,
    )
    programs = {"graphc": lambda: step(images, labels), **peers}
    losses = {name: [float(program()) for _ in range(STEPS_COMPARED)] for name, program in programs.items()}
    apart = max(abs(a - b) / abs(b) for p in peers for a, b in zip(losses["graphc"], losses[p], strict=True))
    if not apart < AGREE:
        raise SystemExit(f"losses differ by {apart:.2g} within {STEPS_COMPARED} steps, expected at most {AGREE}")
    timed = interleaved(programs, seconds)
    best = min(ms(timed[name]) for name in peers)
    return {
        "model": "lenet5",
        "batch": batch,
        "threads": threads,
        "graphc_ms": ms(timed["graphc"]),
        "10..90%": spread(timed["graphc"]),
        "eager_ms": ms(timed["pytorch contiguous"]),
        "channels_last_ms": ms(timed["pytorch channels_last"]),
        "ratio_to_best": ms(timed["graphc"]) / best,
        "loss_difference": apart,
    }


def main() -> None:
    options = arguments(__doc__, threads=[1, 2], batch=64, seconds=8.0)
    available, rows = cores(), []
    for threads in options.threads:
        if threads <= len(available):
            pin(available, threads)
            torch = peer("torch", "pip install torch==2.13.0")
            rows.append(compare(torch, options.batch, threads, options.seconds))
    show(
        "training step, SGD with momentum, graphc beside PyTorch (ratio below 1: graphc is faster)", rows, options.json
    )


if __name__ == "__main__":
    main()
