"""The DSL: modules, layers, functions, losses, optimizers, initialisations, with PyTorch's names and conventions."""

from . import functional, init, optim
from .activations import ELU, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, ReLU6, SiLU, Softplus
from .attention import MultiheadAttention
from .containers import ModuleList, Sequential
from .layers import (
    GELU,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from .losses import CrossEntropyLoss, MSELoss
from .module import Module
from .norms import GroupNorm, InstanceNorm2d, LayerNorm, RMSNorm
from .parameter import Buffer, Parameter
from .trace import Trace, trace
from .upsampling import ConvTranspose2d, Upsample

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "InstanceNorm2d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "Trace",
    "Upsample",
    "functional",
    "init",
    "optim",
    "trace",
]
