"""The four networks as the options ask for them, and their first weights. (paper: appendix 7)"""

import torch
from torch import nn

from zorse.config.schema import Networks
from zorse.cyclegan.layers import INIT_STD, SpectralConv, centre_weights
from zorse.cyclegan.patchgan import Discriminator
from zorse.cyclegan.resnet import Generator, ResidualBlock
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


def inner_convolutions(generator: Generator | UNet) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    """All but those that read and that write an image."""
    kinds = nn.Conv2d | nn.ConvTranspose2d
    return [module for module in generator.modules() if isinstance(module, kinds) and module not in generator.ends]


@torch.no_grad()
def init_centred(generator: Generator | UNet, mean: list[float] | None, draws: torch.Generator) -> None:
    """Draw the first weights of a generator of norm "centred", whose layers keep the variance of what passes through.

    Of each kernel the middle alone is drawn, from N(0, 2 / channels) (He et al. 2015, equation 10, for a kernel of one
    weight; Xiao et al. 2018, arXiv 1806.05393), so that outputs begin as sharp as inputs. Whole kernels would be
    filters of noise, which a short training does not lose again. Only those of transposed convolutions, whose middle
    reaches one pixel in four, are drawn whole, from N(0, 2 / fan-in). Weights are centred, and smaller at the end of
    each residual block, so that all blocks together add as much variance as there is (Zhang et al. 2019, Fixup, has 0
    there). Outputs begin at the mean of the target domain: what began elsewhere would have all weights pushed the same
    way. mean: of each channel, in [-1, 1]; None for 0.
    """
    first, last = generator.ends
    for conv in (first, *inner_convolutions(generator)):
        std = (2 / fan_in(conv)) ** 0.5
        if isinstance(conv, nn.ConvTranspose2d):
            conv.weight.normal_(0, std, generator=draws)
        else:
            middle = conv.kernel_size[0] // 2
            conv.weight.zero_()
            conv.weight[:, :, middle, middle] = torch.empty(conv.weight.shape[:2]).normal_(0, std, generator=draws)
    blocks = [module for module in generator.modules() if isinstance(module, ResidualBlock)]
    for block in blocks:
        block.conv_block["5"].weight *= len(blocks) ** -0.5
    centre_weights((*inner_convolutions(generator), last))  # the last one only here, so that outputs begin at its bias
    if mean is not None:
        last.bias.copy_(torch.tensor(mean))


def fan_in(conv: nn.Conv2d | nn.ConvTranspose2d) -> float:
    """How many weights that are not 0 each output of a convolution begins with; of a transposed one the mean."""
    if isinstance(conv, nn.ConvTranspose2d):
        return conv.weight[:, 0].numel() / (conv.stride[0] * conv.stride[1])
    return conv.weight.shape[1]


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
