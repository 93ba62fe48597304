"""graphc: a neural-network graph compiler. Networks in Python become programs, for inference and for training."""

from graphc import nn
from graphc.driver import build, compile, compile_training, summary
from graphc.ir import GraphcError
from graphc.nn import optim
from graphc.nn.functional import (
    abs,
    concat,
    erf,
    exp,
    log,
    matmul,
    max,
    maximum,
    mean,
    minimum,
    relu,
    reshape,
    sigmoid,
    sqrt,
    sum,
    tanh,
    transpose,
    where,
)
from graphc.nn.init import seed
from graphc.nn.preprocess import Preprocess
from graphc.ops import Tensor, constant, input
from graphc.passes import grad
from graphc.version import __version__

__all__ = [
    "GraphcError",
    "Preprocess",
    "Tensor",
    "__version__",
    "abs",
    "build",
    "compile",
    "compile_training",
    "concat",
    "constant",
    "erf",
    "exp",
    "grad",
    "input",
    "log",
    "matmul",
    "max",
    "maximum",
    "mean",
    "minimum",
    "nn",
    "optim",
    "relu",
    "reshape",
    "seed",
    "sigmoid",
    "sqrt",
    "sum",
    "summary",
    "tanh",
    "transpose",
    "where",
]
