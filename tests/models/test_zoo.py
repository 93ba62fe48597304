"""The zoo: published sizes to the last parameter, torchvision's names, and forward passes that agree with PyTorch."""

import numpy as np
import pytest
from evaluate import sample

from graphc import nn
from graphc.backends import reference
from graphc.ir import GraphcError, parse, show, verify
from graphc.models import ZOO, get, lenet5, mlp, resnet18, resnet50
from graphc.ops import input
from graphc.passes.inference_mode import inference_mode

# Parameters (LeNet-5: the course's; else torchvision's documentation), and MACs of one default input by hand or by
# torchvision's documentation (in GMAC: alexnet 0.71, vgg16 15.47, resnet18 1.81, resnet50 4.09).
SIZES = {
    "mlp": (669_706, 784 * 512 + 512 * 512 + 512 * 10),
    "lenet5": (1_256_080, 392_000 + 4_900_000 + 1_225_000 + 5_000),
    "alexnet": (61_100_840, 714_188_480),
    "vgg16": (138_357_544, 15_470_264_320),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet50": (25_557_032, 4_089_184_256),
    "mobilenet_v1": (4_231_976, 568_740_352),
    "unet": (7_759_554, 12_035_555_328),
    "vit_s16": (22_050_664, 4_598_882_304),
}


def graph_of_model(name: str):
    entry = get(name)
    return verify(nn.trace(entry.make(), [input(entry.input, "x")]).graph(name))


@pytest.mark.parametrize("name", ZOO)
def test_size(name):
    graph = graph_of_model(name)
    trained = sum(v.type.elements for v in graph.weights if v.name not in graph.frozen)
    macs = sum(n.op.cost(*(v.type for v in n.inputs)).macs for n in graph.nodes)
    assert (trained, macs) == SIZES[name]


@pytest.mark.parametrize("name", ZOO)
def test_text_goes_round(name):
    text = show(graph_of_model(name))
    assert show(parse(text)) == text


@pytest.mark.parametrize("name", ZOO)
def test_classes_and_channels_are_arguments(name):
    entry = get(name)
    n, c, *size = entry.input
    model = entry.make(classes=7, in_channels=c + 1)
    assert nn.trace(model, [input((n, c + 1, *size), "x")]).outputs[0].shape[:2] == (1, 7)


# Names and shapes of a few weights, torchvision's documentation of each network.
NAMES = {
    "alexnet": {"features.3.weight": (192, 64, 5, 5), "features.10.bias": (256,), "classifier.6.weight": (1000, 4096)},
    "vgg16": {"features.28.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 25088)},
    "resnet18": {"layer2.0.downsample.0.weight": (128, 64, 1, 1), "layer4.1.bn2.running_var": (512,)},
    "resnet50": {"layer1.0.downsample.1.weight": (256,), "layer4.0.conv2.weight": (512, 512, 3, 3)},
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_torchvisions(name):
    shapes = {n: p.shape for n, p in get(name).make().named_state()}
    assert {n: shapes.get(n) for n in NAMES[name]} == NAMES[name]


def test_number_of_entries_is_torchvisions():
    counts = {n: len(list(get(n).make().named_state())) for n in NAMES}
    assert counts == {"alexnet": 16, "vgg16": 32, "resnet18": 122, "resnet50": 320}


def inferred(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """The inference of a model in float64."""
    graph = inference_mode(nn.trace(model, [input(x.shape, "x")]).graph("model"))
    return reference.run(verify(graph), [x])[0][0]


class Names(dict):
    """A state_dict as torch's float64, which knows what was asked for."""

    def __init__(self, model: nn.Module):
        torch = pytest.importorskip("torch")
        super().__init__({n: torch.tensor(a.astype(np.float64)) for n, a in model.state_dict().items()})
        self.left = {n for n in self if not n.endswith("num_batches_tracked")}

    def __getitem__(self, name):
        self.left.discard(name)
        return super().__getitem__(name)


def torch_sequence(state: Names, x, steps: str):
    """Runs `pool`, `relu`, `flatten` and layers by name in PyTorch; a convolution's padding keeps the extents."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    for step in steps.split():
        if step in ("pool2", "pool3"):
            x = F.max_pool2d(x, int(step[-1]), 2)
        elif step in ("relu", "flatten"):
            x = F.relu(x) if step == "relu" else x.flatten(1)
        elif state[f"{step}.weight"].ndim == 2:
            x = F.linear(x, state[f"{step}.weight"], state[f"{step}.bias"])
        else:
            w = state[f"{step}.weight"]
            eleven = w.shape[-1] == 11
            x = F.conv2d(x, w, state[f"{step}.bias"], 4 if eleven else 1, 2 if eleven else w.shape[-1] // 2)
    return x


CHAINS = {
    "mlp": "flatten layers.1 relu layers.3 relu layers.5",
    "lenet5": "features.0 pool2 features.2 pool2 flatten classifier.0 relu classifier.2",
    "alexnet": "features.0 relu pool3 features.3 relu pool3 features.6 relu features.8 relu features.10 relu pool3 "
    "flatten classifier.1 relu classifier.4 relu classifier.6",
}
VGG16 = "0 relu 2 relu pool2 5 relu 7 relu pool2 10 relu 12 relu 14 relu pool2 17 relu 19 relu 21 relu pool2 "
VGG16 += "24 relu 26 relu 28 relu pool2"


@pytest.mark.parametrize("name", CHAINS)
def test_chains_infer_as_in_torch(name):
    torch = pytest.importorskip("torch")
    model, x = get(name).make(), sample(*get(name).input)
    state = Names(model)
    wanted = torch_sequence(state, torch.tensor(x), CHAINS[name])
    assert not state.left
    np.testing.assert_allclose(inferred(model, x), wanted, rtol=1e-9, atol=1e-12)


def test_vgg16_features_infer_as_in_torch():
    """On 32x32, where the whole network's 7x7 pool has nothing to pool."""
    torch = pytest.importorskip("torch")
    features, x = get("vgg16").make().features, sample(1, 3, 32, 32)
    steps = [
        "0",
        "relu",
        "2",
        "relu",
        "pool2",
        "5",
        "relu",
        "7",
        "relu",
        "pool2",
        "10",
        "relu",
        "12",
        "relu",
        "14",
        "relu",
        "pool2",
    ]
    steps += ["17", "relu", "19", "relu", "21", "relu", "pool2", "24", "relu", "26", "relu", "28", "relu", "pool2"]
    state = Names(features)
    wanted = torch_sequence(state, torch.tensor(x), VGG16)
    assert not state.left
    np.testing.assert_allclose(inferred(features, x), wanted, rtol=1e-9, atol=1e-12)


def torch_resnet(state: Names, x, depths: tuple[int, ...]):
    """A residual network from its weights' names alone; the stride is on the first 3x3 convolution of a block."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def conv_norm(x, conv: str, bn: str, stride: int):
        w = state[f"{conv}.weight"]
        x = F.conv2d(x, w, None, stride, w.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{bn}.{n}"] for n in names), training=False)

    x = F.max_pool2d(F.relu(conv_norm(x, "conv1", "bn1", 2)), 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for i in range(depth):
            at, stride, y = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1, x
            numbers = [n for n in (1, 2, 3) if f"{at}.conv{n}.weight" in state]
            strided = next(n for n in numbers if state[f"{at}.conv{n}.weight"].shape[-1] == 3)
            for n in numbers:
                y = conv_norm(F.relu(y) if n > 1 else y, f"{at}.conv{n}", f"{at}.bn{n}", stride if n == strided else 1)
            down = f"{at}.downsample"
            x = F.relu(y + (conv_norm(x, f"{down}.0", f"{down}.1", stride) if f"{down}.0.weight" in state else x))
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("make, depths", [(resnet18, (2, 2, 2, 2)), (resnet50, (3, 4, 6, 3))])
def test_resnets_infer_as_in_torch(make, depths):
    torch = pytest.importorskip("torch")
    model, x = make(), sample(2, 3, 64, 64)
    for i, (name, buffer) in enumerate(model.named_buffers()):
        if name.endswith(("mean", "var")):
            buffer.data = np.abs(sample(*buffer.shape, seed=i)) * 0.2 + 0.5
    state = Names(model)
    wanted = torch_resnet(state, torch.tensor(x), depths)
    assert not state.left
    # eps is rounded to float32, 2**-24 relative of 1e-5, through 50 layers
    np.testing.assert_allclose(inferred(model, x), wanted, rtol=1e-6, atol=1e-9)


def test_models_of_other_sizes():
    assert sum(p.size for p in mlp(hidden=(32,), size=8).parameters()) == 64 * 32 + 32 + 32 * 10 + 10
    assert lenet5(classes=3).classifier[2].out_features == 3


def test_names_that_are_nearly_right():
    for wrong, right in [("lenet", "lenet5"), ("ResNet18", "resnet18"), ("vgg", "vgg16")]:
        with pytest.raises(GraphcError, match=f"did you mean .*{right}"):
            get(wrong)
    with pytest.raises(GraphcError, match="there are: mlp, lenet5, alexnet, vgg16, resnet18, resnet50"):
        get("transformer")
