"""The networks of the CycleGAN paper (arXiv 1703.10593, appendix 7.2).

Shapes: images are [N, C, H, W] in [-1, 1], with C = 3 unless a domain is grey or has transparency; H and W
are multiples of 4 for the generator.

Two departures, neither of which changes what is computed:
- A convolution that is followed by an InstanceNorm has no bias. The norm subtracts it again, so its gradient is
  rounding noise, which Adam would turn into a random walk that differs with every batch split.
- No activation works in place: the output of an InstanceNorm is a view, and autograd would copy it several times.

Layers stand in the order of the well-known PyTorch code, so parameter names such as `model.10.conv_block.1.weight`
are the same there and here.
"""

import torch
from torch import Tensor, nn

INIT_STD = 0.02  # of the normal distribution every weight starts from (appendix 7.1)


def conv_norm_relu(c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
    return [conv, nn.InstanceNorm2d(c_out), nn.ReLU()]


def upsample_norm_relu(c_in: int, c_out: int) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1, bias=False)
    return [conv, nn.InstanceNorm2d(c_out), nn.ReLU()]


class ResidualBlock(nn.Module):
    """Rk: two 3x3 convolutions with reflection padding, added to their input. [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            *conv_norm_relu(channels, channels, kernel=3),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Generator(nn.Module):
    """c7s1-k, d2k, d4k, `blocks` x R4k, u2k, uk, c7s1-c_out. [N, c_in, H, W] in [-1, 1] -> [N, c_out, H, W]."""

    def __init__(self, channels: int = 64, blocks: int = 9, c_in: int = 3, c_out: int = 3):
        super().__init__()
        k = channels
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            *conv_norm_relu(c_in, k, kernel=7),
            *conv_norm_relu(k, 2 * k, kernel=3, stride=2, padding=1),
            *conv_norm_relu(2 * k, 4 * k, kernel=3, stride=2, padding=1),
            *[ResidualBlock(4 * k) for _ in range(blocks)],
            *upsample_norm_relu(4 * k, 2 * k),
            *upsample_norm_relu(2 * k, k),
            nn.ReflectionPad2d(3),
            nn.Conv2d(k, c_out, 7),
            nn.Tanh(),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


class Discriminator(nn.Module):
    """PatchGAN: Ck, C2k, ..., one logit per overlapping patch. [N, c_in, H, W] -> [N, 1, H', W'].

    With 3 layers a logit sees 70x70 pixels, and 256x256 gives 30x30 logits.
    """

    def __init__(self, channels: int = 64, layers: int = 3, c_in: int = 3):
        super().__init__()
        modules = [nn.Conv2d(c_in, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for layer in range(1, layers + 1):
            # The paper stops widening at 8k, and only the last normed layer keeps its resolution.
            wider = min(2 * width, 8 * channels)
            modules += [
                nn.Conv2d(width, wider, 4, stride=1 if layer == layers else 2, padding=1, bias=False),
                nn.InstanceNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        modules.append(nn.Conv2d(width, 1, 4, stride=1, padding=1))
        self.model = nn.Sequential(*modules)

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


@torch.no_grad()
def init_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight from N(0, 0.02) and set every bias to 0 (appendix 7.1), from `generator` alone."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, INIT_STD, generator=generator)
        else:
            parameter.zero_()


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
