"""3x3 convolutions in a quarter of the multiplications, forward and backward, for a compiler on a CPU.

Winograd's F(4x4, 3x3) makes 4x4 outputs of 6x6 inputs as A^T ((G w G^T) * (B^T x B)) A, where * is 36 products instead
of 144 (Lavin and Gray 2016, section 4, arXiv 1509.09308). Over images it is 36 products of matrices, [tiles, C] times
[C, K]. It is linear in x and in w, so both gradients are the same steps transposed.

On the points chosen here, rounding in float32 is 1e-6 to 2e-6 of a result's norm, where the plain sums' is 2e-7 to
1e-6. It is relative to the largest value in a tile, not to each result.

The compiler makes one pass over memory of each step; written with torch's operators alone, the steps would cost more
than they save.
"""

from collections.abc import Callable
from functools import lru_cache, reduce
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

Matrix = list[list[float]]
Grid = list[list[Tensor]]  # 4x4 or 6x6, each with one value per tile and channel
TILE = 4
POINTS = [0, sqrt(0.5), -sqrt(0.5), sqrt(2), -sqrt(2)]  # and infinity; 0, 1, -1, 2, -2 would double the rounding
ONEDNN = torch.backends.mkldnn.is_available()


def _polynomial(roots: list[float]) -> list[float]:
    """Coefficients, the constant's first, of the product of (x - root)."""
    return reduce(lambda p, root: [b - root * a for a, b in zip([*p, 0], [0, *p], strict=True)], roots, [1.0])


def _others(point: float) -> list[float]:
    return [other for other in POINTS if other != point]


# Evaluation of both factors at the points, and interpolation of their product, transposed (the same, section 4.1).
OUTPUT = [[float(point**power) for point in POINTS] + [float(power == 3)] for power in range(4)]  # A^T
WEIGHT = [[point**power / prod(point - other for other in _others(point)) for power in range(3)] for point in POINTS]
WEIGHT += [[0.0, 0.0, 1.0]]  # G
INPUT = [[*_polynomial(_others(point)), 0.0] for point in POINTS] + [_polynomial(POINTS)]  # B^T


def use_winograd(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv3x3` can stand for conv2d(x, weight) here, and is faster. x [N, C, H + 2, W + 2]."""
    height, width, channels = x.shape[2] - 2, x.shape[3] - 2, min(weight.shape[:2])
    return (
        torch.compiler.is_dynamo_compiling()  # false as export.py exports, where is_compiling is true
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and ONEDNN
        and not height % TILE
        and not width % TILE
        and channels >= 128
        and x.shape[0] * height * width * channels >= 200_000  # with fewer, the weights' transforms cost too much
    )


@torch.library.custom_op("zorse::conv3x3", mutates_args=(), tags=(torch.Tag.flexible_layout,))
def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """conv2d(x, weight): [N, C, H + 2, W + 2], [K, C, 3, 3] -> [N, K, H, W] in channels_last. H, W multiples of 4.

    One operator, as its gradients are, so that the compiler makes it once for all layers alike.
    """
    inputs, weights = _compiled(_spread)(_channels_last(x), _by_taps(weight))
    return _compiled(_output)(_products(inputs, weights), *_tiles(x))


@conv3x3.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    n, _, height, width = x.shape
    return x.new_empty(n, height - 2, width - 2, len(weight)).permute(0, 3, 1, 2)


@torch.library.custom_op("zorse::conv3x3_gradients", mutates_args=(), tags=(torch.Tag.flexible_layout,))
def conv3x3_gradients(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x, in channels_last, and to weight, from gradient [N, K, H, W]."""
    inputs, weights = _compiled(_spread)(_channels_last(x), _by_taps(weight))
    outputs = _compiled(_spread_gradient)(_channels_last(gradient))
    of_input = _products(outputs, weights.transpose(1, 2))
    of_weight = _products(outputs.transpose(1, 2), inputs.transpose(1, 2))
    return _compiled(_input_gradient)(of_input, *_tiles(x)), _compiled(_weight_gradient)(of_weight)


@conv3x3_gradients.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    n, c, height, width = x.shape
    return x.new_empty(n, height, width, c).permute(0, 3, 1, 2), weight.new_empty(weight.shape)


def _save(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return conv3x3_gradients(gradient, *ctx.saved_tensors)


conv3x3.register_autograd(_backward, setup_context=_save)


@lru_cache
def _compiled(function: Callable) -> Callable:
    """Compile for each shape; CycleGANStep.compile_networks says how many there may be."""
    return torch.compile(function, dynamic=False, fullgraph=True)


def _channels_last(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H, W, C], in that order in memory."""
    return x.permute(0, 2, 3, 1).contiguous()


def _by_taps(weight: Tensor) -> Tensor:
    """[K, C, 3, 3] -> [3, 3, K, C], in that order in memory: read with strides, it would take longer than all else."""
    return weight.permute(2, 3, 0, 1).contiguous()


def _tiles(x: Tensor) -> tuple[int, int, int]:
    """How many images, rows and columns of tiles x [N, C, H + 2, W + 2] has."""
    return x.shape[0], (x.shape[2] - 2) // TILE, (x.shape[3] - 2) // TILE


def _products(a: Tensor, b: Tensor) -> list[Tensor]:
    """36 times [m, k] and [n, k] -> [m, n], each a times b transposed.

    By oneDNN, which is twice as fast as torch.bmm where that uses MKL on a processor not by Intel.
    """
    linear = torch.ops.mkldnn._linear_pointwise.default
    return [linear(one, other, None, "none", [], "") for one, other in zip(a.unbind(), b.unbind(), strict=True)]


def _spread(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """B^T x B and G w G^T: [N, H + 2, W + 2, C], [3, 3, K, C] -> [36, tiles, C], [36, K, C]."""
    last = [size - 5 for size in x.shape[1:3]]  # where the last tile begins, and one
    inputs = [[x[:, i : i + last[0] : TILE, j : j + last[1] : TILE] for j in range(6)] for i in range(6)]
    weights = [[weight[i, j] for j in range(3)] for i in range(3)]
    return _matrices(_both_ways(INPUT, inputs)), _matrices(_both_ways(WEIGHT, weights))


def _spread_gradient(gradient: Tensor) -> Tensor:
    """A g A^T: [N, H, W, K] -> [36, tiles, K]."""
    n, height, width, k = gradient.shape
    tiles = gradient.view(n, height // TILE, TILE, width // TILE, TILE, k)
    return _matrices(_both_ways(_transposed(OUTPUT), [[tiles[:, :, i, :, j] for j in range(4)] for i in range(4)]))


def _output(products: list[Tensor], n: int, rows: int, columns: int) -> Tensor:
    """A^T m A: 36 times [tiles, K] -> [N, K, H, W] in channels_last."""
    tiles = _both_ways(OUTPUT, _grid([product.view(n, rows, columns, -1) for product in products]))
    y = torch.stack([torch.stack(row, 3) for row in tiles], 2)  # [N, rows, 4, columns, 4, K]
    return y.view(n, TILE * rows, TILE * columns, -1).permute(0, 3, 1, 2)


def _input_gradient(products: list[Tensor], n: int, rows: int, columns: int) -> Tensor:
    """B m B^T, added up where tiles overlap: 36 times [tiles, C] -> [N, C, H + 2, W + 2] in channels_last."""
    tiles = _both_ways(_transposed(INPUT), _grid([product.view(n, rows, columns, -1) for product in products]))
    tiles = [_overlapped(row, 2) for row in tiles]
    tiles = [_overlapped(list(column), 1) for column in zip(*tiles, strict=True)]  # [j][i] now
    x = torch.stack([torch.stack(column, 2) for column in tiles], 4)  # [N, rows + 1, 4, columns + 1, 4, C]
    x = x.view(n, TILE * (rows + 1), TILE * (columns + 1), -1)[:, :-2, :-2]
    return x.contiguous().permute(0, 3, 1, 2)


def _weight_gradient(products: list[Tensor]) -> Tensor:
    """G^T m G: 36 times [K, C] -> [K, C, 3, 3]."""
    taps = _both_ways(_transposed(WEIGHT), _grid(products))
    return torch.stack([torch.stack(row, -1) for row in taps], -2)


def _both_ways(matrix: Matrix, grid: Grid) -> Grid:
    """matrix grid matrix^T."""
    columns = [_times(matrix, column) for column in zip(*grid, strict=True)]
    return [_times(matrix, row) for row in zip(*columns, strict=True)]


def _times(matrix: Matrix, entries: tuple[Tensor, ...]) -> list[Tensor]:
    return [sum(factor * entry for factor, entry in zip(row, entries, strict=True) if factor) for row in matrix]


def _transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def _grid(entries: list[Tensor]) -> Grid:
    return [entries[i : i + 6] for i in range(0, 36, 6)]


def _matrices(grid: Grid) -> Tensor:
    """[36, everything, channels]."""
    return torch.stack([entry.flatten(0, -2) for row in grid for entry in row])


def _overlapped(six: list[Tensor], dim: int) -> list[Tensor]:
    """The four values of each tile of 4, and of one more, of the six of tiles that overlap by 2. Along dim 1 or 2."""
    before, after = [0, 0] * (4 - dim), [0, 0] * (4 - dim)
    before[-2], after[-1] = 1, 1
    four = [F.pad(value, after) for value in six[:TILE]]
    return [value + F.pad(six[TILE + i], before) if i < 2 else value for i, value in enumerate(four)]
