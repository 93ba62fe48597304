"""Attention against PyTorch's: values and gradients in float64, masks, parameter names; and on the compiled backend."""

import numpy as np
import pytest
from evaluate import evaluate, run, sample

import graphc
from graphc import nn
from graphc.backends import reference
from graphc.ir import GraphcError
from graphc.nn import functional as F
from graphc.passes import grad

torch = pytest.importorskip("torch")

MASKS = {
    "none": (None, False),
    "causal": (None, True),
    "added": (sample(5, 7, seed=9), False),
    "boolean": (np.arange(35).reshape(5, 7) % 3 != 1, False),
}


@pytest.mark.parametrize("name", MASKS)
def test_scaled_dot_product_attention(name):
    mask, causal = MASKS[name]
    operands = sample(2, 3, 5, 8), sample(2, 3, 7, 8, seed=1), sample(2, 3, 7, 4, seed=2)

    def ours(q, k, v):
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return y, *grad((y * y).sum(), [q, k, v])

    leaves = [torch.tensor(a, requires_grad=True) for a in operands]
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *leaves, attn_mask=None if mask is None else torch.tensor(mask), is_causal=causal
    )
    wanted = [theirs, *torch.autograd.grad((theirs * theirs).sum(), leaves)]
    for got, want in zip(run(ours, *operands)[0], wanted, strict=True):
        # float64 on both sides, but for the scale and an added mask, which graphs hold in float32
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}], ids=str)
def test_multihead_attention(options):
    ours, theirs = nn.MultiheadAttention(6, 3, **options), torch.nn.MultiheadAttention(6, 3, **options).double()
    state = ours.state_dict()
    assert {n: a.shape for n, a in state.items()} == {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    state = {n: sample(*a.shape, seed=i).astype(np.float32) for i, (n, a) in enumerate(state.items())}
    ours.load_state_dict(state)
    theirs.load_state_dict({n: torch.tensor(a) for n, a in state.items()})
    query, key, value = sample(4, 2, 6), sample(5, 2, 6, seed=1), sample(5, 2, 6, seed=2)
    if options.get("batch_first"):
        query, key, value = (a.swapaxes(0, 1) for a in (query, key, value))
    got = run(lambda *x: ours(*x), query, key, value)[0]
    for a, b in zip(got, theirs(*map(torch.tensor, (query, key, value))), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_first_weights_are_drawn_as_in_torch():
    ours, theirs = nn.MultiheadAttention(64, 4), torch.nn.MultiheadAttention(64, 4)
    for name, array in ours.state_dict().items():
        # 4096 draws and more: the standard deviation scatters by 1 / sqrt(2 * 4096), 1 %
        assert array.std() == pytest.approx(theirs.state_dict()[name].std().item(), rel=0.05), name


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("first", [False, True], ids=["sequence first", "batch first"])
def test_compiled_attention_gives_the_reference_numbers(batch, first):
    """Lengths and widths that fill no vector; every operand of the products is a view of something else."""
    model = nn.MultiheadAttention(21, 3, batch_first=first)
    x = graphc.input((batch, 19, 21) if first else (19, batch, 21), name="x")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = model

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    net = graphc.compile(Net(), x.shape)
    array = np.random.default_rng(0).standard_normal(x.shape, np.float32)
    net.program.poison()
    ((want,), _) = reference.run(net.graph, [array])
    np.testing.assert_allclose(net(array), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda q: F.scaled_dot_product_attention(q, q[:, :, :3], q), "do not fit"),
        (lambda q: nn.MultiheadAttention(8, 2)(q, q, q), "expects sequences of 8 features"),
    ],
)
def test_what_attention_refuses(call, said):
    with pytest.raises(GraphcError, match=said):
        evaluate(call, sample(2, 5, 6))
