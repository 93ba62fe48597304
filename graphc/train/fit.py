"""`fit`: a model and labelled data enter; the model leaves trained, by compiled steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np

from graphc.compiled import CompiledNetwork
from graphc.driver import backend_of, compile, compile_training, name_of, traced
from graphc.ir import Graph, GraphcError, Node, TensorType, dims, scope
from graphc.nn import CrossEntropyLoss, Module
from graphc.nn.optim import SGD, Optimizer
from graphc.ops import leaf

from .data import Dataset
from .history import Epoch, History
from .progress import Display
from .trainer import check_request, train


class Compiled:
    """The programs of a training run (`trainer.Programs`): a compiled step, and inference compiled when it is asked."""

    def __init__(self, model: Module, shape: tuple[int, ...], loss: Callable, optimizer: Optimizer,
                 precision: str | None = None, **options):  # fmt: skip
        """`shape` is the network's input with the batch, `precision` that of a step, `options` those of `compile`:
        backend, threads, cpu."""
        self._model, self._shape, self._loss, self._options = model, shape, loss, options
        self._step = compile_training(model, shape, loss=loss, optimizer=optimizer, precision=precision, **options)
        self._network: CompiledNetwork | None = None
        self._stale = False

    def prepare(self, batch: int) -> None:
        self._step.prepare(batch)

    def step(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        self._stale = True
        loss = self._step(images, labels)
        return loss, self._step.scores

    def scores(self, images: np.ndarray) -> np.ndarray:
        """A batch smaller than the compiled one is filled up: one program serves them all."""
        if self._network is None:
            self._network = compile(self._model, self._shape, **self._options)
        elif self._stale:
            self._network.refresh()
        self._stale = False
        full = np.zeros(self._shape, np.float32)
        full[: len(images)] = images
        return self._network(full)[: len(images)]

    def weights(self) -> Mapping[str, np.ndarray]:
        return self._model.state_dict()

    def save(self) -> object:
        return self._step.save()

    def restore(self, saved: object) -> None:
        self._step.restore(saved)

    def first_not_finite(self, images: np.ndarray, labels: np.ndarray) -> str:
        graph = forward_graph(self._model, images.shape, self._loss)
        return first_not_finite(graph, (images, labels), self._step.save(), self._model)


def forward_graph(model: Module, shape: tuple[int, ...], loss: Callable) -> Graph:
    """Network and loss in training form, with every value in between among the outputs, in the order of the nodes."""
    found = traced(model, [TensorType("f32", shape)])
    target = leaf("input", "target", loss.target(found.outputs[0].type))
    with scope("loss"):
        value = loss(found.outputs[0], target)
    graph = found.graph(name_of(model), [value], [target])
    return graph.replace(outputs=tuple(v for node in graph.nodes for v in node.outputs), updates=())


def first_not_finite(graph: Graph, inputs: tuple, data: Mapping[str, np.ndarray], model: Module) -> str:
    """The first of weights, then layers, with a number that is not finite, told as its name, kind and line."""
    for value in graph.weights:
        if not np.isfinite(data[value.name]).all():
            return f"the weight {value.name}"
    needed = {value.name for value in graph.leaves}
    data = {name: array for name, array in data.items() if name in needed}
    results, _ = backend_of("reference").run(graph, inputs, np.float32, data)
    made = [node for node in graph.nodes for _ in node.outputs]
    for node, array in zip(made, results, strict=True):
        if not np.isfinite(array).all():
            return describe(node, model)
    return "none when the batch is computed again in NumPy: the numbers lie at the edge of float32"


def describe(node: Node, model: Module) -> str:
    """`features.0 (Conv2d), lenet5.py:14`: the line that made the layer, else the one that computed."""
    module = dict(model.named_modules()).get(node.scope) if node.scope else None
    kind = type(module).__name__ if module else node.op.name
    where = module.declared if module else node.where
    what = f"{node.scope} ({kind})" if node.scope else kind
    return f"{what}, {where}" if where else what


def fit(
    model: Module,
    data: Dataset,
    validation: Dataset | None = None,
    *,
    epochs: int = 10,
    batch: int = 64,
    loss: Callable | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    threads: int = 1,
    backend: str = "llvm",
    precision: str | None = None,
    checkpoint: str | os.PathLike | None = None,
    show: Display | None = None,
    notify: Callable[[Epoch], None] | None = None,
) -> History:
    """Trains `model` in place on `data`, images float32 (N, ...) and labels int32 (N,), in shuffled batches.

    loss        cross entropy by default
    optimizer   SGD with lr 0.01 and momentum 0.9 by default
    backend, threads, precision   as of `compile_training`
    seed        of the order of samples; the model's initial weights have their own
    checkpoint  a safetensors file, written as a whole after each epoch
    show        a progress bar on a terminal by default, else nothing; `notify` is called after each epoch

    Raises GraphcError for data that does not fit the model, TrainingError for a loss that is not finite.
    """
    check_request(data, epochs, batch)
    if validation is not None and validation.sample_shape != data.sample_shape:
        raise GraphcError(
            f"{validation.name}: samples have another shape than those of {data.name}\n"
            f"  expected {dims(data.sample_shape)}, got {dims(validation.sample_shape)}"
        )
    programs = Compiled(
        model,
        (batch, *data.sample_shape),
        loss or CrossEntropyLoss(),
        optimizer or SGD(lr=0.01, momentum=0.9),
        precision,
        backend=backend,
        threads=threads,
    )
    return train(
        programs,
        data,
        validation,
        epochs=epochs,
        batch=batch,
        seed=seed,
        checkpoint=checkpoint,
        show=show,
        notify=notify,
    )
