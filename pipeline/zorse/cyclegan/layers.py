"""What the networks are made of, beside torch's own convolutions. Shapes are [N, C, H, W]."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

from zorse.ops.fused_norm import EPS, fused_norm
from zorse.ops.winograd import conv3x3, use_winograd

INIT_STD = 0.02  # of the normal distribution every weight starts from (appendix 7.1)
MOMENTUM = 0.1  # of a batch norm's running statistics
RELU, LEAKY, LINEAR = 0.0, 0.2, 1.0  # activations, by their slope below 0

NormKind = Literal["instance", "batch", "none", "centred"]
NORMLESS = ("none", "centred")


def reflect(x: Tensor, pad: int) -> Tensor:
    return F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x


def at_least_fp32(x: Tensor) -> Tensor:
    """Cast half precision to fp32; fp32 and fp64 stay as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def instance_norm(x: Tensor) -> Tensor:
    """Normalize each channel of each sample to mean 0 and variance 1 (Ulyanov et al. 2016), without parameters."""
    if x.is_cpu and not torch.compiler.is_compiling():
        # The same, in half the time of torch's instance_norm. Of channels_last it would lose digits, by the thousand.
        return F.group_norm(x.contiguous(), x.shape[1])
    if not torch.compiler.is_compiling():
        return F.instance_norm(x)
    # Written out, the compiler fuses it with what follows, keeps channels_last, and reads and writes bf16.
    wide = at_least_fp32(x)
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
    return ((wide - mean) * torch.rsqrt(variance + EPS)).to(x.dtype)


def activate(x: Tensor, slope: float, pad: int = 0, residual: Tensor | None = None) -> Tensor:
    """Activation, sum with the interior of `residual`, reflection padding.

    x [N, C, H, W], residual [N, C, H + 2, W + 2] -> [N, C, H + 2 pad, W + 2 pad].
    """
    if slope != LINEAR:
        x = F.leaky_relu(x, slope) if slope else F.relu(x)
    if residual is not None:
        x = x + residual[..., 1:-1, 1:-1]
    return reflect(x, pad)


class Norm(nn.Module):
    """A norm and what follows it, as one call, so that it can be one kernel. Shapes: see `activate`.

    kind "instance" has no parameters and no state. "batch" (Ioffe and Szegedy 2015) takes its statistics over the
    images of a step on all ranks, so that it does not depend on their number, and has weight, bias, and the running
    statistics that it uses in evaluation. "none" and "centred" norm nothing; of the latter see `centre_weights`. fused:
    instance norm by fused.py's kernels.
    """

    def __init__(self, kind: NormKind, channels: int, fused: bool = False):
        super().__init__()
        self.kind, self.fused = kind, fused
        if kind == "batch":
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, slope: float, pad: int = 0, residual: Tensor | None = None) -> Tensor:
        if self.fused:
            return fused_norm(x, slope, pad, residual, 0 if residual is None else 1)
        if self.kind == "instance":
            x = instance_norm(x)
        elif self.kind == "batch":
            x = self._batch_norm(x)
        return activate(x, slope, pad, residual)

    def _batch_norm(self, x: Tensor) -> Tensor:
        wide, mean, variance = at_least_fp32(x), self.running_mean, self.running_var
        if self.training:
            mean = mean_over_ranks(wide.mean((0, 2, 3)))
            variance = mean_over_ranks((wide - mean[:, None, None]).square().mean((0, 2, 3)))
            with torch.no_grad():
                ranks = distributed.get_world_size() if distributed.is_initialized() else 1
                count = x.numel() // x.shape[1] * ranks
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_var.lerp_(variance * count / max(1, count - 1), MOMENTUM)
        scale = torch.rsqrt(variance + EPS) * self.weight
        return ((wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def to_range(x: Tensor, norm: NormKind, training: bool) -> Tensor:
    """The last step of a generator of this norm: into [-1, 1].

    By tanh, as in the paper. In networks without norms nothing keeps what comes before it small, and where tanh has no
    slope, as on black and white, nothing is learned any more; so centred ones are linear in training, where the losses
    keep them in range, and clipped when they translate.
    """
    if norm != "centred":
        return torch.tanh(x)
    return x if training else x.clamp(-1, 1)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean over all ranks, differentiable. Every rank must have as many samples."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return x
    return all_reduce(x) / distributed.get_world_size()


def dropout(x: Tensor, draws: Tensor | None, place: int) -> Tensor:
    """Set half of the values to 0 and double the others (Srivastava et al. 2014). None: leave all, in evaluation.

    draws: int64 [N], a random number for each sample; with `place`, a layer's number, it decides, so that neither the
    batch nor the rank that a sample is in does.
    """
    if draws is None:
        return x
    of_layer = _mix(draws + place)
    index = torch.arange(x[0].numel(), device=x.device).view(1, *x.shape[1:])
    return torch.where(_mix(index + of_layer[:, None, None, None]) < 0, 2 * x, 0)


def _mix(x: Tensor) -> Tensor:
    """order.mix of each number, in int64, whose shifts fill up with the sign that has to be taken off again."""
    x = x - 7046029254386353131
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -4658895280553007687
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -7723592293110705685
    return x ^ (x >> 31 & (1 << 33) - 1)


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


class ResidualConv(nn.Conv2d):
    """3x3, unpadded; in fewer multiplications where it is compiled for a CPU."""

    def __init__(self, channels: int, bias: bool):
        super().__init__(channels, channels, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not use_winograd(x, self.weight):
            return super().forward(x)
        y = conv3x3(x, self.weight)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


class ResizeConv(nn.Conv2d):
    """Each pixel four times, and a 3x3 convolution: no checkerboard (Odena et al. 2016). [N, C, 2 H, 2 W]."""

    def __init__(self, c_in: int, c_out: int, bias: bool):
        super().__init__(c_in, c_out, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(reflect(F.interpolate(x, scale_factor=2, mode="nearest"), 1))


@torch.no_grad()
def centre_weights(convolutions: Iterable[nn.Conv2d | nn.ConvTranspose2d]) -> None:
    """Subtract from each filter the mean of its weights, in place. (The centring of Qiao et al. 2019, arXiv 1903.10520)

    What comes out of a ReLU is positive, so a shift of all weights of a filter shifts its output by their number times
    the mean of its input. Adam moves all weights by the learning rate, at first in the same direction wherever outputs
    are too dark; without a norm, which would subtract that shift, some ten steps of it in each layer take the outputs
    to where tanh has no slope any more.
    """
    for conv in convolutions:
        filters = (0, 2, 3) if isinstance(conv, nn.ConvTranspose2d) else (1, 2, 3)
        conv.weight -= conv.weight.mean(filters, keepdim=True)


class SpectralConv(nn.Conv2d):
    """A convolution divided by the largest singular value of its weight, [c_out, the rest] (Miyato et al. 2018).

    u estimates the left singular vector. It changes in `power_iteration` alone, once a step, so that what a step
    computes depends neither on how often nor on how many ranks this is called.
    """

    def __init__(self, *sizes: int, **options):
        super().__init__(*sizes, **options)
        self.register_buffer("u", torch.ones(self.out_channels) / self.out_channels**0.5)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            u, v = singular_vectors(matrix, self.u)
        largest = (matrix * u[:, None] * v).sum()
        return self._conv_forward(x, self.weight / largest, self.bias)

    @torch.no_grad()
    def power_iteration(self, times: int = 1) -> None:
        for _ in range(times):
            self.u.copy_(singular_vectors(self.weight.flatten(1), self.u)[0])


def singular_vectors(matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One step of power iteration towards those of the largest singular value: (left, right)."""
    # Products element by element, which autocast leaves as precise as they are.
    v = F.normalize((matrix * u[:, None]).sum(0), dim=0)
    return F.normalize((matrix * v).sum(1), dim=0), v


class Normed(nn.ModuleDict):
    """Convolutions by their index, each with its norm at the index after it."""

    def __init__(self, norm: NormKind, fused: bool):
        super().__init__()
        self.norm, self.fused = norm, fused
        self.bias = norm in NORMLESS  # a norm makes that of a convolution in front of it inert

    def put(self, place: int, conv: nn.Module) -> None:
        transposed = isinstance(conv, nn.ConvTranspose2d)
        self[str(place)] = conv
        self[str(place + 1)] = Norm(self.norm, conv.weight.shape[1 if transposed else 0], self.fused)

    def at(self, place: int, x: Tensor, slope: float, pad: int = 0, residual: Tensor | None = None) -> Tensor:
        """Convolution, norm, activation, residual sum and padding; see `activate`."""
        return self[str(place + 1)](self[str(place)](x), slope, pad, residual)
