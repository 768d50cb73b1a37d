"""The four networks as the options ask for them, and their first weights. (paper: appendix 7)"""

import torch
from torch import nn

from zorse.config.schema import Networks
from zorse.cyclegan.layers import INIT_STD, SpectralConv, centre_weights
from zorse.cyclegan.patchgan import Discriminator
from zorse.cyclegan.resnet import Generator
from zorse.cyclegan.unet import UNet


def build_generator(
    networks: Networks, c_in: int, c_out: int, *, recompute: bool = False, fused: bool = False
) -> Generator | UNet:
    """Build a generator. networks: with the number of blocks filled in."""
    k, options = networks.generator_channels, {"norm": networks.norm, "resize": networks.upsample == "resize"}
    if networks.generator in ("unet_128", "unet_256"):
        return UNet(k, 7 if networks.generator == "unet_128" else 8, c_in, c_out, **options, fused=fused)
    options |= {"skips": networks.generator == "unet_residual", "recompute": recompute, "fused": fused}
    return Generator(k, networks.generator_blocks, c_in, c_out, **options)


def build_discriminator(networks: Networks, c_in: int, *, fused: bool = False) -> Discriminator:
    return Discriminator(
        networks.discriminator_channels, networks.discriminator_layers, c_in, norm=networks.norm,
        pixels=networks.discriminator == "pixel", spectral=networks.spectral_norm, fused=fused,
    )  # fmt: skip


@torch.no_grad()
def init_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight from N(0, 0.02), those of a batch norm from N(1, 0.02), and set every bias to 0 (appendix 7.1),
    from `generator` alone."""
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            parameter.normal_(float(parameter.ndim == 1), INIT_STD, generator=generator)
        else:
            parameter.zero_()
    for module in network.modules():
        if isinstance(module, SpectralConv):
            module.u.normal_(generator=generator)
            module.power_iteration(times=16)


FARTHEST = 0.95  # from 0, of where outputs begin: beyond it tanh has little slope


def inner_convolutions(generator: Generator | UNet) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    """All but those that read and that write an image."""
    kinds = nn.Conv2d | nn.ConvTranspose2d
    return [module for module in generator.modules() if isinstance(module, kinds) and module not in generator.ends]


@torch.no_grad()
def centre(generator: Generator | UNet, mean: list[float] | None) -> None:
    """Begin a generator of norm "centred": its weights are centred, and it gives images of the target domain's mean.

    mean: of each channel of the domain, in [-1, 1]; None for 0. What began elsewhere would have all its weights pushed
    the same way until it is there.
    """
    centre_weights(inner_convolutions(generator))
    if mean is not None:
        generator.ends[1].bias.copy_(torch.tensor(mean).clamp(-FARTHEST, FARTHEST).atanh())


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
