"""From the user's network to a program: trace, passes, schedule, backend, and nothing else.

`compile` makes an in-process program for inference, `compile_training` a training step, `build` an executable,
`summary` the report. The one place that names backends.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.compiled import CompiledNetwork, CompiledStep, KernelTimes, Program
from graphc.ir import (
    Graph,
    GraphcError,
    GraphcTypeError,
    GraphcValueError,
    ShapeError,
    TensorType,
    dims,
    located,
    plain_name,
    scope,
)
from graphc.ir.compiling import compiling
from graphc.ir.lazy import lazily
from graphc.nn import CrossEntropyLoss, Module
from graphc.nn.optim import SGD, Optimizer
from graphc.nn.preprocess import Preprocess
from graphc.nn.trace import Trace, trace
from graphc.ops import Tensor, graph_of, leaf
from graphc.ops.norm import BatchNorm
from graphc.passes import (
    FAST_INFERENCE,
    FAST_TRAINING,
    INFERENCE,
    TRAINING,
    build_backward,
    build_update,
    debug_level,
    dump,
    inference_mode,
    narrow,
    reassociate,
    report,
    run_passes,
)

if TYPE_CHECKING:
    from graphc.report import Summary, TrainingBytes
    from graphc.schedule import Schedule

# Loaded when a network is first compiled or reported: a third of what `import graphc` would take.
scheduling, reporting = lazily("graphc.schedule"), lazily("graphc.report")

BACKENDS = ("llvm", "cuda", "reference")
Shapes = Sequence[int] | Sequence[Sequence[int]] | None


def backend_of(name: str):
    """The backend's module: `compile(schedule, graph, ...)`, the precisions it offers, the `TRAITS` of the machine it
    wants schedules for (None: it runs the graph), and `build(...)` where it makes executables."""
    if name not in BACKENDS:
        raise GraphcError(f"no backend {name!r}\n  expected one of {', '.join(BACKENDS)}")
    return importlib.import_module(f"graphc.backends.{name}")


# Graphs


def input_types(input: Shapes, dtype: str = "f32") -> list[TensorType]:
    """Types from one shape or several."""
    if input is None:
        raise GraphcTypeError("the network's input shape is missing\n  give it, e.g. compile(model, (1, 3, 224, 224))")
    numbers = not isinstance(input, Sequence) or not all(isinstance(n, Sequence) for n in input)
    shapes = [input] if numbers or not input else list(input)
    for shape in shapes:
        if isinstance(shape, str) or not isinstance(shape, Sequence) or not all(map(is_extent, shape)):
            got = f"an array (its shape is {tuple(input.shape)})" if isinstance(input, np.ndarray) else repr(input)
            raise GraphcValueError(
                f"input shape: got {got}\n  expected positive whole numbers, batch first\n"
                "  e.g. (1, 3, 224, 224), or a list of such shapes for several inputs"
            )
    return [TensorType(dtype, tuple(s)) for s in shapes]


def is_extent(number: object) -> bool:
    return isinstance(number, int | np.integer) and number > 0


def name_of(model: object) -> str:
    """A network's name: its `name` attribute, else its class or function."""
    given = getattr(model, "name", None)
    if isinstance(given, str) and given:
        return given
    found = type(model).__name__ if isinstance(model, Module) else getattr(model, "__name__", "graph")
    return found.lower() if found.isidentifier() else "graph"


def input_names(count: int) -> list[str]:
    return ["input"] if count == 1 else [f"input{i}" for i in range(count)]


def traced(model: Callable, types: Sequence[TensorType], preprocess: Preprocess | None = None) -> Trace:
    """The network called on symbolic inputs."""
    inputs = [leaf("input", n, t) for n, t in zip(input_names(len(types)), types, strict=True)]
    if preprocess is None:
        return trace(model, inputs)
    if not isinstance(preprocess, Preprocess):
        raise GraphcTypeError(
            f"preprocess: got {preprocess!r}\n  expected a graphc.Preprocess, e.g. graphc.Preprocess(scale=1/255)"
        )
    raw = leaf("input", "input", TensorType(preprocess.dtype, types[0].shape))
    found = trace(model, [preprocess(raw), *inputs[1:]])
    return Trace((raw, *inputs[1:]), found.outputs, found.updates, found.leaves)


def traced_graph(model: object, input: Shapes, preprocess: Preprocess | None = None, name: str | None = None) -> Graph:
    """The graph of a module, function, tensor or list of tensors as the user wrote it, in training form."""
    name = plain_name(name or name_of(model))
    if isinstance(model, Tensor) or (
        isinstance(model, Sequence) and model and all(isinstance(t, Tensor) for t in model)
    ):
        return graph_of(name, [model] if isinstance(model, Tensor) else list(model))
    if not callable(model):
        raise GraphcTypeError(f"cannot compile {model!r}\n  expected a module, a function of tensors, or tensors")
    return traced(model, input_types(input), preprocess).graph(name)


def training_graph(model: Callable, input: Shapes, loss: Callable, optimizer) -> Graph:
    """One whole training step as a graph: inputs are the network's and the loss's target, outputs the loss and the
    network's outputs, updates the new weights, statistics and optimizer state."""
    check_training(model, loss, optimizer)
    found = traced(model, input_types(input))
    scores = found.outputs[0]
    target = leaf("input", "target", loss.target(scores.type))
    with scope("loss"):
        value = loss(scores, target)
    if value.shape != ():
        raise GraphcError(
            f"the loss has shape {dims(value.shape)}\n  expected one number; use reduction='mean' or 'sum'"
        )
    graph = found.graph(plain_name(name_of(model)), [value, *found.outputs], [target])
    for node in graph.nodes:
        x = node.inputs[0] if node.inputs else None
        if isinstance(node.op, BatchNorm) and x.type.elements == x.shape[1]:
            error = ShapeError(
                f"training needs more than one value a channel, got {dims(x.shape)}; take a larger batch"
            )
            raise located(error, node.where, f"{node.scope} (BatchNorm)")
    if not [w for w in graph.weights if w.name not in graph.frozen]:
        raise GraphcError(f"{graph.name} has no trainable weights")
    return build_update(build_backward(reassociate(narrow(graph))), optimizer)


def check_training(model: object, loss: object, optimizer: object) -> None:
    """Raises GraphcTypeError for a network, loss or optimizer that is none, such as its class."""
    rules = (
        ("model", model, callable(model), "a network, e.g. nn.Linear(4, 2)"),
        ("loss", loss, callable(loss) and hasattr(loss, "target"), "a loss module, e.g. nn.CrossEntropyLoss()"),
        ("optimizer", optimizer, isinstance(optimizer, Optimizer), "e.g. graphc.optim.SGD(lr=0.01)"),
    )
    for name, value, holds, expected in rules:
        if isinstance(value, type) or not holds:
            hint = f"\n  write {value.__name__}(...)" if isinstance(value, type) else ""
            raise GraphcTypeError(f"{name}: got {value!r}\n  expected {expected}{hint}")


# Programs


def compile(model, input: Shapes = None, *, backend: str = "llvm", threads: int = 1, cpu: str = "native",
            precision: str = "fast", preprocess: Preprocess | None = None, name: str | None = None
            ) -> CompiledNetwork:  # fmt: skip
    """An in-process inference program.

    model       a Module, a function of tensors, a tensor or a list of tensors
    input       shape of the f32 input with the batch, e.g. (1, 3, 224, 224), or a list of shapes; not needed for
                tensors, whose inputs are taken in the order they were made
    backend     "llvm"; "cuda" for the GPU that is current in CuPy; "reference" for NumPy in float64, op by op
    threads     how many threads a call uses, 1 to 1024; the result's bits do not depend on it
    cpu         "native", or a level such as "x86-64-v3"
    precision   "fast" computes convolutions, those with 3x3 to 5x5 taps for each pixel of a stride, by Winograd's
                filtering where that is less work. One convolution then rounds up to five times as much as "exact",
                the outputs of the zoo's networks about as much; both stay within 1e-5 of the output's scale there. The
                weights of large linear layers for one row (8 MiB, sums of 2048 terms or more) are stored in 24 bits
                with a scale for every 64, which changes results by less than such a sum rounds; those that are infinite
                or NaN still make results so. On a GPU "fast" multiplies by the tensor cores, which round operands to
                tf32 (10 bits), "bf16" likewise to bfloat16 (7 bits), and "exact" in float32
    preprocess  arithmetic on the first input that belongs to the program

    The result is called with arrays of exactly these shapes and types, and gives an array, or a tuple of them. Weights
    are taken as they are now; `refresh` of the result takes them again. Raises GraphcError for what the network or the
    request gets wrong: the user's line, what was expected and what came.
    """

    def lower() -> tuple[Graph, Schedule | None]:
        graph = run_passes(source, pipeline)
        return graph, schedule_of(graph, backend, precision)

    with compiling():
        source, pipeline = traced_graph(model, input, preprocess, name), pipeline_of(precision, backend)
        graph, schedule = lower()
        program = program_of(backend, schedule, graph, threads, cpu, precision)

    def build_again(path, **options) -> None:
        build(model, input, path, name=name, **{"preprocess": preprocess, "precision": precision, **options})

    return CompiledNetwork(source, graph, schedule, program, build_again, lower)


def pipeline_of(precision: str, backend: str = "llvm", training: bool = False):
    """The passes of a program of inference, or of a training step. "fast" means Winograd's filtering, unless the
    backend has another way to save arithmetic."""
    made_by = backend_of(backend)
    if precision not in made_by.PRECISIONS:
        raise GraphcError(f"precision: the {backend} backend has {', '.join(made_by.PRECISIONS)}, got {precision!r}")
    fast = precision == "fast" and filters(backend)
    if training:
        return FAST_TRAINING if fast else TRAINING
    return FAST_INFERENCE if fast else INFERENCE


def filters(backend: str) -> bool:
    """Whether "fast" means Winograd's filtering, which keeps every product in float32."""
    traits = backend_of(backend).TRAITS
    return traits is None or traits.winograd


def training_precision(backend: str) -> str:
    """That of a training step where none is asked for."""
    return "fast" if filters(backend) else "exact"


def schedule_of(graph: Graph, backend: str, precision: str) -> Schedule | None:
    """The graph's schedule for the machine of a backend; None where that runs the graph itself."""
    traits = backend_of(backend).TRAITS
    if traits is None:
        return None
    return scheduling.make_schedule(graph, traits.exact if precision == "exact" else traits)


def program_of(
    backend: str, schedule: Schedule | None, graph: Graph, threads: int, cpu: str, precision: str
) -> Program:
    """The backend's program, shown and dumped as GRAPHC_DEBUG and GRAPHC_DUMP ask."""
    if not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise GraphcError(f"threads: expected a number from 1 to 1024, got {threads!r}")
    made_by = backend_of(backend)
    program = made_by.compile(schedule, graph, threads=threads, cpu=cpu, precision=precision)
    if debug_level() >= 1 and program.making:
        report(f"{graph.name}: {program.making}")
    if os.environ.get("GRAPHC_DUMP"):
        for kind, text in program.source.items():
            dump(f"{graph.name}{kind}", str, text)
    if debug_level() >= 2 and schedule is not None:
        report(str(made_by.kernel_times(program)))
    return program


def compile_training(model: Callable, input: Shapes = None, *, loss, optimizer, backend: str = "llvm",
                     threads: int = 1, cpu: str = "native", precision: str | None = None) -> CompiledStep:  # fmt: skip
    """A compiled training step: forward, gradients and update in one call of `step(images, target) -> loss`.

    input      shape of the network's f32 input with the batch, or a list of shapes
    loss       a loss module such as nn.CrossEntropyLoss(), which gives one number
    optimizer  a description such as optim.SGD(lr=0.01, momentum=0.9)
    backend, threads, cpu   as of `compile`
    precision  "fast" computes convolutions and their gradients by Winograd's filtering where that is less work; on a
               GPU it lets the tensor cores round what they multiply, as "bf16" does. "exact" sums float32 products
               directly. By default "fast" on a processor, "exact" on a GPU

    The target has the type that the loss asks for: i32 classes [N] for CrossEntropyLoss. The loss comes back as a
    float, from before the update. The model's weights live in the program from now on and are updated in place:
    model.state_dict() shows them. A batch of another size is compiled when it first comes, over the same weights and
    optimizer state. Raises GraphcError, as `compile` does.
    """
    types = input_types(input)
    with compiling():
        precision = precision or training_precision(backend)
        pipeline = pipeline_of(precision, backend, training=True)

    def program(batch: int):
        shapes = [(batch, *t.shape[1:]) for t in types]
        with compiling():
            graph = run_passes(training_graph(model, shapes, loss, optimizer), pipeline)
            schedule = schedule_of(graph, backend, precision)
            return graph, schedule, program_of(backend, schedule, graph, threads, cpu, precision)

    parameters = dict(model.named_state()) if isinstance(model, Module) else {}
    return CompiledStep(program, types[0].shape[0], parameters)


def build(model, input: Shapes, path: str | os.PathLike, *, cpu: str = "portable", threads: int = 1,
          precision: str = "fast", preprocess: Preprocess | None = None, labels: Sequence[str] = (),
          name: str | None = None, cc: str | None = None) -> None:  # fmt: skip
    """Write a static executable: the network, its weights, and a command line around them.

    path        where to; it appears there whole or not at all
    cpu         "portable" runs on every x86-64 with AVX2 and FMA and uses AVX-512 where it is; "native" or a level
                makes one for that alone; "aarch64" one for 64-bit Arm, which needs the ziglang package elsewhere
    precision   "fast" or "exact", as of `compile`
    preprocess  arithmetic on the input that belongs to the program, e.g. Preprocess(scale=1/255) to take image bytes
    labels      a name for each class
    threads     how many the program uses when it is not told with --threads
    name        of the network, for the program's messages; the file's name without it
    cc          "cc" or "zig" to link with that one; without it a C compiler that links statically, else ziglang

    Raises GraphcError for what the network or the request gets wrong, and where the program cannot be compiled.
    """
    source = traced_graph(model, input, preprocess, name or os.path.basename(os.fspath(path)).split(".")[0])
    graph = run_passes(source, pipeline_of(precision))
    schedule = schedule_of(graph, "llvm", precision)
    told = report_of(source, schedule, model).terminal(80)
    backend_of("llvm").build(path, schedule, graph, cpu=cpu, threads=threads, labels=tuple(labels), cc=cc, summary=told)


# Reports


def kernel_times(program: Program, backend: str = "llvm") -> KernelTimes:
    """Every kernel of a program timed and held against the limits of the machine."""
    made_by = backend_of(backend)
    if not hasattr(made_by, "kernel_times"):
        raise GraphcError(f"the {backend} backend has no kernels to time")
    return made_by.kernel_times(program)


def summary(model, input: Shapes = None, *, train: bool = False, loss=None, optimizer=None,
            name: str | None = None) -> Summary:  # fmt: skip
    """The report of a network: layers, parameters, MACs, FLOPs, and memory in bytes from the actual plan, as data that
    prints as a table. No weight is made. `model` and `input` are those of `compile`.

    `train` adds the memory of one training step with `loss` and `optimizer` (cross entropy and plain SGD by default).
    A MAC is one multiply-add of a convolution or matrix product. Raises GraphcError, as `compile` does.
    """
    source = traced_graph(model, input, name=name)
    schedule = scheduling.make_schedule(run_passes(source, FAST_INFERENCE))
    training = training_bytes(model, input, loss, optimizer) if train else None
    return report_of(source, schedule, model, training)


def report_of(source: Graph, schedule: Schedule, model, training: TrainingBytes | None = None) -> Summary:
    modules = dict(model.named_modules()) if isinstance(model, Module) else {}
    kinds = {path: type(module).__name__ for path, module in modules.items()}
    parameters = [n for n, _ in model.named_parameters()] if isinstance(model, Module) else None
    return reporting.summarise(
        inference_mode(source), schedule.arena_bytes, training, kinds=kinds, parameters=parameters
    )


def training_bytes(model, input: Shapes, loss=None, optimizer=None) -> TrainingBytes:
    """Memory of one training step, from its plan: what the forward half keeps for the backward half is what lives
    across the kernel that finishes the loss."""
    step = training_graph(model, input, loss or CrossEntropyLoss(), optimizer or SGD(lr=0.01))
    graph = run_passes(step, FAST_TRAINING)
    schedule = scheduling.make_schedule(graph)
    trained = [v for v in graph.weights if v.name not in graph.frozen]
    turn = next(i for i, k in enumerate(schedule.kernels) if schedule.outputs[0] in scheduling.kernels.writes(k))
    saved = [n for n, (first, last) in schedule.lifetimes.items() if first < turn < last]
    return reporting.TrainingBytes(
        gradients=sum(v.type.bytes for v in trained),
        optimizer_state=sum(v.type.bytes for v in graph.state if v.name.startswith("optimizer.")),
        saved_activations=sum(schedule.buffers[n].bytes for n in saved),
        total=schedule.arena_bytes + schedule.state_bytes,
    )
