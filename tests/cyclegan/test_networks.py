"""The networks' sizes and shapes as the paper states them."""

import pytest
import torch
from torch import nn

from zorse.config.schema import Losses, Networks
from zorse.cyclegan import layers
from zorse.cyclegan.build import init_weights, parameter_count
from zorse.cyclegan.patchgan import Discriminator
from zorse.cyclegan.resnet import Generator
from zorse.cyclegan.step import CycleGANStep


def test_parameter_counts_are_the_references_without_inert_biases():
    """The well-known code counts 11.378 M and 2.765 M; it has biases in front of InstanceNorm, which do nothing."""
    for network, expected in ((Generator(64, 9), 11_378_179), (Discriminator(64, 3), 2_764_737)):
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
        inert = sum(conv.out_channels for conv in convolutions if conv.bias is None)
        assert parameter_count(network) + inert == expected


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 32, 48)])
def test_generator_keeps_the_shape(shape):
    image = torch.rand(shape) * 2 - 1
    fake = Generator(4, 2)(image)
    assert fake.shape == shape
    assert fake.abs().max() <= 1


def test_default_discriminator_is_the_70x70_patchgan(monkeypatch):
    network = Discriminator(4, 3)
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    monkeypatch.setattr(layers, "instance_norm", lambda x: x)  # its statistics are of the whole image
    image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    network(image)[0, 0, 15, 15].backward()
    seen = image.grad.abs().sum((0, 1)).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


@pytest.mark.parametrize("compiling", [False, True])
def test_the_norm_is_by_its_definition(compiling, monkeypatch):
    """Per sample and channel, biased variance; in the form for compilers, too, and there with wide statistics."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64) * 3 + 100
    mean = x.mean((2, 3), keepdim=True)
    expected = (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layers.instance_norm(x), expected, rtol=0, atol=1e-12)
    narrow = layers.instance_norm(x.bfloat16())
    of_narrow = layers.instance_norm(x.bfloat16().double())
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.double(), of_narrow, rtol=1e-2, atol=1e-2)


def test_the_norm_is_as_precise_in_any_memory_layout():
    """Torch's own group norm of channels_last is off by 0.7 here."""
    x = torch.randn(1, 8, 512, 512, generator=torch.Generator().manual_seed(0)) * 0.1 + 10
    expected = layers.instance_norm(x.double()).float()
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(
            layers.instance_norm(x.contiguous(memory_format=layout)), expected, rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("size", [(9, 12), (16, 7)])
def test_the_last_convolution_is_a_convolution(size):
    conv = nn.Conv2d(4, 3, 7).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (conv, lambda x: layers.image_conv(x, conv)):
        image = function(x)
        gradients = torch.autograd.grad(image.square().sum(), (x, conv.weight, conv.bias))
        results.append((image, *gradients))
    torch.testing.assert_close(*results, rtol=0, atol=1e-11)


def test_recomputing_changes_what_is_kept_and_nothing_else():
    image, kept, gradients = torch.rand(1, 3, 32, 32) * 2 - 1, [], []
    for recompute in (False, True):
        network = Generator(4, 3, recompute=recompute)
        init_weights(network, torch.Generator().manual_seed(0))
        sizes = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = network(image).square().sum()
        kept.append(sum(sizes.values()))
        loss.backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert kept[1] < 0.8 * kept[0]
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("networks", [{}, {"upsample": "resize"}, {"generator": "unet_128"}], ids=str)
def test_centred_networks_begin_at_the_mean_of_their_domain_and_answer_to_their_input(networks):
    """Where the paper's first weights, without its norms, would give nearly the same grey for any image."""
    networks = Networks(norm="centred", generator_channels=16, generator_blocks=6, **networks)
    means = {"a": [-0.9, 0.0, 0.9], "b": [0.5, 0.5, 0.5]}
    model = CycleGANStep(networks, Losses(), 0, means=means)
    images = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for direction, target in (("a_to_b", "b"), ("b_to_a", "a")):
        with torch.no_grad():
            fakes = model.generators[direction](images)
        assert (fakes.mean((0, 2, 3)) - torch.tensor(means[target])).abs().max() < 0.25
        assert fakes.std(0).mean() > 0.02


def test_weights_stay_centred_but_at_the_ends():
    networks = Networks(norm="centred", generator_channels=4, generator_blocks=2)
    model = CycleGANStep(networks, Losses(), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1  # as Adam would
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.after_step()
    for name, parameter in model.named_parameters():
        if torch.equal(parameter, before[name]):
            assert name.startswith("discriminators") or name.endswith("bias") or ".model.1." in name or ".19." in name
        else:
            filters = (0, 2, 3) if ".12." in name or ".15." in name else (1, 2, 3)  # of transposed convolutions
            assert parameter.mean(filters).abs().max() < 1e-6, name
            assert before[name].mean(filters).abs().min() > 1e-3, name


def test_initial_weights():
    network = Generator(16, 2)
    init_weights(network, torch.Generator().manual_seed(0))
    weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim > 1])
    assert weights.mean().abs() < 1e-3 and abs(weights.std() - 0.02) < 1e-3
    assert not any(p.any() for p in network.parameters() if p.ndim == 1)
