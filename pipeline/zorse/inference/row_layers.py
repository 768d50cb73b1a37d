"""Layers of the generator on tensors that exist row by row: each asks for the rows that its own need.

A tensor [1, C, height, W] is here what has a height and `read(a, b)`, which gives rows [a, b) in channels_last: a Rows,
or a store of row_stores.py. A layer takes one and is one, so that a generator reads as in resnet.py, and rows of its
output are computed from no more rows of the image than they need. Rows outside the image are padding, as if it were
whole.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zorse.cyclegan.layers import RELU, at_least_fp32
from zorse.data.pixels import to_network
from zorse.inference.row_stores import Store
from zorse.ops.fused_norm import EPS

PIECE = 2**20  # values of which statistics are taken at once: few enough for a cache, enough for threads to be worth it


@dataclass(frozen=True)
class Rows:
    """What `read` gives is new each time, and may be changed."""

    height: int
    read: Callable[[int, int], Tensor]


def image_rows(pixels: Tensor, height: int, width: int, like: Tensor) -> Rows:
    """Pixels [C, H, W] as the networks see them, on the device and in the precision of `like`.

    The lower and right edges are repeated up to a height and width.
    """
    columns = torch.arange(width).clamp(max=pixels.shape[2] - 1)

    def read(a: int, b: int) -> Tensor:
        band = pixels[:, torch.arange(a, b).clamp(max=pixels.shape[1] - 1)]
        band = band if width == pixels.shape[2] else band[..., columns]
        return to_network(band[None], like.device, like.dtype).contiguous(memory_format=torch.channels_last)

    return Rows(height, read)


def convolved(x: Rows | Store, conv: nn.Conv2d, compute: Callable[[Tensor, nn.Conv2d], Tensor] | None = None) -> Rows:
    """A convolution that pads with zeros, or if it does not pad, after reflection padding. compute: see image_conv.

    Rows [a, b) need [stride a - pad, stride (b - 1) + pad + 1).
    """
    stride, pad, zeros = conv.stride[0], conv.kernel_size[0] // 2, conv.padding[0] > 0

    def read(a: int, b: int) -> Tensor:
        a, b = stride * a - pad, stride * (b - 1) + pad + 1
        rows, above, below = x.read(max(a, 0), min(b, x.height)), max(-a, 0), max(b - x.height, 0)
        if not zeros:
            rows = F.pad(rows, (pad, pad, above, below), mode="reflect")
        elif above or below:
            rows = F.pad(rows, (0, 0, above, below))
        if compute:
            return compute(rows, conv)
        rows = F.conv2d(rows, conv.weight, conv.bias, stride, (0, pad if zeros else 0))
        return rows.contiguous(memory_format=torch.channels_last)  # after a grey image, torch chooses the other order

    return Rows(x.height // stride, read)


def upsampled(x: Rows | Store, conv: nn.ConvTranspose2d) -> Rows:
    """A transposed convolution, 3x3, to twice the size. Rows 2i and 2i + 1 need i, and the latter i + 1 as well."""

    def read(a: int, b: int) -> Tensor:
        first, last = a // 2, min(b // 2 + 1, x.height)
        return conv(x.read(first, last))[:, :, a - 2 * first : b - 2 * first]

    return Rows(2 * x.height, read)


@dataclass(frozen=True)
class Moments:
    """Statistics of each channel: number of values, their mean, and sum of squared deviations from it, float64 [C]."""

    count: int
    mean: Tensor
    squares: Tensor


def moments_of(rows: Tensor) -> Moments:
    """The moments of rows, computed piece by piece, each while it is in the cache."""
    values = rows[0].permute(1, 2, 0).flatten(0, 1)  # [pixels, C]
    parts = []
    for piece in values.split(max(1, PIECE // values.shape[1]) if rows.is_cpu else len(values)):
        piece = at_least_fp32(piece)
        mean = piece.mean(0)
        squares = (piece - mean).square_().sum(0)
        parts.append(Moments(len(piece), mean.cpu().double(), squares.cpu().double()))
    return merged(parts)


def merged(parts: list[Moments]) -> Moments:
    """The moments of all parts together (Chan et al. 1983)."""
    count = sum(part.count for part in parts)
    mean = sum(part.mean * (part.count / count) for part in parts)
    return Moments(count, mean, sum(part.squares + part.count * (part.mean - mean).square() for part in parts))


Affine = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # mean, variance, weight and bias of each channel


def normed(x: Rows | Store, affine: Affine | None, slope: float) -> Rows:
    """A norm with given statistics, or none, and the activation."""

    def read(a: int, b: int) -> Tensor:
        rows = x.read(a, b)
        if affine:
            like = at_least_fp32(rows[:0])
            rows = F.batch_norm(rows, *(each if each is None else each.to(like) for each in affine), eps=EPS)
        else:
            rows = rows.clone()  # which may be a store's own
        return F.relu_(rows) if slope == RELU else rows

    return Rows(x.height, read)


def upsample_nearest(x: Rows) -> Rows:
    """Repeat each value in a block of 2 x 2."""

    def read(a: int, b: int) -> Tensor:
        first, last = a // 2, (b - 1) // 2 + 1
        rows = F.interpolate(x.read(first, last), scale_factor=2, mode="nearest")
        return rows[:, :, a - 2 * first : b - 2 * first]

    return Rows(2 * x.height, read)


def concat(x: Rows, y: Rows) -> Rows:
    """Concatenate the channels of both."""
    return Rows(x.height, lambda a, b: torch.cat([x.read(a, b), y.read(a, b)], 1))


def add(x: Rows | Store, y: Rows) -> Rows:
    return Rows(x.height, lambda a, b: y.read(a, b).add_(x.read(a, b)))


def cached(x: Rows, store: Store) -> Rows:
    """x, whose rows go into a store when they are first asked for, from top to bottom, and then come from there.

    x may itself read the store, for what its rows were before. What this reads is not to be changed.
    """
    done = 0

    def read(a: int, b: int) -> Tensor:
        nonlocal done
        if b > done:
            store.write(done, x.read(done, b))
            done = b
        return store.read(a, b)

    return Rows(x.height, read)


def cached_with_halo(store: Store) -> Rows:
    """A store, for a 3x3 convolution whose results are written over it, band by band from top to bottom.

    Of each band's halo the upper row has been overwritten by then. So it is kept aside: the last but one that the band
    before has read.
    """
    above = None

    def read(a: int, b: int) -> Tensor:
        nonlocal above
        rows = store.read(a, b) if above is None else torch.cat([above, store.read(a + 1, b)], 2)
        above = rows[:, :, -2:-1].clone()
        return rows

    return Rows(store.height, read)
