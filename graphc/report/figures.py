"""The report as data: what enters a renderer. One `Layer` a row, the `Totals`, and where they come from.

All figures are of one execution on the inputs' shapes, the batch included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from graphc.ir import Value
from graphc.ir.frozen import frozen

Shape = tuple[int, ...]


@frozen
class Window:
    """The sliding window of a convolution or pool, one number an axis."""

    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int = 1


@frozen
class Layer:
    """One call of a layer, or one functional op.

    `name` is unique: the module path (`features.0`), or for a functional op the path of the module that computes it and
    the op (`layer1.0.add`); a further call is `name#2`. `op` is the layer's class, or the op's name. `weights` are the
    parameters it reads, `buffers` what it reads beside them (running statistics); `params` counts the elements of those
    weights that no earlier row counted, `shared` names the others. `activation_bytes` is the size of its last output,
    `receptive_field` the extent of the input that one element of it sees, None where the input is no image.
    """

    name: str
    path: tuple[str, ...]
    op: str
    window: Window | None
    output_shape: Shape
    weights: Mapping[str, Shape]
    buffers: Mapping[str, Shape]
    shared: frozenset[str]
    params: int
    macs: int
    flops: int
    activation_bytes: int
    receptive_field: Shape | None


@frozen
class TrainingBytes:
    """Memory of one training step beside the weights, in bytes; `total` holds the weights too."""

    gradients: int
    optimizer_state: int
    saved_activations: int
    total: int


@frozen
class Totals:
    """Sums over the graph; weights count once. `peak_activation_bytes` is the arena of the memory plan, None before
    there is one."""

    params: int
    trainable_params: int
    macs: int
    flops: int
    weight_bytes: int
    buffer_bytes: int
    peak_activation_bytes: int | None
    training: TrainingBytes | None


@frozen
class Figures:
    """A whole report. `kinds` maps module paths to class names; `unused` names parameters that nothing reads."""

    model: str
    inputs: tuple[Value, ...]
    layers: tuple[Layer, ...]
    totals: Totals
    kinds: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
