"""The networks' sizes and shapes as the paper states them."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from pipeline.networks import Discriminator, Generator, init_weights, parameter_count


def test_parameter_counts_are_the_references_without_inert_biases():
    """The well-known code counts 11.378 M and 2.765 M; it has biases in front of InstanceNorm, which do nothing."""
    generator, discriminator = Generator(64, 9), Discriminator(64, 3)

    def inert_biases(network):
        modules = list(network.modules())
        return sum(conv.out_channels for conv, norm in pairwise(modules) if isinstance(norm, nn.InstanceNorm2d))

    assert parameter_count(generator) + inert_biases(generator) == 11_378_179
    assert parameter_count(discriminator) + inert_biases(discriminator) == 2_764_737


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 32, 48)])
def test_generator_keeps_the_shape(shape):
    image = torch.rand(shape) * 2 - 1
    fake = Generator(4, 2)(image)
    assert fake.shape == shape
    assert fake.abs().max() <= 1


def test_default_discriminator_is_the_70x70_patchgan():
    network = Discriminator(4, 3)
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    for index, module in enumerate(network.model):
        if isinstance(module, nn.InstanceNorm2d):  # its statistics are of the whole image
            network.model[index] = nn.Identity()
    image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    network(image)[0, 0, 15, 15].backward()
    seen = image.grad.abs().sum((0, 1)).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_norms_have_no_parameters_and_no_running_statistics():
    for network in (Generator(4, 1), Discriminator(4, 3)):
        norms = [module for module in network.modules() if isinstance(module, nn.InstanceNorm2d)]
        assert norms and not any(norm.affine or norm.track_running_stats for norm in norms)
        assert not list(network.buffers())


def test_initial_weights():
    network = Generator(16, 2)
    init_weights(network, torch.Generator().manual_seed(0))
    weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim > 1])
    assert weights.mean().abs() < 1e-3 and abs(weights.std() - 0.02) < 1e-3
    assert not network.model[-2].bias.any()
