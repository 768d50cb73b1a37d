"""What test_fused.py holds the fused norm against: torch's own operations in float64, on a GPU or in the interpreter.

Shapes are small and odd, because Triton's interpreter takes milliseconds for every tile.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from zorse.cyclegan.build import init_weights
from zorse.cyclegan.patchgan import Discriminator
from zorse.cyclegan.resnet import Generator
from zorse.ops import fused_norm_triton
from zorse.ops.fused_norm import fused_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}  # the interpreter cuts digits off


def plain(x, slope, pad=0, residual=None, residual_pad=0):
    """What fused_norm computes, in torch's own operations."""
    out = F.leaky_relu(F.instance_norm(x), slope)
    if residual is not None:
        out = out + F.pad(residual, (-residual_pad,) * 4)
    return F.pad(out, (pad,) * 4, mode="reflect") if pad else out


def draw(*shape, dtype=torch.float32, seed=0, mean=3.0, std=2.0):
    """A channels_last leaf, the same on every machine."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std + mean
    return values.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def padded(shape, pad):
    return *shape[:2], shape[2] + 2 * pad, shape[3] + 2 * pad


def doubled(tensor):
    return None if tensor is None else tensor.detach().double().requires_grad_()


def gradients(out, leaves, incoming):
    return torch.autograd.grad(out, [leaf for leaf in leaves if leaf is not None], incoming)


def assert_close(actual, expected, tolerance):
    """Every element within `tolerance` of the largest one's size."""
    assert actual.shape == expected.shape
    assert ((actual.double() - expected).abs().max() / expected.abs().max()).item() < tolerance


def assert_as_plain(x, slope, pad, residual=None, residual_pad=0, tolerance=None):
    out = fused_norm(x, slope, pad, residual, residual_pad)
    assert out.dtype == x.dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    incoming = draw(*out.shape, dtype=x.dtype, seed=9, mean=0.1)
    x64, residual64 = doubled(x), doubled(residual)
    expected = plain(x64, slope, pad, residual64, residual_pad)
    tolerance = tolerance or ROUNDING[x.dtype]
    assert_close(out, expected, tolerance)
    wanted = gradients(expected, [x64, residual64], incoming.double())
    for actual, wants in zip(gradients(out, [x, residual], incoming), wanted, strict=True):
        assert actual.dtype == x.dtype
        assert_close(actual, wants, tolerance)


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    """The small planes of these tests in one tile each, and in many, which several programs share."""
    if request.param == "many tiles":
        for name, value in {"TILE": 64, "COLUMNS": 8, "PROGRAMS": 6}.items():
            monkeypatch.setattr(fused_norm_triton, name, value)


@pytest.mark.parametrize(
    ("shape", "slope", "pad", "residual_pad"),
    [
        ((2, 8, 6, 5), 0.0, 0, None),
        ((1, 11, 9, 7), 0.0, 1, None),  # channels that fill no block
        ((2, 3, 4, 5), 0.2, 3, None),  # every pixel is mirrored, some on both sides
        ((1, 1, 1, 9), 0.2, 0, None),
        ((1, 17, 5, 8), 1.0, 1, 0),
        ((2, 9, 5, 7), 1.0, 0, 1),
        ((1, 10, 7, 4), 1.0, 1, 1),
        ((1, 4, 5, 5), 0.2, 3, 2),
    ],
)
def test_values_and_gradients_are_torchs(tiles, shape, slope, pad, residual_pad):
    residual = None if residual_pad is None else draw(*padded(shape, residual_pad), seed=1)
    assert_as_plain(draw(*shape), slope, pad, residual, residual_pad or 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_rounded_once(dtype, autocast):
    x, residual = draw(2, 70, 9, 6, dtype=dtype), draw(2, 70, 11, 8, dtype=dtype, seed=1)
    with torch.autocast(DEVICE, dtype, enabled=autocast):
        assert_as_plain(x, 0.0, 1)
        assert_as_plain(x, 1.0, 1, residual, 1)
        assert fused_norm(draw(1, 4, 4, 4), 0.0).dtype == torch.float32


def test_a_large_mean_costs_the_variance_no_digits(tiles):
    """float32 holds numbers around 1000 to within 3e-5; squares of them, only to within 0.03."""
    assert_as_plain(draw(1, 9, 13, 8, mean=1000.0, std=1.0), 0.2, 1, tolerance=1e-4)


def test_a_plane_of_one_value_is_normed_to_zero():
    x = torch.full((1, 4, 3, 3), 7.0, device=DEVICE, requires_grad=True)
    out = fused_norm(x, 0.2, 1)
    assert not out.any()
    (gradient,) = torch.autograd.grad(out, x, draw(1, 4, 5, 5))
    assert gradient.isfinite().all()


def test_what_is_not_a_number_stays_visible():
    x = draw(1, 4, 3, 3).detach()
    x[0, 2, 1, 1] = torch.nan
    out = fused_norm(x, 0.0)
    assert out[0, 2].isnan().all()
    assert not out[0, [0, 1, 3]].isnan().any()


def test_memory_may_be_laid_out_in_any_way():
    x, residual, incoming = draw(2, 6, 5, 7), draw(2, 6, 7, 9, seed=1), draw(2, 6, 7, 9, seed=2).detach()
    out = fused_norm(x, 1.0, 1, residual, 1)
    expected = [out, *gradients(out, [x, residual], incoming)]
    for arrange in (
        lambda tensor: tensor.contiguous(),
        lambda tensor: tensor.transpose(1, 3).contiguous().transpose(1, 3),
        lambda tensor: tensor.repeat_interleave(2, 3)[..., ::2],
    ):
        x_too, residual_too = (arrange(tensor.detach()).requires_grad_() for tensor in (x, residual))
        out = fused_norm(x_too, 1.0, 1, residual_too, 1)
        assert out.is_contiguous(memory_format=torch.channels_last)
        actual = [out, *gradients(out, [x_too, residual_too], arrange(incoming))]
        assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_an_expanded_gradient_is_read_rightly():
    x, weights = draw(1, 5, 4, 6), draw(1, 5, 1, 1, seed=1)
    spread = weights.detach().expand(1, 5, 6, 8)
    assert torch.equal(
        *(gradients(fused_norm(x, 0.2, 1), [x], each)[0] for each in (spread, spread.contiguous())),
    )


def test_the_same_bits_twice_and_in_every_batch(tiles):
    x, incoming = draw(2, 5, 9, 8), draw(2, 5, 11, 10, seed=1).detach()

    def everything(chosen):
        leaf = x[chosen].detach().requires_grad_()
        out = fused_norm(leaf, 0.2, 1)
        return out, *gradients(out, [leaf], incoming[chosen])

    whole, again, alone = everything(slice(None)), everything(slice(None)), everything(slice(1, 2))
    for one, other, single in zip(whole, again, alone, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[1:2], single)


def test_only_the_input_and_its_statistics_are_kept():
    x, kept = draw(2, 6, 5, 7), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        fused_norm(x, 1.0, 1, draw(2, 6, 7, 9, seed=1), 1)
    assert [list(tensor.shape) for tensor in kept] == [[2, 6, 5, 7], [2, 2, 6]]
    assert kept[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_whole_networks_are_the_plain_ones(network):
    """With two residual blocks, whose stream stays padded between them."""
    fused, exact = network(4, 2, fused=True).to(DEVICE), network(4, 2).to(DEVICE).double()
    init_weights(fused, torch.Generator().manual_seed(0))
    exact.load_state_dict(fused.state_dict())
    image = draw(2, 3, 16, 20, mean=0.0, std=0.5)
    with torch.backends.cudnn.flags(allow_tf32=False):
        out = fused(image)
        incoming = draw(*out.shape, seed=1)
        actual = gradients(out, list(fused.parameters()), incoming)
    expected = exact(image.detach().double())
    assert_close(out, expected, 1e-5)
    wanted = gradients(expected, list(exact.parameters()), incoming.double())
    for gradient, other in zip(actual, wanted, strict=True):
        assert_close(gradient, other, 1e-4)


@pytest.mark.parametrize("backend", ["aot_eager", *["inductor"] * (DEVICE == "cuda")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_as_one_graph(backend, dtype):
    """Two calls of which the second adds what the first one padded; under autocast, as in training."""
    x = draw(2, 6, 5, 7, dtype=dtype)

    def two(x):
        return fused_norm(fused_norm(x, 0.0, 1)[..., 1:-1, 1:-1], 1.0, 1, fused_norm(x, 0.2, 1), 1)

    compiled = torch.compile(two, backend=backend, fullgraph=True, dynamic=False)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype != torch.float32):
        expected, actual = two(x), compiled(x)
    assert torch.equal(actual, expected)
    incoming = draw(*expected.shape, dtype=dtype, seed=1)
    assert_close(gradients(actual, [x], incoming)[0], gradients(expected, [x], incoming)[0].double(), ROUNDING[dtype])


@pytest.mark.parametrize("residual_pad", [None, 1])
def test_the_operator_keeps_torchs_rules(residual_pad):
    x = draw(2, 6, 5, 7)
    residual = None if residual_pad is None else draw(2, 6, 7, 9, seed=1)
    torch.library.opcheck(torch.ops.zorse.fused_norm.default, (x, residual, 0.2, 1, residual_pad or 0))
    statistics = torch.stack([x.mean((2, 3)), x.std((2, 3))], 1).detach()
    grad = draw(2, 6, 7, 9, seed=2).detach()
    arguments = (grad, x.detach(), statistics, 0.2, 1, residual_pad is not None, residual_pad or 0)
    torch.library.opcheck(torch.ops.zorse.fused_norm_backward.default, arguments)


X = torch.zeros(1, 4, 3, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X.double(), 0.0), TypeError, "not in torch.float64"),
        ((X.int(), 0.0), TypeError, "not in torch.int32"),
        ((X[0], 0.0), ValueError, r"not \[4, 3, 5\]"),
        ((X[:0], 0.0), ValueError, "no side of 0"),
        ((X[..., :1, :1], 0.0), ValueError, "one pixel has no variance"),
        ((X, 0.0, 3), ValueError, "padding of 3 needs more than 3 rows"),
        ((X, 0.0, -1), ValueError, "padding of -1"),
        ((X, 1.0, 0, None, 1), ValueError, "there is no residual"),
        ((X, 1.0, 0, X, 1), ValueError, r"is \[1, 4, 5, 7\], not \[1, 4, 3, 5\]"),
        ((X, 1.0, 0, X[..., 1:-1, 1:-1], -1), ValueError, "padded by -1"),
        ((X, 1.0, 0, X.half()), TypeError, "must be alike"),
    ],
)
def test_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        fused_norm(*arguments)


def test_nothing_here_is_skipped_unseen():
    assert DEVICE == "cuda" or os.environ["TRITON_INTERPRET"] == "1"
