"""`fit` on both backends: compiled steps learn, partial batches share the state, validation sees today's weights."""

import numpy as np
import pytest

from graphc import GraphcError, nn, optim
from graphc.train import Dataset, TrainingError, fit, load_weights

BACKENDS = ("reference", "llvm")


def stripes(n: int = 44) -> Dataset:
    """1x4x4 images with a bright row (class 0) or a bright column (class 1), and noise."""
    rng = np.random.Generator(np.random.Philox(2))
    labels = (np.arange(n) % 2).astype(np.int32)
    images = rng.normal(size=(n, 1, 4, 4)).astype(np.float32) * 0.2
    for image, label, at in zip(images[:, 0], labels, rng.integers(0, 4, n), strict=True):
        (image if label == 0 else image.T)[at] += 1
    return Dataset("stripes", images, labels)


def network() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)
    )
    return layers


def run(backend: str, **options):
    model, data = network(), stripes()
    history = fit(
        model,
        data,
        data,
        batch=16,
        optimizer=optim.SGD(lr=0.1, momentum=0.9),
        backend=backend,
        **{"epochs": 6, **options},
    )
    return model, history


@pytest.fixture(scope="module", params=BACKENDS)
def trained(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "w.safetensors"
    return *run(request.param, checkpoint=path), path


def test_learns(trained):
    _, history, _ = trained
    assert history.last.loss < 0.2 < history.epochs[0].loss
    assert history.last.test_accuracy >= 0.95


def test_checkpoint_holds_the_models_weights(trained):
    model, _, path = trained
    state = model.state_dict()
    saved = load_weights(path)
    assert saved.keys() == state.keys() and all(np.array_equal(saved[name], state[name]) for name in state)


def test_backends_agree():
    """Three steps, the last on the partial batch: what separates the two is the rounding of float32."""
    results = [run(backend, epochs=1) for backend in BACKENDS]
    (reference, first), (compiled, second) = results
    assert first.last.loss == pytest.approx(second.last.loss, rel=1e-5)
    for name, expected in reference.state_dict().items():
        # Some 100 sums of numbers below 10: 1e-5 of the scale leaves room for every order of summation.
        scale = max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(compiled.state_dict()[name], expected, atol=1e-5 * scale, err_msg=name)


def test_threads_and_runs_give_the_same_bits():
    one, again = run("llvm", epochs=2, threads=1)[0], run("llvm", epochs=2, threads=2)[0]
    assert all(
        np.array_equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True)
    )


class Square(nn.Module):
    def forward(self, x):
        return x * x


def test_loss_not_finite_names_the_layer():
    data = stripes(16)
    huge = Dataset("huge", data.images * np.float32(1e30), data.labels)
    model = nn.Sequential(nn.Flatten(), Square(), nn.Linear(16, 2))
    with pytest.raises(TrainingError, match="epoch 1, batch 1: the loss is") as caught:
        fit(model, huge, epochs=1, batch=16)
    assert "1 (Square)" in str(caught.value) and "test_fit.py" in str(caught.value)


def test_diverging_training_names_a_layer_and_not_the_spoiled_weights():
    """Weights of 1e20 are finite and make scores that are not: the weights from before the step are looked at."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2))
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf)[\s\S]*first that is not: [12] \(Linear\), .*test_fit"
    ):
        fit(model, stripes(), epochs=5, batch=16, optimizer=optim.SGD(lr=1e20))


def test_labels_must_be_classes_of_the_network():
    data = stripes()
    with pytest.raises(GraphcError, match="labels from 2 to 3"):
        fit(network(), Dataset("d", data.images, data.labels + 2), epochs=1, batch=16, backend="reference")


def test_validation_of_another_shape():
    other = Dataset("other", np.zeros((4, 1, 5, 5), np.float32), np.zeros(4, np.int32))
    with pytest.raises(GraphcError, match="expected 1x4x4, got 1x5x5"):
        fit(network(), stripes(), other, epochs=1, batch=16)


def test_data_of_another_shape_than_the_network_takes():
    with pytest.raises(GraphcError, match="expects 16 inputs, got 25"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        fit(model, Dataset("d", np.zeros((4, 1, 5, 5), np.float32), np.zeros(4, np.int32)), epochs=1, batch=4)
