"""Pix2pix's U-Net generators (Isola et al. 2017, appendix 6.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zorse.cyclegan.layers import (
    LEAKY,
    NORMLESS,
    RELU,
    Normed,
    NormKind,
    ResizeConv,
    dropout,
    to_range,
)


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
        self.smallest = self.multiple * (2 if resize and norm not in NORMLESS else 1)
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

    @property
    def ends(self) -> tuple[nn.Module, nn.Module]:
        """The convolutions that read and that write an image."""
        return self.down["0"], self.up["0"]

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
        return to_range(self.up["0"](x), self.up.norm, self.training)
