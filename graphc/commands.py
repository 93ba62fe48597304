"""What the commands of the command line do: parsed arguments enter, text on standard output and files leave.

Each command is a function of its arguments and returns the exit status. Progress and remarks go to standard error.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import numpy as np

from graphc import driver
from graphc.accuracy import accuracy, random_input
from graphc.files import check_writable, write_whole
from graphc.frontend.answers import Answer, save
from graphc.frontend.arrays import read_array
from graphc.frontend.networks import Network, find
from graphc.ir import NUMPY, Graph, GraphcError, dims, show
from graphc.nn import CrossEntropyLoss, init
from graphc.nn.optim import SGD, Adam, AdamW, Optimizer
from graphc.passes import run_passes
from graphc.schedule import show as show_schedule
from graphc.train import History, Splits, fit, load, load_weights
from graphc.train.progress import describe

INITIAL = "initial"
OPTIMIZERS: Mapping[str, Callable[[Namespace], Optimizer]] = {
    "sgd": lambda a: SGD(a.lr, momentum=a.momentum, weight_decay=a.weight_decay),
    "adam": lambda a: Adam(a.lr, weight_decay=a.weight_decay),
    "adamw": lambda a: AdamW(a.lr, weight_decay=a.weight_decay),
}


# What arguments mean


def network(a: Namespace, sample: tuple[int, ...] | None = None) -> Network:
    """The network of MODEL. `sample`: the shape of one sample of the data, where there is data."""
    init.seed(getattr(a, "seed", 0))
    return find(a.model, a.input or (sample and (1, *sample)), a.batch, a.classes)


def with_weights(a: Namespace, sample: tuple[int, ...] | None = None) -> Network:
    """The network with the weights of --weights, a file or `initial`."""
    found = network(a, sample)
    if a.weights != INITIAL:
        weights = load_weights(a.weights)
        try:
            found.model.load_state_dict(weights)
        except GraphcError as error:
            raise GraphcError(f"weight file {a.weights}: {error}") from None
    return found


def preprocess(a: Namespace) -> driver.Preprocess | None:
    """What --scale, --mean and --std ask for, or None."""
    given = {name: getattr(a, name) for name in ("scale", "mean", "std") if getattr(a, name) is not None}
    return driver.Preprocess(**given) if given else None


def labels(path: str | None, classes: int | None) -> tuple[str, ...]:
    """The lines of a label file: one a class."""
    if path is None:
        return ()
    if classes is None:
        raise GraphcError("--labels: needs a network with one output of shape (N, classes), which this is not")
    try:
        lines = tuple(Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise GraphcError(f"label file {path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(lines) != classes:
        raise GraphcError(f"label file {path}: expected {classes} labels, one a line, got {len(lines)}")
    return lines


def classes_of(outputs: Sequence) -> int | None:
    """The classes of a network with one output of shape (N, classes)."""
    return outputs[0].shape[1] if len(outputs) == 1 and len(outputs[0].shape) == 2 else None


# Commands


def summary(a: Namespace) -> int:
    found = network(a)
    report = driver.summary(found.model, found.shape, train=a.train, name=found.name)
    if a.json:
        print(report.json())
        return 0
    for path, text in ((a.markdown, report.markdown), (a.html, report.html)):
        if path == "-":
            print(text())
        elif path:
            write_text(path, text())
            print(f"wrote {path}", file=sys.stderr)
    if not a.markdown and not a.html:
        print(report)
    return 0


def write_text(path: str, text: str) -> None:
    write_whole(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def train(a: Namespace) -> int:
    splits = load(a.data, a.seed)
    check_writable(a.out)
    found = with_weights(a, splits.train.sample_shape)
    start = perf_counter()
    history = fit(
        found.model,
        splits.train,
        splits.test,
        epochs=a.epochs,
        batch=a.batch,
        loss=CrossEntropyLoss(),
        optimizer=OPTIMIZERS[a.optimizer](a),
        seed=a.seed,
        threads=a.threads,
        backend=a.backend,
        precision=a.precision,
        checkpoint=a.out,
    )
    seconds = perf_counter() - start
    if a.json:
        epochs = [asdict(epoch) for epoch in history.epochs]
        print(json.dumps({"model": found.name, "weights": a.out, "seconds": seconds, "epochs": epochs}))
        return 0
    print(trained(found.name, splits, history, seconds))
    print(f"wrote {a.out} ({os.path.getsize(a.out):,} bytes)")
    return 0


def trained(name: str, splits: Splits, history: History, seconds: float) -> str:
    """What came of a training run, in two lines."""
    last, total = history.last, len(history.epochs)
    return (
        f"{name} on {len(splits.train):,} images in {seconds:.1f} s: {describe(last, total)}\n"
        f"test accuracy {100 * last.test_accuracy:.2f} % of {len(splits.test):,} images it has not seen"
    )


def run(a: Namespace) -> int:
    found = with_weights(a)
    before = preprocess(a)
    net = driver.compile(
        found.model,
        found.shape,
        backend=a.backend,
        threads=a.threads,
        precision=a.precision,
        preprocess=before,
        name=found.name,
    )
    inputs, outputs = net.graph.inputs, net.graph.outputs
    names = labels(a.labels, classes_of(outputs))
    if len(a.inputs) % len(inputs):
        raise GraphcError(f"{found.name} takes {len(inputs)} INPUTs a run, got {len(a.inputs)}")
    answers = []
    for at in range(0, len(a.inputs), len(inputs)):
        files = tuple(a.inputs[at : at + len(inputs)])
        arrays = net.program(*(read_array(f, v.type) for f, v in zip(files, inputs, strict=True)))
        arrays = tuple(np.asarray(array, NUMPY[v.dtype]) for array, v in zip(arrays, outputs, strict=True))
        answers.append(Answer(files, arrays, names))
    if a.output:
        save(a.output, [array for answer in answers for array in answer.outputs])
    if a.json:
        print(json.dumps({"program": found.name, "results": [answer.data(a.top) for answer in answers]}))
        return 0
    for answer in answers:
        print("\n".join(answer.lines(a.top)))
    return 0


def build(a: Namespace) -> int:
    check_writable(a.out)
    found = with_weights(a)
    types = driver.traced(found.model, driver.input_types(found.shape)).outputs
    names = labels(a.labels, classes_of(types))
    start = perf_counter()
    driver.build(
        found.model,
        found.shape,
        a.out,
        cpu=a.cpu,
        threads=a.threads,
        precision=a.precision,
        preprocess=preprocess(a),
        labels=names,
        name=found.name,
    )
    seconds, size = perf_counter() - start, os.path.getsize(a.out)
    if a.json:
        print(json.dumps({"model": found.name, "file": a.out, "bytes": size, "seconds": seconds}))
        return 0
    path = a.out if os.path.dirname(a.out) else os.path.join(".", a.out)
    print(f"wrote {a.out} ({size:,} bytes) in {seconds:.1f} s; try {path} --help")
    return 0


def bench(a: Namespace) -> int:
    found = network(a)
    start = perf_counter()
    net = driver.compile(
        found.model, found.shape, backend=a.backend, threads=a.threads, precision=a.precision, name=found.name
    )
    compiled = perf_counter() - start
    inputs = [random_input(v.type) for v in net.graph.inputs]
    seconds = timed(lambda: net(*inputs), a.seconds)
    macs = driver.summary(found.model, found.shape, name=found.name).totals.macs
    figures = {
        "model": found.name,
        "batch": found.shape[0],
        "threads": a.threads,
        "backend": a.backend,
        "compile_seconds": compiled,
        "runs": len(seconds),
        "median_ms": 1e3 * statistics.median(seconds),
        "p10_ms": 1e3 * float(np.quantile(seconds, 0.1)),
        "p90_ms": 1e3 * float(np.quantile(seconds, 0.9)),
        "best_ms": 1e3 * min(seconds),
        "gmacs_per_second": macs / statistics.median(seconds) / 1e9,
    }
    kernels = driver.kernel_times(net.program, a.backend) if a.kernels else None
    errors = accuracy(found.model, found.shape, a.threads, found.name, a.backend) if a.accuracy else []
    if a.json:
        more = kernels.data() if kernels else {}
        more |= {"accuracy": {e.precision: {"rms": e.rms, "max": e.max} for e in errors}} if errors else {}
        print(json.dumps(figures | more))
        return 0
    print(
        f"{found.name}, input {dims(found.shape)}, {a.threads} thread{'s' * (a.threads > 1)}: "
        f"{figures['median_ms']:.3f} ms a run (median of {len(seconds)}; 10th to 90th percentile "
        f"{figures['p10_ms']:.3f} to {figures['p90_ms']:.3f})\n"
        f"{found.shape[0] * 1e3 / figures['median_ms']:,.0f} images/s, {figures['gmacs_per_second']:.1f} GMAC/s, "
        f"compiled in {compiled:.2f} s"
    )
    print(*filter(None, [kernels]), *errors, sep="\n", end="\n" if kernels or errors else "")
    return 0


def timed(call: Callable[[], object], seconds: float, warm: int = 3, least: int = 5) -> list[float]:
    """Seconds of each call, for about `seconds` in all."""
    for _ in range(warm):
        call()
    taken, end = [], perf_counter() + seconds
    while perf_counter() < end or len(taken) < least:
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return taken


def show_stage(a: Namespace) -> int:
    found = network(a)
    a.backend = "cuda" if a.stage == "cuda" else a.backend
    a.precision = a.precision or (driver.training_precision(a.backend) if a.train else "fast")
    if a.after and a.stage != "graph":
        raise GraphcError(f"--after goes with --stage graph, got --stage {a.stage}")
    text = STAGES[a.stage](a, found)
    print(text, end="" if text.endswith("\n") else "\n")
    return 0


def source_graph(a: Namespace, found: Network) -> Graph:
    if a.train:
        return driver.training_graph(found.model, found.shape, CrossEntropyLoss(), SGD(lr=0.01, momentum=0.9))
    return driver.traced_graph(found.model, found.shape, name=found.name)


def graph_text(a: Namespace, found: Network) -> str:
    """The graph after --after, the last pass of that name; after all passes without it."""
    pipeline = pipeline_of(a)
    names = ["trace", *(step.__name__ for step in pipeline)]
    after = a.after or names[-1]
    if after not in names:
        raise GraphcError(f"--after {after}: no such pass\n  expected one of {', '.join(dict.fromkeys(names))}")
    last = len(names) - 1 - names[::-1].index(after)
    return show(run_passes(source_graph(a, found), pipeline[:last]))


def pipeline_of(a: Namespace):
    return driver.pipeline_of(a.precision, a.backend, a.train)


def schedule_text(a: Namespace, found: Network) -> str:
    graph = run_passes(source_graph(a, found), pipeline_of(a))
    if (schedule := driver.schedule_of(graph, a.backend, a.precision)) is None:
        raise GraphcError(f"the {a.backend} backend has no schedule: it runs the graph")
    return show_schedule(schedule)


def cuda_text(a: Namespace, found: Network) -> str:
    """CUDA C, which is emitted without a GPU."""
    graph = run_passes(source_graph(a, found), pipeline_of(a))
    return driver.backend_of("cuda").source(driver.schedule_of(graph, "cuda", a.precision), a.precision)


def source_text(kind: str) -> Callable[[Namespace, Network], str]:
    """Generated code of one kind, from the program."""

    def text(a: Namespace, found: Network) -> str:
        if a.train:
            loss, optimizer = CrossEntropyLoss(), SGD(lr=0.01, momentum=0.9)
            settings = {"loss": loss, "optimizer": optimizer, "precision": a.precision}
            made = driver.compile_training(found.model, found.shape, **settings)
        else:
            made = driver.compile(found.model, found.shape, precision=a.precision, name=found.name)
        return made.program.source[kind]

    return text


STAGES: Mapping[str, Callable[[Namespace, Network], str]] = {
    "graph": graph_text,
    "schedule": schedule_text,
    "llvm": source_text(".ll"),
    "asm": source_text(".s"),
    "cuda": cuda_text,
}
