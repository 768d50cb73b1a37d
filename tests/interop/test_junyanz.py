"""Weights of junyanz's code: read, computed with as that code does, and written back.

With JUNYANZ=DIR, a checkout of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix, its own networks are run beside
ours; without it, such as are written down here, layer by layer, under the same names.
"""

import os
import sys

import pytest
import torch
from torch import nn

from zorse.config.schema import Networks
from zorse.cyclegan.build import build_discriminator, build_generator, init_weights
from zorse.errors import UserError
from zorse.interop.junyanz import files, read_discriminator, read_generator, to_their_weights

CHECKOUT = os.environ.get("JUNYANZ")
NORMS = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}


class Block(nn.Module):
    def __init__(self, width, norm, dropout):
        super().__init__()
        bias = norm is nn.InstanceNorm2d
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm(width), nn.ReLU()]
        layers += [nn.Dropout(0.5)] if dropout else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm(width)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv_block(x)


class ResNet(nn.Module):
    def __init__(self, c_in, c_out, k, blocks, norm, dropout):
        super().__init__()
        bias = norm is nn.InstanceNorm2d
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(c_in, k, 7, bias=bias), norm(k), nn.ReLU()]
        for wide in (k, 2 * k):
            layers += [nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1, bias=bias), norm(2 * wide), nn.ReLU()]
        layers += [Block(4 * k, norm, dropout) for _ in range(blocks)]
        for wide in (4 * k, 2 * k):
            up = nn.ConvTranspose2d(wide, wide // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)
            layers += [up, norm(wide // 2), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(k, c_out, 7), nn.Tanh())

    def forward(self, x):
        return self.model(x)


def theirs(name, norm, dropout, c_in, c_out):
    if CHECKOUT:
        sys.path.insert(0, CHECKOUT)
        from models import networks

        how = {"norm": norm, "use_dropout": dropout, "init_type": "normal", "init_gain": 0.02}
        return networks.define_G(c_in, c_out, 4, name, **how)
    if name.startswith("unet"):
        pytest.skip("needs JUNYANZ=DIR")
    return ResNet(c_in, c_out, 4, int(name.removeprefix("resnet_")[0]), NORMS[norm], dropout)


def lively(network):
    """Weights, biases and statistics that all have something to say."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise.abs() + 0.5 if "running_var" in name else noise * (0.1 if tensor.ndim > 1 else 0.3))
    return network.eval()


@pytest.mark.parametrize("name", ["resnet_6blocks", "resnet_9blocks", "unet_128", "unet_256"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("dropout", [False, True])
def test_generators_compute_the_same(tmp_path, name, norm, dropout):
    network = lively(theirs(name, norm, dropout, 3, 1))
    torch.save(network.state_dict(), tmp_path / "latest_net_G_A.pth")
    networks, ours, c_in, c_out = read_generator(tmp_path / "latest_net_G_A.pth")
    assert (networks.generator_channels, networks.norm, c_in, c_out) == (4, norm, 3, 1)
    assert networks.dropout == (dropout and "resnet" in name)
    image = torch.rand(1, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        expected = network(image)
        assert expected.std() > 0.004
        assert (ours.eval()(image) - expected).abs().max() < 1e-5
        # And back: that code loads what we write, and it computes the same.
        again = theirs(name, norm, dropout, 3, 1).eval()
        again.load_state_dict(to_their_weights(ours, networks))
        assert (again(image) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["resnet", "unet_128"])
def test_without_a_norm_there_are_no_biases_to_tell_it_by(tmp_path, kind):
    """Nor may such a network be taken for one with InstanceNorm, which would compute something else."""
    networks = Networks(generator=kind, generator_channels=2, generator_blocks=None if kind != "resnet" else 1)
    weights = to_their_weights(build_generator(networks, 3, 3), networks)  # with an InstanceNorm, and so with biases
    last = max(name for name in weights if name.endswith(".bias") and weights[name].any())
    torch.save({n: w for n, w in weights.items() if n.endswith("weight") or n == last}, tmp_path / "x.pth")
    assert read_generator(tmp_path / "x.pth")[0].norm == "none"


@pytest.mark.parametrize("kind", ["resnet", "unet_128"])
def test_without_a_norm_biases_that_stayed_zero_are_left_out(tmp_path, kind):
    """That code has none there, and loads no file that has; biases that were learned it could not have."""
    networks = Networks(generator=kind, generator_channels=2, generator_blocks=None if kind != "resnet" else 1)
    weights = to_their_weights(lively(build_generator(networks, 3, 3)), networks)
    last = max(name for name in weights if name.endswith(".bias") and weights[name].any())
    weights = {name: tensor for name, tensor in weights.items() if name.endswith("weight") or name == last}
    torch.save(weights, tmp_path / "x.pth")
    of_none, generator, *_ = read_generator(tmp_path / "x.pth")
    again = to_their_weights(generator, of_none)
    assert again.keys() == weights.keys() and all(torch.equal(again[name], weights[name]) for name in weights)
    with torch.no_grad():
        next(module for module in generator.modules() if isinstance(module, nn.Conv2d)).bias += 1
    with pytest.raises(UserError, match=r"no biases with its --norm none, and .* has some here"):
        to_their_weights(generator, of_none)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weight: weight * torch.nan, "model.4.weight contains infinite or NaN values"),
        (lambda weight: weight.to(torch.complex64), "model.4.weight is of type complex64"),
        (lambda weight: weight.int(), "model.4.weight is of type int32"),
        (lambda weight: weight[0, 0, 0, 0].expand(2**17, 2**17, 3, 3), "model.4.weight of "),  # 600 GB
        (lambda weight: weight.to_sparse(), "other than plain tensors"),
        (lambda weight: weight.to("meta"), "other than plain tensors"),
        (lambda weight: 3, "not a file of weights"),
    ],
)
def test_weights_that_no_network_has(tmp_path, change, words):
    networks = Networks(generator_channels=2, generator_blocks=1)
    weights = to_their_weights(build_generator(networks, 3, 3), networks)
    torch.save(weights | {"model.4.weight": change(weights["model.4.weight"])}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=words) as told:
        read_generator(tmp_path / "x.pth")
    assert "x.pth: " in str(told.value) and "; give another" in str(told.value) and "\n" not in str(told.value)


def test_names_and_leftovers_of_other_versions(tmp_path):
    """Saved parallel or compiled; with running statistics that an InstanceNorm of 2017 kept and never used."""
    network = lively(ResNet(3, 3, 4, 2, nn.InstanceNorm2d, False))
    plain = network.state_dict()
    old = {f"module._orig_mod.{name}": tensor for name, tensor in plain.items()}
    for place in ("2", "5", "10.conv_block.2", "11.conv_block.6"):
        old |= {f"module._orig_mod.model.{place}.running_{what}": torch.full((4,), 9.0) for what in ("mean", "var")}
        old[f"module._orig_mod.model.{place}.num_batches_tracked"] = torch.tensor(7)
    torch.save(plain, tmp_path / "plain.pth")
    torch.save(old, tmp_path / "old.pth")
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    one, other = (read_generator(tmp_path / name)[1](image) for name in ("plain.pth", "old.pth"))
    assert torch.equal(one, other)
    assert (one - network(image)).abs().max() < 1e-5


def patch_gan(k, norm):
    bias = norm is nn.InstanceNorm2d
    layers = [nn.Conv2d(3, k, 4, 2, 1), nn.LeakyReLU(0.2)]
    for wide, stride in ((k, 2), (2 * k, 2), (4 * k, 1)):
        layers += [nn.Conv2d(wide, 2 * wide, 4, stride, 1, bias=bias), norm(2 * wide), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * k, 1, 4, 1, 1))


def pixel_gan(k, norm):
    bias = norm is nn.InstanceNorm2d
    layers = [nn.Conv2d(3, k, 1), nn.LeakyReLU(0.2), nn.Conv2d(k, 2 * k, 1, bias=bias), norm(2 * k), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(2 * k, 1, 1, bias=bias))


@pytest.mark.parametrize("kind", ["patch", "pixel"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_discriminators_compute_the_same(tmp_path, kind, norm):
    network = lively((patch_gan if kind == "patch" else pixel_gan)(4, NORMS[norm]))
    prefix = "model" if kind == "patch" else "net"
    torch.save({f"{prefix}.{name}": tensor for name, tensor in network.state_dict().items()}, tmp_path / "D.pth")
    networks = Networks(discriminator_channels=4, discriminator=kind, norm=norm)
    ours = read_discriminator(tmp_path / "D.pth", networks, 3).eval()
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert (ours(image) - network(image)).abs().max() < 1e-4
    back = {name.removeprefix(f"{prefix}."): tensor for name, tensor in to_their_weights(ours, networks).items()}
    network.load_state_dict(back)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"<html>", "or is damaged"),
        (b"", "not a file of weights"),
        ([1, 2], "not a file of weights"),
        ({"weight": torch.zeros(3)}, "not a ResNet or U-Net"),
        ({"model.1.weight": torch.zeros(3), "model.17.weight": torch.zeros(())}, "not a ResNet or U-Net"),
        ({"model.1.weight": torch.zeros(4, 3, 7, 7)}, "has no model.17.weight"),
    ],
)
def test_other_files_in_one_line(tmp_path, content, words):
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=words) as told:
        read_generator(path)
    assert "\n" not in str(told.value)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"model.1.weight": Evil()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds more than tensors"):
        read_generator(tmp_path / "x.pth")
    assert not (tmp_path / "made").exists()


UNKNOWN_THERE = [{"generator": "unet_residual"}, {"upsample": "resize"}, {"norm": "none"}, {"norm": "centred"}]


@pytest.mark.parametrize("option", UNKNOWN_THERE, ids=str)
def test_what_that_code_does_not_have_is_not_written(option):
    networks = Networks(generator_channels=2, generator_blocks=1, **option)
    with pytest.raises(UserError, match="cannot load"):
        to_their_weights(build_generator(networks, 3, 3), networks)
    network = build_discriminator(Networks(discriminator_channels=2, spectral_norm=True), 3)
    init_weights(network, torch.Generator())
    with pytest.raises(UserError, match="spectral"):
        to_their_weights(network, Networks(spectral_norm=True))


def test_which_files_of_a_folder_are_taken(tmp_path):
    for name in ("latest_net_D_A", "95_net_G_A", "100_net_G_A", "100_net_G_B", "100_net_D_B"):
        (tmp_path / f"{name}.pth").touch()
    assert {ours: path.stem for ours, path in files(tmp_path).items()} == {
        "generators.a_to_b": "100_net_G_A", "generators.b_to_a": "100_net_G_B", "discriminators.of_a": "100_net_D_B",
    }  # fmt: skip
    (tmp_path / "latest_net_G.pth").touch()
    assert files(tmp_path)["generators.a_to_b"].stem == "latest_net_G"
    assert list(files(tmp_path / "x_net_G_B.pth")) == ["generators.b_to_a"]
    assert not files(tmp_path / "nowhere")
