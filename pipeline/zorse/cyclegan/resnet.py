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
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zorse.cyclegan.layers import (
    LINEAR,
    RELU,
    Normed,
    NormKind,
    ResidualConv,
    ResizeConv,
    dropout,
    image_conv,
    reflect,
    to_range,
)


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

    @property
    def ends(self) -> tuple[nn.Module, nn.Module]:
        """The convolutions that read and that write an image."""
        return self.model["1"], self.model[str(17 + self.blocks)]

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
        return to_range(image_conv(x, layers[str(17 + blocks)]), self.model.norm, self.training)
