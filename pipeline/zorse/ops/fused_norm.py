"""InstanceNorm, activation, residual and reflection padding as one operation on a GPU, forward and backward.

Shapes: x is [N, C, H, W]. All tensors are channels_last, in fp32, bf16 or fp16; statistics and sums are fp32.

Each of these is only memory traffic, which one kernel after another would read and write again. Fused, the
forward pass reads x twice and writes once, already padded for the next convolution; the backward pass reads x and the
incoming gradient twice and writes once. Saved in between are x, the mean and 1 / standard deviation, not the output.

To torch.compile and autograd it is one opaque operator, that runs in the precision it is given: autocast leaves it be.
The kernels (fused_norm_triton.py) are imported when they first run, so that importing this module needs no triton.
"""

import torch
from torch import Tensor

EPS = 1e-5  # added to the variance, as in torch.nn.InstanceNorm2d
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def fused_norm(x: Tensor, slope: float, pad: int = 0, residual: Tensor | None = None, residual_pad: int = 0) -> Tensor:
    """reflect_pad(activation(instance_norm(x)) + residual, pad): [N, C, H, W] -> [N, C, H + 2 pad, W + 2 pad].

    slope: of the activation below zero: 0 for ReLU, 0.2 for the paper's LeakyReLU, 1 for none. residual: the output of
    an earlier call, [N, C, H + 2 residual_pad, W + 2 residual_pad], of which only the inside is added; so a chain of
    residual blocks keeps its stream once, padded for the next convolution. The gradient of the residual's padding is
    zero here; its convolution adds its own. Raises ValueError or TypeError for what cannot be computed.
    """
    _check(x, pad, residual, residual_pad)
    x = x.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    return _forward(x, residual, float(slope), pad, residual_pad)[0]


def _check(x: Tensor, pad: int, residual: Tensor | None, residual_pad: int) -> None:
    if x.dtype not in PRECISIONS:
        raise TypeError(f"fused_norm computes in fp32, bf16 or fp16, not in {x.dtype}; use torch's own operations")
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"fused_norm needs x [N, C, H, W] with no side of 0, not {list(x.shape)}")
    samples, channels, height, width = x.shape
    if height * width == 1:
        raise ValueError(f"one pixel has no variance: x is {list(x.shape)}, and a norm needs H * W > 1")
    if not 0 <= pad < min(height, width):
        raise ValueError(f"reflection padding of {pad} needs more than {pad} rows and columns; x is {list(x.shape)}")
    if residual is None:
        if residual_pad:
            raise ValueError(f"residual_pad is {residual_pad}, but there is no residual")
        return
    shape = (samples, channels, height + 2 * residual_pad, width + 2 * residual_pad)
    if residual_pad < 0 or residual.shape != shape:
        raise ValueError(
            f"the residual of x {list(x.shape)} padded by {residual_pad} is {list(shape)}, not {list(residual.shape)}"
        )
    if residual.dtype != x.dtype or residual.device != x.device:
        raise TypeError(
            f"x is {x.dtype} on {x.device}, but the residual {residual.dtype} on {residual.device}; they must be alike"
        )


@torch.library.custom_op("zorse::fused_norm", mutates_args=())
def _forward(x: Tensor, residual: Tensor | None, slope: float, pad: int, residual_pad: int) -> tuple[Tensor, Tensor]:
    """The output, and the statistics [N, 2, C]: mean and 1 / standard deviation."""
    from zorse.ops import fused_norm_triton as kernels

    x = x.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    out, statistics = _like_forward(x, residual, slope, pad, residual_pad)
    samples, channels, height, width = x.shape
    pixels = height * width
    rows, columns, shares, few = kernels.tiles(pixels, channels)
    parts = torch.empty(samples, 2, shares, channels, dtype=torch.float32, device=x.device)
    tile = {"ROWS": rows, "COLUMNS": columns, **kernels.OPTIONS}
    with torch.cuda.device_of(x):
        kernels.moments[shares, _cdiv(channels, columns), samples](x, parts, pixels, channels, SHARES=shares, **tile)
        kernels.join_moments[1, _cdiv(channels, few), samples](
            parts, statistics, pixels, channels, EPS, SHARES=shares, ROWS=rows, COLUMNS=few, **kernels.OPTIONS
        )
        kernels.normalize[_cdiv(out[0, 0].numel(), rows), _cdiv(channels, columns), samples](
            x, statistics, residual, out, height, width, channels,
            SLOPE=slope, PAD=pad, RESIDUAL=residual is not None, RESIDUAL_PAD=residual_pad, **tile,
        )  # fmt: skip
    return out, statistics


@_forward.register_fake
def _like_forward(
    x: Tensor, residual: Tensor | None, slope: float, pad: int, residual_pad: int
) -> tuple[Tensor, Tensor]:
    samples, channels, height, width = x.shape
    shape = (samples, channels, height + 2 * pad, width + 2 * pad)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return out, torch.empty(samples, 2, channels, dtype=torch.float32, device=x.device)


@torch.library.custom_op("zorse::fused_norm_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, statistics: Tensor, slope: float, pad: int, has_residual: bool, residual_pad: int
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the residual, of which the second is empty where there is none."""
    from zorse.ops import fused_norm_triton as kernels

    grad = grad.contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    grad_x, grad_residual = _like_backward(grad, x, statistics, slope, pad, has_residual, residual_pad)
    samples, channels, height, width = x.shape
    rows, columns, shares, few = kernels.tiles(grad[0, 0].numel(), channels)
    parts = torch.empty(samples, 2, shares, channels, dtype=torch.float32, device=x.device)
    means = torch.empty_like(statistics)
    tile = {"ROWS": rows, "COLUMNS": columns, **kernels.OPTIONS}
    places = (height + 2 * residual_pad) * (width + 2 * residual_pad)
    with torch.cuda.device_of(x):
        kernels.sums[shares, _cdiv(channels, columns), samples](
            grad, x, statistics, parts, height, width, channels, SLOPE=slope, PAD=pad, SHARES=shares, **tile
        )
        kernels.join_sums[1, _cdiv(channels, few), samples](
            parts, means, height * width, channels, SHARES=shares, COLUMNS=few, **kernels.OPTIONS
        )
        kernels.gradient[_cdiv(places, rows), _cdiv(channels, columns), samples](
            grad, x, statistics, means, grad_x, grad_residual, height, width, channels,
            SLOPE=slope, PAD=pad, RESIDUAL=has_residual, RESIDUAL_PAD=residual_pad, **tile,
        )  # fmt: skip
    return grad_x, grad_residual


@_backward.register_fake
def _like_backward(
    grad: Tensor, x: Tensor, statistics: Tensor, slope: float, pad: int, has_residual: bool, residual_pad: int
) -> tuple[Tensor, Tensor]:
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if not has_residual:
        return grad_x, x.new_empty(0)
    samples, channels, height, width = x.shape
    shape = (samples, channels, height + 2 * residual_pad, width + 2 * residual_pad)
    return grad_x, torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _remember(ctx, inputs, output) -> None:
    x, residual, *ctx.options = inputs
    ctx.has_residual = residual is not None
    ctx.save_for_backward(x, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or zeros would be written for the statistics


def _differentiate(ctx, grad: Tensor, _) -> tuple[Tensor | None, ...]:
    slope, pad, residual_pad = ctx.options
    grad_x, grad_residual = _backward(grad, *ctx.saved_tensors, slope, pad, ctx.has_residual, residual_pad)
    return grad_x, grad_residual if ctx.has_residual else None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)
