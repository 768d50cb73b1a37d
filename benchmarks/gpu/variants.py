"""Contenders of this check: those of contenders.py and reference.py, and two more that only it looks at."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import Contender, Ours
from torch import Tensor, nn

from zorse.config.schema import Networks
from zorse.cyclegan import resnet


class ChannelsLast(Ours):
    """In channels_last where no option brings that along: it shows how much of eager's time is transposing."""

    def build(self, images: Tensor, full: bool) -> None:
        super().build(images, full)
        self.model.to(memory_format=torch.channels_last)


def packed(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """layers.image_conv as on a CPU, on any device: 7x1 to 21 channels and sums, where 3 channels would leave most of a
    tensor core idle. Sums are float32, so that bf16 rounds only once more.
    """
    c_out, c_in, height, width = conv.weight.shape
    columns = conv.weight.permute(3, 0, 1, 2).reshape(width * c_out, c_in, height, 1)
    taps = F.conv2d(x, columns).split(c_out, dim=1)
    image_width = x.shape[3] - width + 1
    image = sum(tap[..., column : column + image_width].float() for column, tap in enumerate(taps))
    return image + conv.bias.view(1, -1, 1, 1)


def maker(variant: str, networks: Networks, reference: Path | None) -> Callable[[], Contender]:
    """What makes a contender of that name. packed changes the networks of this process, from now on."""
    threads = None if torch.cuda.is_available() else 1
    words = variant.split("-")
    if variant == "reference":
        from reference import Reference

        return lambda: Reference(reference.resolve(), networks, threads)
    if "packed" in words:
        resnet.image_conv = packed
    return lambda: (ChannelsLast if "cl" in words else Ours)(variant, networks, threads)
