"""The gradients of 3x3 convolutions by Winograd's products, against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.layers import ResidualConv
from pipeline.winograd import _gradients, pays


def distance(tensor, exact):
    return ((tensor - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("shape", [(1, 3, 5, 4, 4), (2, 8, 4, 12, 8), (3, 16, 16, 4, 20)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_are_those_of_the_convolution(shape, layout):
    n, c, k, height, width = shape
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, height + 2, width + 2, generator=draw).contiguous(memory_format=layout)
    weight = torch.randn(k, c, 3, 3, generator=draw)
    given = torch.randn(n, k, height, width, generator=draw).contiguous(memory_format=layout)
    exact = [x.double().requires_grad_(), weight.double().requires_grad_()]
    exact = torch.autograd.grad(F.conv2d(*exact), exact, given.double())
    for gradient, other in zip(_gradients(given, x, weight), exact, strict=True):
        assert gradient.shape == other.shape and distance(gradient, other) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_a_compiled_residual_convolution_takes_them_and_an_eager_one_does_not(bias):
    torch.manual_seed(0)
    conv, x = ResidualConv(128, bias), torch.randn(1, 128, 34, 34, requires_grad=True)
    parameters = [x, *conv.parameters()]
    plain = torch.autograd.grad(conv(x).square().sum(), parameters)
    torch.compiler.reset()
    compiled = torch.autograd.grad(torch.compile(conv, fullgraph=True)(x).square().sum(), parameters)
    expected = torch.autograd.grad(
        F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double()).square().sum(),
        parameters,
    )
    near = [distance(gradient, exact) for gradient, exact in zip(compiled, expected, strict=True)]
    assert max(near) < 1e-5
    assert distance(plain[0], expected[0]) < 1e-6 < near[0]


@pytest.mark.parametrize(
    "change", [{"size": 33}, {"channels": 64}, {"dtype": torch.float64}, {"size": 18}, {"autocast": True}], ids=str
)
def test_where_it_does_not_pay_or_is_not_exact(change, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)

    def asked(size=34, channels=128, dtype=torch.float32, autocast=False):
        x, weight = (
            torch.empty(1, channels, size, size, dtype=dtype),
            torch.empty(channels, channels, 3, 3, dtype=dtype),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return pays(x, weight)

    assert asked() and not asked(**change)
