"""The networks of the CycleGAN paper (arXiv 1703.10593, appendix 7.2).

Shapes: images are [N, C, H, W] in [-1, 1], with C = 3 unless a domain is grey or has transparency; H and W
are multiples of 4 for the generator.

Departures, none of which changes what is computed, up to rounding:
- A convolution that is followed by an InstanceNorm has no bias. The norm subtracts it again, so its gradient is
  rounding noise, which Adam would turn into a random walk that differs with every batch split.
- Norm, activation, residual sum and the next convolution's reflection padding are one call, `norm_act`, so that they
  can be one kernel. So what passes through the residual blocks is padded, and the sum takes its interior.
- No activation works in place: the output of an InstanceNorm is a view, and autograd would copy it several times.
- The last convolution may be computed as a narrower one (`image_conv`).

Layers with parameters are named by their place in the well-known PyTorch code, e.g. `model.10.conv_block.1.weight`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.config import Networks
from pipeline.fused import EPS, fused_norm

INIT_STD = 0.02  # of the normal distribution every weight starts from (appendix 7.1)
RELU, LEAKY, LINEAR = 0.0, 0.2, 1.0  # activations, by their slope below 0


def reflect(x: Tensor, pad: int) -> Tensor:
    return F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision to fp32; fp32 and fp64 as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def instance_norm(x: Tensor) -> Tensor:
    """Each channel of each sample to mean 0 and variance 1 (Ulyanov et al. 2016), without parameters."""
    if x.is_cpu and not torch.compiler.is_compiling():
        return F.group_norm(x, x.shape[1])  # the same, in half the time of torch's instance_norm
    if not torch.compiler.is_compiling():
        return F.instance_norm(x)
    # Written out, the compiler fuses it with what follows, keeps channels_last, and reads and writes bf16.
    wide = at_least_fp32(x)
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
    return ((wide - mean) * torch.rsqrt(variance + EPS)).to(x.dtype)


def norm_act(x: Tensor, slope: float, pad: int = 0, residual: Tensor | None = None, fused: bool = False) -> Tensor:
    """InstanceNorm, activation, sum with the interior of `residual`, reflection padding. fused: by fused.py's kernels.

    x [N, C, H, W], residual [N, C, H + 2, W + 2] -> [N, C, H + 2 pad, W + 2 pad].
    """
    if fused:
        return fused_norm(x, slope, pad, residual, 0 if residual is None else 1)
    x = instance_norm(x)
    if slope != LINEAR:
        x = F.leaky_relu(x, slope) if slope else F.relu(x)
    if residual is not None:
        x = x + residual[..., 1:-1, 1:-1]
    return reflect(x, pad)


def image_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution of stride 1 to few channels. [N, C, H + k - 1, W + k - 1] -> [N, c_out, H, W].

    On a CPU as one that is a single column wide: the taps of a row become channels of their own, whose results are
    shifted and added. The same sums in another order; 3 channels alone would leave most of a vector unit idle. An
    exported graph, which may run anywhere, has the plain form.
    """
    if not x.is_cpu or torch.compiler.is_exporting():
        return conv(x)
    c_out, c_in, height, width = conv.weight.shape
    columns = conv.weight.permute(3, 0, 1, 2).reshape(width * c_out, c_in, height, 1)
    taps = F.conv2d(x, columns).split(c_out, dim=1)
    image_width = x.shape[3] - width + 1
    image = sum(tap[..., column : column + image_width] for column, tap in enumerate(taps))
    return image + conv.bias.view(1, -1, 1, 1).to(image.dtype)


class ResidualBlock(nn.Module):
    """Rk: two 3x3 convolutions with reflection padding, added to their input. [N, C, H + 2, W + 2], padded.

    last: give [N, C, H, W], which no other block follows.
    """

    def __init__(self, channels: int, last: bool, fused: bool):
        super().__init__()
        self.pad, self.fused = 0 if last else 1, fused
        self.conv_block = nn.ModuleDict({name: nn.Conv2d(channels, channels, 3, bias=False) for name in "15"})

    def forward(self, x: Tensor) -> Tensor:
        inner = norm_act(self.conv_block["1"](x), RELU, 1, fused=self.fused)
        return norm_act(self.conv_block["5"](inner), LINEAR, self.pad, residual=x, fused=self.fused)


class Generator(nn.Module):
    """c7s1-k, d2k, d4k, `blocks` x R4k, u2k, uk, c7s1-c_out. [N, c_in, H, W] in [-1, 1] -> [N, c_out, H, W].

    recompute: keep only the residual blocks' inputs for the backward pass, and compute the rest of them again there.
    fused: see norm_act.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 9,
        c_in: int = 3,
        c_out: int = 3,
        *,
        recompute: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        k, self.recompute, self.fused = channels, recompute, fused
        up = {"stride": 2, "padding": 1, "output_padding": 1, "bias": False}
        layers = [
            (1, nn.Conv2d(c_in, k, 7, bias=False)),
            (4, nn.Conv2d(k, 2 * k, 3, stride=2, padding=1, bias=False)),
            (7, nn.Conv2d(2 * k, 4 * k, 3, stride=2, padding=1, bias=False)),
            *[(10 + i, ResidualBlock(4 * k, i == blocks - 1, fused)) for i in range(blocks)],
            (10 + blocks, nn.ConvTranspose2d(4 * k, 2 * k, 3, **up)),
            (13 + blocks, nn.ConvTranspose2d(2 * k, k, 3, **up)),
            (17 + blocks, nn.Conv2d(k, c_out, 7)),
        ]
        self.model = nn.ModuleDict({str(place): layer for place, layer in layers})

    def forward(self, image: Tensor) -> Tensor:
        first, half, quarter, *blocks, up, up_again, last = self.model.values()
        x = norm_act(first(reflect(image, 3)), RELU, fused=self.fused)
        x = norm_act(half(x), RELU, fused=self.fused)
        x = norm_act(quarter(x), RELU, 1 if blocks else 0, fused=self.fused)
        recompute = self.recompute and torch.is_grad_enabled()
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if recompute else block(x)
        x = norm_act(up(x), RELU, fused=self.fused)
        x = norm_act(up_again(x), RELU, 3, fused=self.fused)
        return torch.tanh(image_conv(x, last))


class Discriminator(nn.Module):
    """PatchGAN: Ck, C2k, ..., one logit per overlapping patch. [N, c_in, H, W] -> [N, 1, H', W'].

    With 3 layers a logit sees 70x70 pixels, and 256x256 gives 30x30 logits.
    """

    def __init__(self, channels: int = 64, layers: int = 3, c_in: int = 3, *, fused: bool = False):
        super().__init__()
        self.fused = fused
        modules = {"0": nn.Conv2d(c_in, channels, 4, stride=2, padding=1)}
        width = channels
        for layer in range(1, layers + 1):
            # The paper stops widening at 8k, and only the last normed layer keeps its resolution.
            wider, stride = min(2 * width, 8 * channels), 1 if layer == layers else 2
            modules[str(3 * layer - 1)] = nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False)
            width = wider
        modules[str(3 * layers + 2)] = nn.Conv2d(width, 1, 4, stride=1, padding=1)
        self.model = nn.ModuleDict(modules)

    def forward(self, image: Tensor) -> Tensor:
        first, *normed, last = self.model.values()
        x = F.leaky_relu(first(image), LEAKY)
        for conv in normed:
            x = norm_act(conv(x), LEAKY, fused=self.fused)
        return last(x)


def build_generator(
    networks: Networks, c_in: int, c_out: int, *, recompute: bool = False, fused: bool = False
) -> nn.Module:
    """The generator that `networks` describes, for images of c_in channels. recompute, fused: see Generator."""
    size = networks.generator_channels, networks.generator_blocks
    return Generator(*size, c_in, c_out, recompute=recompute, fused=fused)


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
