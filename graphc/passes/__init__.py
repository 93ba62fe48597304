"""Passes: each takes a graph and gives a graph, the same object where nothing changed. One file a pass.

The pipelines below are run by `run_passes`, which verifies the graph after every pass.
"""

from .build_backward import build_backward, grad
from .build_update import StateMaker, build_update
from .debug import debug_level, dump, report
from .decompose import decompose
from .eliminate_common import eliminate_common
from .eliminate_dead import eliminate_dead
from .fold_batch_norm import fold_batch_norm
from .fold_constants import fold_constants
from .freeze_weights import freeze_weights
from .infer import infer
from .inference_mode import inference_mode
from .narrow import narrow
from .reassociate import reassociate
from .runner import run_passes
from .simplify import simplify
from .use_winograd import use_winograd

# From a traced graph to one that answers.
INFERENCE = (
    inference_mode,  # dropout and batch statistics go before anything is spent on them
    freeze_weights,  # nothing trains from here on: weights are constants
    narrow,  # what no output needs is not computed, and need not be looked at
    reassociate,  # of the few rows that may be left, products are cheaper in another order
    simplify,  # identities in the user's code, so that patterns lie bare
    fold_batch_norm,  # while convolutions and norms can still be told
    decompose,  # to the ops that have loops
    simplify,  # what decompositions left
    fold_constants,  # the arithmetic on weights that folding and decomposing wrote down
    eliminate_common,  # equal expressions once
    eliminate_dead,  # weights that were folded away
)

# The same, with convolutions by Winograd's minimal filtering where that is less work.
FAST_INFERENCE = (
    inference_mode,
    freeze_weights,
    narrow,
    reassociate,
    simplify,
    fold_batch_norm,
    decompose,
    use_winograd,  # convolutions are bare by now, and their weights not yet folded
    simplify,
    fold_constants,  # transforms the weights too
    eliminate_common,
    eliminate_dead,
)

# From a training step, that is after build_backward and build_update, to one in primitive ops.
TRAINING = (
    simplify,  # gradients are full of ones and broadcasts
    decompose,  # to the ops that have loops; forward and backward write down equal statistics
    simplify,  # what decompositions left
    fold_constants,  # arithmetic on constants
    eliminate_common,  # statistics and masks that forward and backward share
    eliminate_dead,  # gradients nobody asked for
)

# The same, with convolutions and their gradients by Winograd's minimal filtering where that is less work.
FAST_TRAINING = (
    simplify,
    decompose,
    simplify,
    fold_constants,
    eliminate_common,
    use_winograd,  # after common expressions: kept from forward to backward, transformed images take too much memory
    fold_constants,  # weights that are not trained
    eliminate_dead,
)

__all__ = [
    "FAST_INFERENCE",
    "FAST_TRAINING",
    "INFERENCE",
    "TRAINING",
    "StateMaker",
    "build_backward",
    "build_update",
    "debug_level",
    "decompose",
    "dump",
    "eliminate_common",
    "eliminate_dead",
    "fold_batch_norm",
    "fold_constants",
    "freeze_weights",
    "grad",
    "infer",
    "inference_mode",
    "narrow",
    "reassociate",
    "report",
    "run_passes",
    "simplify",
    "use_winograd",
]
