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
ODD_SHARE = 40  # % of the rate of the nearest multiple of 16 channels


def goals_of(part: str, threads: int) -> Goals:
    """Of a part of the report. The aims of inference are for one thread."""
    table = {"inference": INFERENCE, "batch8": BATCH8, "training": TRAINING}[part]
    return table.without_aims() if part == "inference" and threads > 1 else table


# "part-threads/row" -> why the row misses its goal, found by measurement. Rows that meet theirs show no reason.
VGG16 = (
    "at the machine's best 113 ms: its products need 80 at the measured peak, the linear layers 16 for 379 MB at the "
    "memory's rate. Tiles of 8x8, for F(6x6, 3x3), or of 6x8 were tried: the whole network took 1.02 to 1.04 of "
    "the time, as tiles no longer divide the maps, their transforms are dearer and a step leaves the second-level cache"
)
UNET = (
    "alone on the machine 90 ms, of which its products would need 77 at the measured peak; larger tiles took 1.02 to "
    "1.24 of the time, as on vgg16, and those of 8x8 lose more precision than is allowed"
)
VIT_STEP = (
    "its multiply-adds need 1,060 ms of one core at 95 GFLOP/s, the step takes 1,270 to 1,350: packs 20, sums of norms "
    "and biases 22, GELU and its slope 15, AdamW in the weight gradients 13 and more where its state comes from "
    "memory; products of attention run at 65 to 77 % of that peak, PyTorch's large products at 79 to 92 %"
)
LENET5_STEP = (
    "of 33 ms 13.5 are gradients of 5x5 weights with 1 and 20 channels, direct at 50 GFLOP/s (transforms of 6x6 for "
    "2x2 results would take more memory than PyTorch), 10.4 the second convolution and its image's gradient, filtered"
)
PRODUCTS = "direct products run at 85 to 98 % of the FMA peak alone on the machine, which leaves little to win"
RESNET50 = (
    "67 ms when the machine is quiet, most products at 90 to 99 % of the FMA peak, which leaves little to win, and 79 "
    "and 85 in these runs"
)
ALEXNET = "the linear layers stream 179 MB at the memory's rate, which takes 6 of 14 ms"
RESNET18 = (
    "alone on the machine 18 to 20 ms: 4.3 for the last stage's products, whose 54 MB of transformed weights come from "
    "memory, 3.7 for three 3x3 convolutions of stride 2, where Winograd's filtering saved no time"
)
MEAN = "resnet50, mobilenet_v1 and vit_s16 are products near the FMA peak in the peers as well, and keep the mean down"
REASONS: dict[str, str] = {
    "inference-1/vgg16": VGG16,
    "inference-2/vgg16": VGG16,
    "inference-1/unet": UNET,
    "inference-2/unet": UNET,
    "inference-1/geometric mean": MEAN,
    "inference-1/resnet18": RESNET18,
    "inference-1/alexnet": ALEXNET,
    "inference-2/alexnet": ALEXNET,
    "inference-1/resnet50": RESNET50,
    "inference-2/resnet50": PRODUCTS,
    "inference-1/mobilenet_v1": PRODUCTS,
    "inference-2/mobilenet_v1": PRODUCTS,
    "inference-1/vit_s16": PRODUCTS,
    "training-1/lenet5": LENET5_STEP,
    "training-1/lenet5-adam": LENET5_STEP,
    "training-2/lenet5": LENET5_STEP,
    "training-2/lenet5-adam": LENET5_STEP,
    "training-1/vit_s16": VIT_STEP,
    "training-2/vit_s16": VIT_STEP,
}
