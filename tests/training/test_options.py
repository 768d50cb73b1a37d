"""Other networks, norms and losses than the paper's: each by its definition, trained for some steps, on two ranks."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from running import TINY, train
from runs import EXACT, SIX_STEPS, assert_close, final, refused, run
from torch import nn

from zorse.config.schema import Losses, Networks, Optimization
from zorse.cyclegan import losses
from zorse.cyclegan.build import build_generator, init_weights
from zorse.cyclegan.image_pool import ImagePool
from zorse.cyclegan.layers import Norm, ResizeConv, SpectralConv, dropout
from zorse.cyclegan.patchgan import Discriminator
from zorse.cyclegan.resnet import Generator
from zorse.cyclegan.step import CycleGANStep
from zorse.cyclegan.unet import UNet
from zorse.training.schedule import learning_rates

SMALL = Networks(generator_channels=2, generator_blocks=1, discriminator_channels=2, discriminator_layers=1)


def norm(x):
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def random_weights(network):
    init_weights(network, torch.Generator().manual_seed(0))
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(20).add_(0.01)  # so that tanh and the norms have something to do, and biases are not 0
    return network


@pytest.mark.parametrize("depth", [4, 6])
def test_the_u_net_is_pix2pixs(depth):
    """Isola et al. 2017, appendix 6.1: Ck-C2k-C4k-C8k-... with leaky ReLUs, and back with ReLUs over what is joined."""
    network = random_weights(UNet(2, depth, 3, 1))
    down, up = ([layers[str(2 * level)] for level in range(depth)] for layers in (network.down, network.up))
    assert [conv.out_channels for conv in down] == [2, 4, 8, 16, 16, 16][:depth]

    def level(x, number):
        """What a level makes of its input, joined with that input, as pix2pix's code nests them."""
        inner = F.conv2d(F.leaky_relu(x, 0.2), down[number].weight, down[number].bias, stride=2, padding=1)
        inner = F.relu(inner) if number == depth - 1 else F.relu(level(norm(inner), number + 1))
        return torch.cat([x, norm(F.conv_transpose2d(inner, up[number].weight, stride=2, padding=1))], 1)

    image = torch.rand(2, 3, 2**depth, 2 ** (depth + 1), dtype=torch.float64) * 2 - 1
    outer = level(F.conv2d(image, down[0].weight, down[0].bias, stride=2, padding=1), 1)
    expected = torch.tanh(F.conv_transpose2d(F.relu(outer), up[0].weight, up[0].bias, stride=2, padding=1))
    torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-12)


def test_sizes_of_pix2pixs_generators():
    """Its code counts 41.829 M and 54.414 M parameters with batch norm, whose convolutions have no biases."""
    for name, expected in (("unet_128", 41_829_000), ("unet_256", 54_414_000)):
        network = build_generator(dataclasses.replace(Networks(), generator=name, norm="batch"), 3, 3)
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(expected, rel=1e-4)


def test_skips_join_what_was_before_each_halving():
    network = random_weights(Generator(2, 1, skips=True))
    first, half, quarter, block, up, again, last = (network.model[str(place)] for place in (1, 4, 7, 10, 11, 14, 18))
    image = torch.rand(1, 3, 16, 24, dtype=torch.float64) * 2 - 1

    def pad(x, n):
        return F.pad(x, (n, n, n, n), mode="reflect")

    whole = F.relu(norm(first(pad(image, 3))))
    halved = F.relu(norm(half(whole)))
    x = F.relu(norm(quarter(halved)))
    inner = F.relu(norm(block.conv_block["1"](pad(x, 1))))
    x = x + norm(block.conv_block["5"](pad(inner, 1)))
    x = torch.cat([F.relu(norm(up(x))), halved], 1)
    x = torch.cat([F.relu(norm(again(x))), whole], 1)
    torch.testing.assert_close(network(image), torch.tanh(last(pad(x, 3))), rtol=0, atol=1e-12)


def test_resizing_repeats_pixels_and_convolves():
    layer = ResizeConv(2, 3, bias=True).double()
    x = torch.rand(1, 2, 5, 6, dtype=torch.float64)
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = F.conv2d(F.pad(large, (1, 1, 1, 1), mode="reflect"), layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_a_discriminator_of_pixels_sees_a_pixel(monkeypatch):
    network = Discriminator(4, pixels=True, norm="none")
    image = torch.zeros(1, 3, 9, 7, requires_grad=True)
    logits = network(image)
    assert logits.shape == (1, 1, 9, 7)
    logits[0, 0, 4, 3].backward()
    assert image.grad.abs().sum((0, 1)).nonzero().tolist() == [[4, 3]]


def test_batch_norm_is_torchs():
    ours, theirs = Norm("batch", 3).double(), nn.BatchNorm2d(3).double()
    with torch.no_grad():
        for norm_ in (ours, theirs):
            norm_.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            norm_.bias.copy_(torch.tensor([0.1, 0.0, -1.0]))
    for _ in range(3):
        x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) * 3 + 1
        outputs, both = [ours(x, 1.0), theirs(x)], (ours, theirs)
        gradients = [torch.autograd.grad(y.square().sum(), (x, n.weight)) for y, n in zip(outputs, both, strict=True)]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-12)
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)
    state = theirs.state_dict()
    state.pop("num_batches_tracked")
    torch.testing.assert_close(dict(ours.state_dict()), dict(state), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x, 1.0), theirs.eval()(x), rtol=0, atol=1e-12)


def test_spectral_norm_divides_by_the_largest_singular_value():
    conv = SpectralConv(3, 8, (4, 4), padding=1).double()
    conv.power_iteration(times=2000)
    largest = torch.linalg.svdvals(conv.weight.flatten(1))[0]
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    expected = F.conv2d(x, conv.weight / largest, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-10)
    before = conv.u.clone()
    conv.train()(x)
    assert torch.equal(conv.u, before)  # or else ranks and micro-steps would count


def test_dropout_is_half_of_each_sample_and_belongs_to_it():
    x, draws = torch.ones(4, 8, 32, 32), torch.tensor([3, 4, 3, 10**18])
    dropped = dropout(x, draws, 5)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    shares = (dropped > 0).float().mean((1, 2, 3))
    assert (shares - 0.5).abs().max() < 0.03  # 5.4 standard deviations
    assert torch.equal(dropped[0], dropped[2]) and torch.equal(dropped[3:], dropout(x[3:], draws[3:], 5))
    for other in (dropped[1], dropped[3], dropout(x[:1], draws[:1], 6)[0]):  # another sample, another layer
        assert abs(float((dropped[0] == other).float().mean()) - 0.5) < 0.03
    for axis in (1, 2, 3):  # neighbours know nothing of each other
        same = (dropped == dropped.roll(1, axis)).float().mean()
        assert abs(float(same) - 0.5) < 0.02
    assert torch.equal(dropout(x, None, 5), x)


def test_losses_by_their_definition():
    real, fake = torch.randn(2, 2, 1, 3, 3, dtype=torch.float64) * 2
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(losses.adversarial(fake, "cross_entropy"), bce(fake, ones))
    expected = (bce(real, ones) + bce(fake, zeros)) / 2
    torch.testing.assert_close(losses.discriminator(real, fake, "cross_entropy"), expected)
    torch.testing.assert_close(losses.adversarial(fake, "hinge"), -fake.mean())
    expected = ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()) / 2
    torch.testing.assert_close(losses.discriminator(real, fake, "hinge"), expected)


def test_r1_is_the_squared_gradient_at_real_images():
    torch.manual_seed(0)
    network = random_weights(Discriminator(2, 1))
    real = torch.rand(2, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    expected = 0.0
    for index in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None]).mean(), real[index].detach())
        expected += jacobian.square().sum() / 2 / 2
    penalty = losses.r1(real, network(real))
    torch.testing.assert_close(penalty, expected)
    weight = network.model["0"].weight
    (gradient,) = torch.autograd.grad(penalty, weight)
    with torch.no_grad():
        direction = torch.randn_like(weight)
        values = []
        for sign in (1e-7, -1e-7):
            weight.add_(sign * direction)
            with torch.enable_grad():
                values.append(losses.r1(real, network(real)).detach())
            weight.sub_(sign * direction)
    torch.testing.assert_close((gradient * direction).sum(), (values[0] - values[1]) / 2e-7, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("linear", (1, 1, 0.75, 0.5, 0)), ("cosine", (1, 1, 0.85355339, 0.5, 0)), ("constant", [1] * 5)],
)
def test_learning_rate_policies(policy, expected):
    optimization = Optimization(epochs=1, decay_epochs=2, lr=1.0, lr_policy=policy, batch=1)
    rates = [learning_rates(pairs, optimization, 100)[0] for pairs in (0, 100, 150, 200, 300)]
    assert rates == pytest.approx(expected)


VARIANTS = {
    "unet_128": {"generator": "unet_128", "dropout": True},
    "unet_residual": {"generator": "unet_residual"},
    "resize": {"upsample": "resize"},
    "resized unet": {"generator": "unet_128", "upsample": "resize", "norm": "batch"},
    "batch": {"norm": "batch"},
    "none": {"norm": "none"},
    "centred": {"norm": "centred"},
    "dropout": {"dropout": True},
    "pixel": {"discriminator": "pixel"},
    "spectral": {"spectral_norm": True},
    "hinge": {"adversarial": "hinge"},
    "cross_entropy": {"adversarial": "cross_entropy", "r1_weight": 1.0},
    "r1 and batch": {"norm": "batch", "r1_weight": 1.0, "spectral_norm": True, "discriminator": "pixel"},
}


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(value, id=name, marks=[pytest.mark.slow] * (name in ("unet_128", "resized unet")))
        for name, value in VARIANTS.items()
    ],
)
def test_each_option_trains(variant):
    """Its losses are finite, every weight of every network moves, and what it is trained for goes down."""
    of_losses = {name: variant[name] for name in ("adversarial", "r1_weight") if name in variant}
    networks = dataclasses.replace(SMALL, **{name: value for name, value in variant.items() if name not in of_losses})
    size = {"unet_128": 256 if networks.upsample == "resize" else 128}.get(networks.generator, 32)
    model = CycleGANStep(networks, Losses(**of_losses), seed=0)
    history = {name: ImagePool([0], 2, (size, size), domain=i, seed=0) for i, name in enumerate("ab")}
    adam = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.5, 0.999))
    generator = torch.Generator().manual_seed(0)
    a, b = (F.interpolate(torch.rand(1, 3, 4, 4, generator=generator), (size, size)) * 2 - 1 for _ in range(2))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    cycles = []
    for position in range(24):
        plans = {name: images.plan([0], [position]) for name, images in history.items()}
        adam.zero_grad()
        total, named = model(a, b, history, plans, model.draws([position], torch.device("cpu")))
        total.backward()
        adam.step()
        model.after_step()
        assert all(loss.isfinite() for loss in named.values())
        cycles.append(float(named["cycle_a"] + named["cycle_b"]))
    stuck = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not stuck
    assert sum(cycles[-3:]) < 0.98 * sum(cycles[:3])


OTHER = ["--norm", "batch", "--dropout", "--spectral-norm", "--r1-weight", "0.5", "--adversarial", "hinge"]
OTHER += ["--crop-width", "40", "--load-width", "44", "--upsample", "resize", "--generator", "unet_residual"]


@pytest.mark.slow
def test_all_at_once_is_the_same_run_on_two_ranks_and_over_a_resume(shards, tmp_path):
    run(shards, tmp_path / "one", *SIX_STEPS, *EXACT, *OTHER, "--ema-pairs", "8")
    run(shards, tmp_path / "two", *SIX_STEPS, *EXACT, *OTHER, "--ema-pairs", "8", ranks=2)
    assert_close(final(tmp_path / "one"), final(tmp_path / "two"), 1e-8)
    short = ["--epochs", "1", "--decay-epochs", "0.09", "--batch", "4", "--image-pool-size", "2", "--ema-pairs", "8"]
    run(shards, tmp_path / "stopped", *short, *EXACT, *OTHER)
    again = [*SIX_STEPS, *EXACT, *OTHER, "--ema-pairs", "8"]
    again += ["--allow-change", "decay_epochs"]
    # decay_epochs changes the learning rate of the second epoch alone, at whose begin the run stopped
    run(shards, tmp_path / "stopped", *again)
    assert_close(final(tmp_path / "one"), final(tmp_path / "stopped"), 1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--generator", "unet_128"), ("--crop-size 32", "multiple of 128")),
        (("--generator", "unet_128", "--upsample", "resize", "--crop-size", "128"), ("--crop-size 128", "least 256")),
        (("--crop-width", "30"), ("--crop-width 30", "multiple of 4")),
        (("--load-width", "16"), ("--load-width 16", "at least")),
        (("--norm", "batch", "--compile"), ("--norm batch", "--compile")),
        (("--norm", "batch", "--grad-accum-steps", "2", "--batch", "2"), ("--norm batch", "--grad-accum-steps 2")),
        (("--norm", "none", "--fused-norm"), ("--norm none", "--fused-norm")),
        (("--r1-weight", "1", "--compile"), ("--r1-weight", "--compile")),
        (("--r1-weight", "-1"), ("--r1-weight",)),
    ],
)
def test_what_cannot_be_combined_is_told_in_one_line(shards, tmp_path, options, words):
    refused(train(*TINY, "--data", shards, "--out", tmp_path / "run", *options), *words)
    assert not (tmp_path / "run").exists()
