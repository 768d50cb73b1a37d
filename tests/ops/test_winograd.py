"""3x3 convolutions in fewer multiplications, against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F

from zorse.cyclegan.layers import ResidualConv
from zorse.ops import winograd


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(winograd, "_compiled", lambda function: function)


def distance(tensor, exact):
    return ((tensor - exact).norm() / exact.norm()).item()


def drawn(n, c, k, height, width, layout=torch.contiguous_format):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, height + 2, width + 2, generator=draw).contiguous(memory_format=layout)
    return x.requires_grad_(), torch.randn(k, c, 3, 3, generator=draw).requires_grad_()


@pytest.mark.parametrize("shape", [(1, 3, 5, 4, 4), (2, 8, 4, 12, 8), (3, 16, 16, 4, 20)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_it_is_the_convolution_with_its_gradients(shape, layout, uncompiled):
    x, weight = drawn(*shape, layout)
    y = winograd.conv3x3(x, weight)
    given = torch.randn(y.shape).contiguous(memory_format=layout)
    exact = [x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()]
    exact_y = F.conv2d(*exact)
    computed = [y, *torch.autograd.grad(y, [x, weight], given)]
    expected = [exact_y, *torch.autograd.grad(exact_y, exact, given.double())]
    for tensor, other in zip(computed, expected, strict=True):
        assert tensor.shape == other.shape and distance(tensor, other) < 2e-6


def test_as_the_compiler_is_told(uncompiled):
    torch.library.opcheck(winograd.conv3x3, drawn(2, 8, 4, 12, 8))
    x, weight = drawn(2, 8, 4, 12, 8)
    torch.library.opcheck(winograd.conv3x3_gradients, (torch.randn(2, 4, 12, 8), x.detach(), weight.detach()))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_a_compiled_residual_convolution_takes_it_and_an_eager_one_does_not(bias):
    torch.manual_seed(0)
    conv, x = ResidualConv(256, bias), torch.randn(1, 256, 34, 34, requires_grad=True)
    parameters = [x, *conv.parameters()]

    def computed(conv, *given):
        y = conv(*given)
        return [y, *torch.autograd.grad(y.square().sum(), parameters)]

    calls = []
    original = winograd._channels_last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_channels_last", lambda given: calls.append(1) or original(given))
        plain = computed(conv, x)
        assert not calls
        torch.compiler.reset()
        compiled = computed(torch.compile(conv, fullgraph=True), x)
        assert len(calls) == 3  # the images, twice, and the gradient
    for tensor, other in zip(compiled, plain, strict=True):
        assert distance(tensor, other) < 3e-6


@pytest.mark.parametrize(
    "change", [{"size": 33}, {"channels": 64}, {"dtype": torch.float64}, {"size": 18}, {"autocast": True}], ids=str
)
def test_where_it_does_not_pay_or_is_not_exact(change, monkeypatch):
    def asked(size=34, channels=256, dtype=torch.float32, autocast=False):
        x = torch.empty(1, channels, size, size, dtype=dtype)
        weight = torch.empty(channels, channels, 3, 3, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return winograd.use_winograd(x, weight)

    assert not asked()
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    assert asked() and not asked(**change)
