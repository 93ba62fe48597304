"""`report`: the summary of a module or function of tensors, as `graphc.summary` makes it."""

import pytest

from graphc import nn
from graphc.ops import input
from graphc.passes.inference_mode import inference_mode
from graphc.report import summarise


@pytest.fixture
def report():
    def make(model, *shapes, name="net", **options):
        inputs = [input(shape, f"x{i}") for i, shape in enumerate(shapes)]
        graph = inference_mode(nn.trace(model, inputs).graph(name))
        if isinstance(model, nn.Module):
            options.setdefault("kinds", {path: type(m).__name__ for path, m in model.named_modules()})
            options.setdefault("parameters", [n for n, _ in model.named_parameters()])
        return summarise(graph, **options)

    return make
