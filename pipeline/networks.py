"""The networks of the CycleGAN paper (arXiv 1703.10593, appendix 7.2), and the others that its users train.

Shapes: images are [N, C, H, W] in [-1, 1], with C = 3 unless a domain is grey or has transparency; H and W are
multiples of a generator's `multiple`, and at least its `smallest`.

Departures, none of which changes what is computed, up to rounding:
- A convolution that is followed by an InstanceNorm has no bias. The norm subtracts it again, so its gradient is
  rounding noise, which Adam would turn into a random walk that differs with every batch split.
- Norm, activation, residual sum and the next convolution's reflection padding are one call, `Norm`, so that they can be
  one kernel. So what passes through the residual blocks is padded, and the sum takes its interior.
- No activation works in place: the output of an InstanceNorm is a view, and autograd would copy it several times.
- The last convolution may be computed as a narrower one (`image_conv`).

Layers of the paper's networks are named by their place in the well-known PyTorch code, without its dropout, e.g.
`model.10.conv_block.1.weight`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.config import Networks
from pipeline.layers import (
    INIT_STD,
    LEAKY,
    LINEAR,
    RELU,
    Norm,
    NormKind,
    ResidualConv,
    ResizeConv,
    SpectralConv,
    activate,
    dropout,
    image_conv,
    reflect,
)


class Normed(nn.ModuleDict):
    """Convolutions by their place, each with its norm at the place after it."""

    def __init__(self, norm: NormKind, fused: bool):
        super().__init__()
        self.norm, self.fused = norm, fused
        self.bias = norm == "none"  # a norm makes that of a convolution in front of it inert

    def put(self, place: int, conv: nn.Module) -> None:
        transposed = isinstance(conv, nn.ConvTranspose2d)
        self[str(place)] = conv
        self[str(place + 1)] = Norm(self.norm, conv.weight.shape[1 if transposed else 0], self.fused)

    def at(self, place: int, x: Tensor, slope: float, pad: int = 0, residual: Tensor | None = None) -> Tensor:
        """Convolution, norm, activation, residual sum and padding; see `activate`."""
        return self[str(place + 1)](self[str(place)](x), slope, pad, residual)


class ResidualBlock(nn.Module):
    """Rk: two 3x3 convolutions with reflection padding, added to their input. [N, C, H + 2, W + 2], padded.

    last: give [N, C, H, W], which no other block follows. place: of the block, for its dropout.
    """

    def __init__(self, channels: int, norm: NormKind, last: bool, fused: bool, place: int):
        super().__init__()
        self.pad, self.place = 0 if last else 1, place
        self.conv_block = Normed(norm, fused)
        for at in (1, 5):
            self.conv_block.put(at, ResidualConv(channels, self.conv_block.bias))

    def forward(self, x: Tensor, draws: Tensor | None) -> Tensor:
        if draws is None:
            inner = self.conv_block.at(1, x, RELU, 1)
        else:
            inner = reflect(dropout(self.conv_block.at(1, x, RELU), draws, self.place), 1)
        return self.conv_block.at(5, inner, LINEAR, self.pad, x)


class Generator(nn.Module):
    """c7s1-k, d2k, d4k, `blocks` x R4k, u2k, uk, c7s1-c_out. [N, c_in, H, W] in [-1, 1] -> [N, c_out, H, W].

    resize: upsampling by ResizeConv. skips: what was before each halving is put beside what comes back to its size, as
    in a U-Net. recompute: keep only the residual blocks' inputs for the backward pass, and compute the rest of them
    again there. norm, fused: see Norm.
    """

    multiple, smallest = 4, 16  # of sides, in pixels; the reflection padding needs some

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 9,
        c_in: int = 3,
        c_out: int = 3,
        *,
        norm: NormKind = "instance",
        resize: bool = False,
        skips: bool = False,
        recompute: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        k, self.blocks, self.skips, self.recompute = channels, blocks, skips, recompute
        self.model = Normed(norm, fused)
        bias, twice = self.model.bias, 2 if skips else 1
        self.model.put(1, nn.Conv2d(c_in, k, 7, bias=bias))
        self.model.put(4, nn.Conv2d(k, 2 * k, 3, stride=2, padding=1, bias=bias))
        self.model.put(7, nn.Conv2d(2 * k, 4 * k, 3, stride=2, padding=1, bias=bias))
        for i in range(blocks):
            self.model[str(10 + i)] = ResidualBlock(4 * k, norm, i == blocks - 1, fused, 10 + i)
        for place, wide, narrow in ((10 + blocks, 4 * k, 2 * k), (13 + blocks, 2 * k * twice, k)):
            up = {"stride": 2, "padding": 1, "output_padding": 1, "bias": bias}
            self.model.put(
                place, ResizeConv(wide, narrow, bias) if resize else nn.ConvTranspose2d(wide, narrow, 3, **up)
            )
        self.model[str(17 + blocks)] = nn.Conv2d(k * twice, c_out, 7)

    def forward(self, image: Tensor, draws: Tensor | None = None) -> Tensor:
        """draws: int64 [N], of dropout; None for none."""
        layers, blocks = self.model, self.blocks
        x = layers.at(1, reflect(image, 3), RELU)
        before = [x] if self.skips else []  # what nobody needs again is not held on to
        x = layers.at(4, x, RELU)
        before += [x] if self.skips else []
        x = layers.at(7, x, RELU, 1 if blocks else 0)
        recompute = self.recompute and torch.is_grad_enabled()
        for block in (layers[str(10 + i)] for i in range(blocks)):
            if recompute:
                x = checkpoint(block, x, draws, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, draws)
        x = layers.at(10 + blocks, x, RELU)
        if self.skips:
            x = torch.cat([x, before.pop()], 1)
            x = reflect(torch.cat([layers.at(13 + blocks, x, RELU), before.pop()], 1), 3)
        else:
            x = layers.at(13 + blocks, x, RELU, 3)
        return torch.tanh(image_conv(x, layers[str(17 + blocks)]))


class UNet(nn.Module):
    """Pix2pix's generator (Isola et al. 2017, appendix 6.1): `depth` halvings to k, 2k, 4k, 8k, 8k, ... channels, and
    back, where each size puts what it was beside what comes back. [N, c_in, H, W] -> [N, c_out, H, W].

    Dropout is in the layers of 8k channels on the way back, but for the innermost and the last of them.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        c_in: int = 3,
        c_out: int = 3,
        *,
        norm: NormKind = "instance",
        resize: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        self.depth, self.multiple = depth, 2**depth
        # Of one pixel, enlarged, a norm leaves nothing.
        self.smallest = self.multiple * (2 if resize and norm != "none" else 1)
        widths = [channels * min(8, 2**level) for level in range(depth)]
        self.down, self.up = Normed(norm, fused), Normed(norm, fused)
        how = {"kernel_size": 4, "stride": 2, "padding": 1}
        for level, width in enumerate(widths):
            outer, inner = (widths[level - 1] if level else c_in), level == depth - 1
            normed = 0 < level < depth - 1  # neither the first, as in the paper, nor the last, which may be one pixel
            conv = nn.Conv2d(outer, width, bias=self.down.bias if normed else norm != "batch", **how)  # as its code
            come = width if inner else 2 * width
            back, bias = (widths[level - 1], self.up.bias) if level else (c_out, True)
            up = ResizeConv(come, back, bias) if resize else nn.ConvTranspose2d(come, back, bias=bias, **how)
            for layers, layer, wanted in ((self.down, conv, normed), (self.up, up, level > 0)):
                if wanted:
                    layers.put(2 * level, layer)
                else:
                    layers[str(2 * level)] = layer

    def forward(self, image: Tensor, draws: Tensor | None = None) -> Tensor:
        """draws: int64 [N], of dropout; None for none."""
        x, kept, last = self.down["0"](image), [], self.depth - 1
        x = F.leaky_relu(x, LEAKY)
        for level in range(1, last):
            kept.append(F.relu(x))
            x = self.down.at(2 * level, x, LEAKY)
        kept.append(F.relu(x))
        x = F.relu(self.down[str(2 * last)](x))
        for level in range(last, 0, -1):
            x = self.up.at(2 * level, x, RELU)
            if 4 <= level < last:
                x = dropout(x, draws, level)
            x = torch.cat([kept.pop(), x], 1)
        return torch.tanh(self.up["0"](x))


class Discriminator(nn.Module):
    """PatchGAN: Ck, C2k, ..., one logit per overlapping patch. [N, c_in, H, W] -> [N, 1, H', W'].

    With 3 layers a logit sees 70x70 pixels, and 256x256 gives 30x30 logits. pixels: a logit for each pixel, which sees
    it alone (PixelGAN, Isola et al. 2017); it has 1 layer. spectral: every convolution is a SpectralConv.
    """

    def __init__(
        self,
        channels: int = 64,
        layers: int = 3,
        c_in: int = 3,
        *,
        norm: NormKind = "instance",
        pixels: bool = False,
        spectral: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        self.layers = layers = 1 if pixels else layers
        conv, kernel = SpectralConv if spectral else nn.Conv2d, (1, 1) if pixels else (4, 4)
        same, half = ({}, {}) if pixels else ({"padding": 1}, {"padding": 1, "stride": 2})
        self.model = Normed(norm, fused)
        self.model["0"] = conv(c_in, channels, kernel, **half)
        width = channels
        for layer in range(1, layers + 1):
            # The paper stops widening at 8k, and only the last normed layer keeps its resolution.
            wider, how = min(2 * width, 8 * channels), same if layer == layers else half
            self.model.put(3 * layer - 1, conv(width, wider, kernel, bias=self.model.bias, **how))
            width = wider
        self.model[str(3 * layers + 2)] = conv(width, 1, kernel, bias=not pixels or norm != "batch", **same)

    def forward(self, image: Tensor) -> Tensor:
        x = activate(self.model["0"](image), LEAKY)
        for layer in range(1, self.layers + 1):
            x = self.model.at(3 * layer - 1, x, LEAKY)
        return self.model[str(3 * self.layers + 2)](x)

    def power_iteration(self) -> None:
        """After a step: bring the estimates of the SpectralConvs up to their new weights."""
        for module in self.modules():
            if isinstance(module, SpectralConv):
                module.power_iteration()


def build_generator(
    networks: Networks, c_in: int, c_out: int, *, recompute: bool = False, fused: bool = False
) -> Generator | UNet:
    """networks: with the number of blocks filled in."""
    k, how = networks.generator_channels, {"norm": networks.norm, "resize": networks.upsample == "resize"}
    if networks.generator in ("unet_128", "unet_256"):
        return UNet(k, 7 if networks.generator == "unet_128" else 8, c_in, c_out, **how, fused=fused)
    how |= {"skips": networks.generator == "unet_residual", "recompute": recompute, "fused": fused}
    return Generator(k, networks.generator_blocks, c_in, c_out, **how)


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


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
