"""The gradients of 3x3 convolutions in a quarter of the multiplications, for a compiler on a CPU.

Winograd's F(4x4, 3x3) (Lavin and Gray 2016, section 4.1, arXiv 1509.09308) makes 4x4 outputs of 6x6 inputs as
A^T ((G w G^T) * (B^T x B)) A, where * is 36 products of matrices instead of 144. It is linear in x and in w, so both
gradients are the same steps transposed. Their rounding is some ten times that of the plain sums, 3e-6 of the whole in
float32; so the convolution itself, and with it every loss, stays the plain one.

Lists of lists are such grids, whose entries are tensors of one value per tile and channel. The compiler makes one pass
over memory of each grid; written with torch's operators alone they cost more than they save.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = list[list[Tensor]]
TILE = 4
ONEDNN = torch.backends.mkldnn.is_available()
INPUT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
         [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]  # B^T  # fmt: skip
WEIGHT = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
          [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]  # G  # fmt: skip
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]  # A^T


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether the gradients of conv2d(x, weight) may be had this way, and sooner. x [N, C, H + 2, W + 2]."""
    tiles = x.shape[0] * (x.shape[2] - 2) * (x.shape[3] - 2) // TILE**2
    return (
        torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and ONEDNN
        and not (x.shape[2] - 2) % TILE
        and not (x.shape[3] - 2) % TILE
        and tiles >= 64
        and min(weight.shape[:2]) >= 128
    )


class WinogradConv(torch.autograd.Function):
    """conv2d(x, weight): [N, C, H + 2, W + 2], [K, C, 3, 3] -> [N, K, H, W], H and W multiples of 4."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradients(gradient, *ctx.saved_tensors)


@torch.library.custom_op("zorse::gradients", mutates_args=())
def gradients(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Those to x, in channels_last, and to weight. One operator, so that it is compiled once for all layers alike."""
    return _compiled()(gradient, x, weight)


@gradients.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last), weight.new_empty(weight.shape)


@lru_cache
def _compiled() -> Callable:
    return torch.compile(_gradients, dynamic=False, fullgraph=True)


def _gradients(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    n, c, height, width = x.shape
    k, rows, columns = len(weight), (height - 2) // TILE, (width - 2) // TILE

    tiles = gradient.permute(0, 2, 3, 1).reshape(n, rows, TILE, columns, TILE, k)
    of_products = _both_ways(_transposed(OUTPUT), [[tiles[:, :, i, :, j] for j in range(4)] for i in range(4)])
    of_products = _matrices(of_products, n * rows * columns, k)

    weights = _both_ways(WEIGHT, [[weight[:, :, i, j] for j in range(3)] for i in range(3)])
    of_input = products(of_products, _matrices(weights, k, c).transpose(1, 2)).view(6, 6, n, rows, columns, c)
    of_input = _both_ways(_transposed(INPUT), [[of_input[i, j] for j in range(6)] for i in range(6)])
    of_input = [_overlapped(row, 2) for row in of_input]
    of_input = [_overlapped(list(column), 1) for column in zip(*of_input, strict=True)]  # [j][i] now
    of_x = torch.stack([torch.stack(column, 2) for column in of_input], 4)  # [n, rows + 1, 4, columns + 1, 4, c]
    of_x = of_x.reshape(n, TILE * (rows + 1), TILE * (columns + 1), c)[:, :height, :width]

    x = x.permute(0, 2, 3, 1)
    last = [size - 5 for size in (height, width)]  # where the last tile's first value is, and one
    inputs = [[x[:, i : i + last[0] : TILE, j : j + last[1] : TILE] for j in range(6)] for i in range(6)]
    inputs = _matrices(_both_ways(INPUT, inputs), n * rows * columns, c)
    of_weights = products(of_products.transpose(1, 2), inputs.transpose(1, 2)).view(6, 6, k, c)
    of_weight = _both_ways(_transposed(WEIGHT), [[of_weights[i, j] for j in range(6)] for i in range(6)])
    of_weight = torch.stack([torch.stack(row, -1) for row in of_weight], -2)
    return of_x.contiguous().permute(0, 3, 1, 2), of_weight.contiguous()


@torch.library.custom_op("zorse::products", mutates_args=())
def products(a: Tensor, b: Tensor) -> Tensor:
    """[36, m, k] and [36, n, k] -> [36, m, n], each a times b transposed.

    By oneDNN, which is twice as fast as torch.bmm where that uses MKL on a processor not by Intel.
    """
    linear = torch.ops.mkldnn._linear_pointwise
    return torch.stack([linear(one, other, None, "none", [], "") for one, other in zip(a, b, strict=True)])


@products.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1], b.shape[1])


def _both_ways(matrix: list[list[float]], grid: Grid) -> Grid:
    """matrix grid matrix^T."""
    columns = [_times(matrix, column) for column in zip(*grid, strict=True)]
    return [_times(matrix, row) for row in zip(*columns, strict=True)]


def _times(matrix: list[list[float]], entries: tuple[Tensor, ...]) -> list[Tensor]:
    return [sum(factor * entry for factor, entry in zip(row, entries, strict=True) if factor != 0) for row in matrix]


def _transposed(matrix: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def _matrices(grid: Grid, rows: int, columns: int) -> Tensor:
    return torch.stack([entry.reshape(rows, columns) for row in grid for entry in row])


def _overlapped(six: list[Tensor], dim: int) -> list[Tensor]:
    """The four values of each tile of 4, and of one more, of the six of tiles that overlap by 2. Along dim 1 or 2."""
    before, after = [0, 0] * (4 - dim), [0, 0] * (4 - dim)
    before[-2], after[-1] = 1, 1
    four = [F.pad(value, after) for value in six[:TILE]]
    return [value + F.pad(six[TILE + i], before) if i < 2 else value for i, value in enumerate(four)]
