"""Training: data sets, the loop over compiled steps, checkpoints, and the demonstration."""

from .checkpoints import WeightFileError, load_weights, save_weights
from .data import DataError, Dataset, Splits, digits, load
from .fit import fit
from .history import Epoch, History
from .trainer import TrainingError

__all__ = [
    "DataError",
    "Dataset",
    "Epoch",
    "History",
    "Splits",
    "TrainingError",
    "WeightFileError",
    "digits",
    "fit",
    "load",
    "load_weights",
    "save_weights",
]
