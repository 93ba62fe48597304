"""The model zoo: networks by name, each with the input shape it is meant for."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from graphc.ir import GraphcError
from graphc.ir.frozen import frozen
from graphc.nn import Module

from .alexnet import AlexNet, alexnet
from .lenet5 import LeNet5, lenet5
from .mlp import MLP, mlp
from .mobilenet_v1 import MobileNetV1, mobilenet_v1
from .resnet import ResNet, resnet18, resnet50
from .unet import UNet, unet
from .vgg16 import VGG16, vgg16
from .vit_s16 import ViT, vit_s16


@frozen
class Entry:
    """`make(classes=, in_channels=)` constructs the network; `input` is its default input shape, batch included."""

    make: Callable[..., Module]
    input: tuple[int, ...]


ZOO: dict[str, Entry] = {
    "mlp": Entry(mlp, (1, 1, 28, 28)),
    "lenet5": Entry(lenet5, (1, 1, 28, 28)),
    "alexnet": Entry(alexnet, (1, 3, 224, 224)),
    "vgg16": Entry(vgg16, (1, 3, 224, 224)),
    "resnet18": Entry(resnet18, (1, 3, 224, 224)),
    "resnet50": Entry(resnet50, (1, 3, 224, 224)),
    "mobilenet_v1": Entry(mobilenet_v1, (1, 3, 224, 224)),
    "unet": Entry(unet, (1, 1, 256, 256)),
    "vit_s16": Entry(vit_s16, (1, 3, 224, 224)),
}


def get(name: str) -> Entry:
    """The zoo's entry, or an error that names the near ones."""
    if name not in ZOO:
        near = difflib.get_close_matches(name.lower(), ZOO, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "is it a file? then write file.py:Class"
        raise GraphcError(f"no model is called {name!r}\n  there are: {', '.join(ZOO)}\n  {hint}")
    return ZOO[name]


__all__ = [
    "MLP",
    "VGG16",
    "ZOO",
    "AlexNet",
    "Entry",
    "LeNet5",
    "MobileNetV1",
    "ResNet",
    "UNet",
    "ViT",
    "alexnet",
    "get",
    "lenet5",
    "mlp",
    "mobilenet_v1",
    "resnet18",
    "resnet50",
    "unet",
    "vgg16",
    "vit_s16",
]
