"""What the tables are held against: speed-ups over the best peer of a run, `required` and `aim`; why rows miss them.

A speed-up is the best peer's time over graphc's. Keys of the tables are the benchmarks' rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Goal(NamedTuple):
    required: float
    aim: float | None = None

    def verdict(self, speedups: list[float]) -> str:
        """What the worst of several runs meets. Figures count as they are shown, with two decimals."""
        worst = round(min(speedups), 2)
        if worst < self.required:
            return "**missed**"
        return "required" if self.aim is None or worst < self.aim else "aim"


@dataclass(frozen=True)
class Goals:
    """The goals of one table: by row, and of the geometric mean of all rows that have one."""

    rows: dict[str, Goal]
    mean: Goal | None = None

    def without_aims(self) -> Goals:
        return Goals({k: Goal(g.required) for k, g in self.rows.items()}, self.mean and Goal(self.mean.required))


INFERENCE = Goals(
    {
        "lenet5": Goal(1.2, 1.5),
        "alexnet": Goal(1.1, 1.45),
        "vgg16": Goal(1.6, 2.0),
        "resnet18": Goal(1.4, 1.8),
        "resnet50": Goal(1.15, 1.45),
        "mobilenet_v1": Goal(1.05, 1.25),
        "unet": Goal(1.4, 1.9),
        "vit_s16": Goal(1.05, 1.17),
    },
    Goal(1.3, 1.55),
)
BATCH8 = Goals(dict.fromkeys(INFERENCE.rows, Goal(1.0)))
TRAINING = Goals(
    {
        "mlp": Goal(1.1, 1.5),
        "lenet5": Goal(1.3, 2.0),
        "lenet5-adam": Goal(1.3, 2.0),
        "resnet18-32": Goal(1.1, 1.6),
        "resnet18-224": Goal(1.1, 1.6),
        "vit_s16": Goal(1.3, 2.0),
    }
)
ODD_SHARE = 40  # % of what the same work costs at the nearest multiple of 16 channels


def goals_of(part: str, threads: int) -> Goals:
    """Of a part of the report. The aims of inference are for one thread."""
    table = {"inference": INFERENCE, "batch8": BATCH8, "training": TRAINING}[part]
    return table.without_aims() if part == "inference" and threads > 1 else table


# "part-threads/row" -> why the row misses its goal, found by measurement. Rows that meet theirs show no reason.
VIT_STEP = (
    "92 % of a step are products. On a core of its own they run at 146 to 167 of 168 GFLOP/s, MKL's at 140, and a step "
    "of one thread takes 685 to 700 ms, PyTorch's 1.33 to 1.36 times as long. While something else runs on the core's "
    "other hardware thread MKL's run at 0.94 of the rate of these, and what is left to gain is PyTorch's memory "
    "traffic between them. AMX, each float32 as the sum of three bfloat16, took 0.7 of the time of the products for "
    "some seconds and 1.4 of it for others; and its bits differ"
)
LENET5_STEP = (
    "of 15 ms 4.9 are the gradient of the second convolution's weights, direct, 5.0 that convolution and its image's "
    "gradient, filtered, whose 20 and 50 channels fill 63 and 78 % of the vectors"
)
PRODUCTS = (
    "alone on the machine three quarters of resnet50's products run at 85 to 99 % of the FMA peak, vit_s16's at 84 to "
    "94 %, which leaves little to win"
)
MOBILENET = (
    "5.8 ms alone on the machine, of which its products would need 5.05 at the measured peak; depthwise convolutions "
    "take 0.47, the classifier's weights 0.13"
)
LENET5 = (
    "the first linear layer streams its weights, 3.9 MB in 24 bits, more than the second-level cache holds, at 15 to "
    "20 GB/s, most of the time there is; the peers stream 4.9 MB"
)
RESNET18 = (
    "three products of the last stage take 4.6 of 14.7 ms, for 50 MB of transformed weights at the memory's rate, "
    "which is 14 GB/s at most here"
)
REASONS: dict[str, str] = {
    "inference-1/resnet18": RESNET18,
    "inference-1/lenet5": LENET5,
    "inference-1/resnet50": PRODUCTS,
    "inference-1/mobilenet_v1": MOBILENET,
    "inference-1/vit_s16": PRODUCTS,
    "training-1/lenet5": LENET5_STEP,
    "training-1/lenet5-adam": LENET5_STEP,
    "training-2/lenet5": LENET5_STEP,
    "training-2/lenet5-adam": LENET5_STEP,
    "training-1/vit_s16": VIT_STEP,
    "training-2/vit_s16": VIT_STEP,
}
