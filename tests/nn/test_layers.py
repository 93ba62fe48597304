"""Every layer against PyTorch's of the same name, arguments and weights: forward in float64, and its text."""

import re

import numpy as np
import pytest
from evaluate import evaluate, graph_of_call, run, sample

from graphc import compile_training, nn, optim
from graphc.ir import GraphcError
from graphc.passes import grad

torch = pytest.importorskip("torch")

# class, arguments, shape of the input. Both sides are built from the same row.
LAYERS = [
    ("Linear", (6, 4), {}, (3, 6)),
    ("Linear", (6, 4), {"bias": False}, (2, 5, 6)),
    ("Conv2d", (3, 8, 3), {}, (2, 3, 9, 8)),
    ("Conv2d", (4, 6, (3, 5)), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}, (2, 4, 11, 12)),
    ("Conv2d", (4, 4, 3), {"groups": 4, "bias": False, "padding": 1}, (1, 4, 7, 7)),
    ("Conv2d", (2, 3, (4, 3)), {"padding": "same", "dilation": (1, 2)}, (1, 2, 8, 9)),
    ("Conv2d", (2, 3, 3), {"padding": "valid", "stride": 2}, (1, 2, 8, 9)),
    ("BatchNorm1d", (5,), {}, (4, 5)),
    ("BatchNorm1d", (5,), {"eps": 1e-3, "momentum": 0.3}, (4, 5, 6)),
    ("BatchNorm2d", (3,), {}, (2, 3, 4, 5)),
    ("BatchNorm2d", (3,), {"affine": False}, (2, 3, 4, 5)),
    ("MaxPool2d", (2,), {}, (1, 2, 7, 8)),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, (1, 2, 9, 8)),
    ("MaxPool2d", ((2, 3),), {"stride": (1, 2), "dilation": (2, 1), "ceil_mode": True}, (1, 2, 9, 8)),
    ("AvgPool2d", (2,), {}, (1, 2, 7, 8)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1}, (1, 2, 9, 8)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}, (1, 2, 9, 8)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, (1, 2, 10, 8)),
    ("AvgPool2d", (3,), {"stride": 2, "ceil_mode": True, "count_include_pad": False}, (1, 2, 10, 8)),
    ("AvgPool2d", (2,), {"divisor_override": 3}, (1, 2, 4, 4)),
    ("AdaptiveAvgPool2d", (1,), {}, (2, 3, 7, 5)),
    ("AdaptiveAvgPool2d", ((3, 2),), {}, (2, 3, 9, 4)),
    ("AdaptiveAvgPool2d", ((None, 2),), {}, (2, 3, 5, 4)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Flatten", (0, 1), {}, (2, 3, 4)),
    ("ReLU", (), {}, (3, 4)),
    ("ReLU", (), {"inplace": True}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("GELU", (), {}, (3, 4)),
    ("GELU", ("tanh",), {}, (3, 4)),
    ("Softmax", (1,), {}, (3, 4)),
    ("Softmax", (-1,), {}, (3, 4, 2)),
    ("LogSoftmax", (1,), {}, (3, 4)),
    ("Identity", (), {}, (3, 4)),
    ("Dropout", (0.0,), {}, (3, 4)),
    ("Hardtanh", (), {}, (3, 4)),
    ("Hardtanh", (-0.5, 0.25), {}, (3, 4)),
    ("ReLU6", (), {}, (3, 4)),
    ("LeakyReLU", (), {}, (3, 4)),
    ("LeakyReLU", (0.3,), {}, (3, 4)),
    ("ELU", (), {}, (3, 4)),
    ("ELU", (0.5,), {}, (3, 4)),
    ("SiLU", (), {}, (3, 4)),
    ("Softplus", (), {}, (3, 4)),
    ("Softplus", (2.0, 1.0), {}, (3, 4)),
    ("Hardsigmoid", (), {}, (3, 4)),
    ("Hardswish", (), {}, (3, 4)),
    ("LayerNorm", (5,), {}, (3, 5)),
    ("LayerNorm", ((4, 5),), {"eps": 1e-3}, (2, 3, 4, 5)),
    ("LayerNorm", (5,), {"elementwise_affine": False}, (3, 5)),
    ("LayerNorm", (5,), {"bias": False}, (2, 3, 5)),
    ("RMSNorm", (5,), {}, (3, 5)),
    ("RMSNorm", ((4, 5),), {"eps": 1e-3, "elementwise_affine": False}, (2, 4, 5)),
    ("GroupNorm", (2, 6), {}, (2, 6, 3, 4)),
    ("GroupNorm", (1, 6), {"eps": 1e-3}, (2, 6, 5)),
    ("GroupNorm", (6, 6), {"affine": False}, (2, 6, 3, 4)),
    ("InstanceNorm2d", (3,), {}, (2, 3, 4, 5)),
    ("InstanceNorm2d", (3,), {"affine": True, "eps": 1e-3}, (2, 3, 4, 5)),
    ("ConvTranspose2d", (3, 5, 2), {"stride": 2}, (2, 3, 4, 5)),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, (1, 4, 5, 4)),
    ("ConvTranspose2d", (2, 3, (3, 2)), {"stride": (1, 3), "dilation": (2, 1), "bias": False}, (2, 2, 4, 3)),
    ("Upsample", (), {"scale_factor": 2}, (2, 3, 4, 5)),
    ("Upsample", (), {"scale_factor": (1, 3)}, (1, 2, 3, 2)),
    ("Upsample", ((8, 5),), {}, (1, 2, 4, 5)),
]


def name_of(row) -> str:
    return f"{row[0]}{row[1]}{row[2] or ''}".replace(" ", "")


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("row", LAYERS, ids=name_of)
def test_forward_and_gradients_equal_torch(row):
    """The result, and the gradients of the input and every parameter of the sum of its squares."""
    kind, arguments, options, shape = row
    ours, theirs = getattr(nn, kind)(*arguments, **options), getattr(torch.nn, kind)(*arguments, **options).double()
    stir(ours)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    x, parameters = sample(*shape), list(ours.parameters())
    xt = torch.tensor(x, requires_grad=True)
    wanted = theirs(xt + 0.0)  # a leaf must not change in place
    leaves = [xt, *theirs.parameters()]
    wanted = [wanted, *torch.autograd.grad((wanted * wanted).sum(), leaves)]

    def with_gradients(x):
        y = ours(x)
        return y, *grad((y * y).sum(), [x, *(p.tensor() for p in parameters)])

    for got, want in zip(run(with_gradients, x)[0], wanted, strict=True):
        # both sides compute in float64; constants such as 1/count and eps are rounded to float32 here
        want = want.detach().numpy()
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(want).max()))


def stir(model: nn.Module) -> None:
    """Weights that start as all ones or zeros would hide mistakes."""
    for i, p in enumerate(model.parameters()):
        if np.ptp(p.data) == 0:
            p.data = sample(*p.shape, seed=i).astype(np.float32)


# Not in our text: ReLU's `inplace`, which means nothing here, and options of norms that ours do not have.
@pytest.mark.parametrize("row", [r for r in LAYERS if r[0] not in ("ReLU", "Dropout")], ids=name_of)
def test_text_is_torchs(row):
    kind, arguments, options, _ = row
    theirs = repr(getattr(torch.nn, kind)(*arguments, **options))
    if "Norm" in kind:
        theirs = re.sub(r", (track_running_stats|bias)=\w+", "", theirs)
    assert repr(getattr(nn, kind)(*arguments, **options)) == theirs


@pytest.mark.parametrize("kind, shape", [("BatchNorm1d", (6, 3)), ("BatchNorm2d", (2, 3, 4, 5))])
def test_running_statistics_move_as_in_torch(kind, shape):
    ours, theirs = getattr(nn, kind)(3, momentum=0.25), getattr(torch.nn, kind)(3, momentum=0.25).double()
    for step in range(3):
        x = sample(*shape, seed=step) * 2 + 1
        theirs(torch.tensor(x))
        for name, value in run(ours, x)[1].items():
            getattr(ours, name).data = value
    for name, value in theirs.state_dict().items():
        # ours are stored in float32 after each step: 3 roundings of 2**-24 each
        np.testing.assert_allclose(getattr(ours, name).data, value, rtol=1e-6, err_msg=name)


def test_a_norm_called_twice_moves_its_statistics_twice():
    class Twice(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return self.norm(self.norm(x) * 3.0 + 1.0)

    x = sample(8, 3)
    theirs = torch.nn.BatchNorm1d(3).double()
    theirs(theirs(torch.tensor(x)) * 3.0 + 1.0)
    _, updates = run(Twice(nn.BatchNorm1d(3)), x)
    assert updates["norm.num_batches_tracked"] == 2
    np.testing.assert_allclose(updates["norm.running_mean"], theirs.running_mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(updates["norm.running_var"], theirs.running_var, rtol=1e-6)


def test_dropout_keeps_what_it_keeps_scaled():
    nn.init.seed(0)  # another test may have left another one
    x = np.ones((100, 100))
    y, updates = run(nn.Dropout(0.3), x)
    kept = y[0] != 0
    np.testing.assert_allclose(y[0][kept], 1 / 0.7, rtol=1e-6)
    assert abs(kept.mean() - 0.7) < 0.02  # 10,000 draws: 4 standard deviations of 0.0046
    assert updates["random.key"].tolist() == [0, 0, 1, 0]


def test_two_dropouts_draw_apart():
    both = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    streams = [n.op.stream for n in graph_of_call(both, np.ones((4, 4))).nodes if n.op.name == "dropout"]
    assert streams == [0, 1]
    kept = evaluate(both, np.ones((100, 100))) != 0
    assert abs(kept.mean() - 0.25) < 0.02  # one mask used twice would keep a half


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: nn.Conv2d(3, 8, 3, padding_mode="reflect"), "zeros only"),
        (lambda: nn.Conv2d(3, 8, 3, groups=2), "groups=2 must divide"),
        (lambda: nn.Conv2d(3, 8, 3, stride=2, padding="same"), "stride 1"),
        (lambda: nn.Conv2d(3, 8, (3, 3, 3)), "kernel_size must be"),
        (lambda: nn.BatchNorm2d(3, momentum=None), "fixed momentum"),
        (lambda: nn.BatchNorm2d(3, track_running_stats=False), "running statistics"),
        (lambda: nn.GroupNorm(4, 6), "num_groups=4 must divide"),
        (lambda: nn.InstanceNorm2d(3, track_running_stats=True), "no running statistics"),
        (lambda: nn.MultiheadAttention(6, 4), "num_heads=4 must divide"),
        (lambda: nn.ConvTranspose2d(3, 8, 3, groups=2), "groups=2 must divide"),
        (
            lambda: evaluate(nn.ConvTranspose2d(3, 8, 3, output_padding=1), np.zeros((1, 3, 5, 5))),
            "less than the stride",
        ),
        (lambda: evaluate(nn.ConvTranspose2d(3, 8, 3), np.zeros((1, 4, 5, 5))), "expects 3 channels"),
        (lambda: evaluate(nn.LayerNorm(4), np.zeros((3, 5))), "ends in 4, got 3x5"),
        (lambda: evaluate(nn.InstanceNorm2d(3), np.zeros((1, 4, 5, 5))), "expects 3 channels"),
        (lambda: evaluate(nn.Upsample(scale_factor=1.5), np.zeros((1, 1, 4, 4))), "1.5 by 1.5 times"),
        (lambda: evaluate(nn.Upsample(scale_factor=2, mode="bilinear"), np.zeros((1, 1, 4, 4))), "must be 'nearest'"),
        (lambda: nn.Dropout(1.0), r"\[0, 1\)"),
        (lambda: evaluate(nn.Conv2d(3, 8, 3, padding="some"), np.zeros((1, 3, 5, 5))), "'same' or 'valid'"),
        (lambda: evaluate(nn.BatchNorm2d(3), np.zeros((2, 3))), "input of 4 dimensions, got 2"),
        (lambda: evaluate(nn.AdaptiveAvgPool2d(3), np.zeros((1, 1, 7, 7))), "cannot pool 7x7 to 3x3"),
        (lambda: evaluate(nn.Softmax(2), np.zeros((1, 1))), "dimension 2 is out of range"),
    ],
)
def test_what_a_layer_refuses(make, said):
    with pytest.raises(GraphcError, match=said):
        make()


def test_norms_frozen_by_eval_keep_their_statistics():
    """The part of the network that eval() froze takes its running statistics, also in the gradient; the rest learns.
    PyTorch's step is the oracle."""

    def made(lib):
        return lib.Sequential(
            lib.Linear(4, 5), lib.BatchNorm1d(5), lib.Linear(5, 3), lib.BatchNorm1d(3), lib.Dropout(0.5)
        )

    mine, theirs = made(nn), made(torch.nn)
    for name, p in mine.named_state():
        if "tracked" not in name:
            p.data = np.abs(sample(*p.shape, seed=len(name))).astype(np.float32) + 0.5
    theirs.load_state_dict({n: torch.from_numpy(np.array(p.data)) for n, p in mine.named_state()})
    for net in (mine, theirs):
        net.train()
        net[1].eval()
        net[4].eval()
    step = compile_training(mine, (6, 4), loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    x, y = sample(6, 4).astype(np.float32), sample(6, 3, seed=1).astype(np.float32)
    for _ in range(3):
        loss = torch.nn.functional.mse_loss(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(step(x, y), loss.item(), rtol=1e-5)
    for name, want in theirs.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[name], want.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    assert mine[1].num_batches_tracked.data == 0
    assert mine[3].num_batches_tracked.data == 3


def test_the_mode_of_the_whole_decides_nothing():
    """A network left in eval() trains all the same."""
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    step = compile_training(net.eval(), (6, 4), loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    step(sample(6, 4).astype(np.float32), sample(6, 5).astype(np.float32))
    assert net[1].num_batches_tracked.data == 1
