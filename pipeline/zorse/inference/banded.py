"""Translation in bands of rows: an image of any size, in the memory of a band, as the generator translates it whole.

A pixel depends on those far away through the means and variances of the InstanceNorms alone. Tiles that are normed one
by one change their tint and show their seams, so here each norm gets a pass of its own over the image, and its
statistics are those of the whole. What the residual blocks work on is kept from pass to pass at a quarter of the size
(row_stores.py), half a value for each value that one layer has at full size; what comes before and after is computed
again in each pass, an eighth more arithmetic in all.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from zorse.cyclegan.layers import LINEAR, RELU, Norm, ResizeConv, image_conv, to_range
from zorse.cyclegan.resnet import Generator
from zorse.data.pixels import to_pixels
from zorse.inference.row_layers import (  # fmt: skip
    Affine,
    Rows,
    add,
    cached,
    cached_with_halo,
    concat,
    convolved,
    image_rows,
    merged,
    moments_of,
    normed,
    upsample_nearest,
    upsampled,
)
from zorse.inference.row_stores import LEFT, Place, Store, free_on, open_stores, place_for
from zorse_prep.format import Mode

Progress = Callable[[int, int], None]


def unseen(done: int, total: int) -> None:
    """No progress is shown."""


@torch.no_grad()
def translate_in_bands(
    generator: Generator, pixels: Tensor, mode: Mode, rows: int, *, place: Place | None = None, progress=unseen
) -> Tensor:
    """Pixels [C, H, W] on the host to those of a mode, of the same size. Raises UserError: see open_stores.

    rows: of a band, rounded up to a multiple of 4. place: of the stores; None chooses by what is free. progress(done,
    total) is called after each band of each pass.
    """
    height, width = pixels.shape[1:]
    out, top = None, 0
    for band in bands_of(generator, pixels, rows, place=place, progress=progress):
        found = to_pixels(band, mode)[0, :, : max(0, height - top), :width]
        if out is None:
            out = torch.empty(found.shape[0], height, width, dtype=found.dtype)
        out[:, top : top + found.shape[1]] = found
        top += found.shape[1]
    return out


def bands_of(
    generator: Generator, pixels: Tensor, rows: int, *, place: Place | None = None, progress: Progress = unseen
) -> Iterator[Tensor]:
    """The translation of pixels [C, H, W], [1, C, up to `rows`, W] in [-1, 1] from top to bottom.

    H and W are those of padded_size. The rest is as in translate_in_bands.
    """
    weight = next(generator.parameters())
    height, width = padded_size(*pixels.shape[1:])
    shape, dtype = (height // 4, width // 4, 4 * len(weight)), computed_in(weight)
    if place is None:
        place = place_for(2 * math.prod(shape) * dtype.itemsize, memory_of_band(generator, rows, width), weight.device)
    image = image_rows(pixels, height, width, weight)
    with open_stores(2, shape, dtype, weight.device, place) as stores:
        yield from forward(generator, image, -(-rows // 4) * 4, stores, progress)


def forward(generator: Generator, image: Rows, rows: int, stores: list[Store], progress: Progress) -> Iterator[Tensor]:
    """Compute Generator.forward band by band. rows: a multiple of 4."""
    layers, blocks = generator.model, generator.blocks
    stream, inner = stores  # the residual stream, and the inside of one block
    of_image = layers["2"].kind == "instance"  # whether statistics are taken from the image
    done, total = itertools.count(1), -(-image.height // rows) * (2 + 2 * blocks + (4 if of_image else 0))

    def bands(x: Rows) -> Iterator[tuple[int, int]]:
        """The bands of one pass over x, as many at any size of x."""
        size = rows * x.height // image.height
        for a in range(0, x.height, size):
            yield a, min(a + size, x.height)
            progress(next(done), total)

    def statistics(x: Rows, norm: Norm, store: Store | None = None) -> Affine | None:
        """The affine of a norm; takes a pass over x if statistics are needed, or x is to be stored."""
        found = None
        for a, b in bands(x) if store or of_image else ():
            band = x.read(a, b)
            if store:
                store.write(a, band)
            if of_image:
                found = merged([found, moments_of(band)]) if found else moments_of(band)
            del band  # before the next one is computed
        if norm.kind == "batch":
            return norm.running_mean, norm.running_var, norm.weight, norm.bias
        return (found.mean, found.squares / found.count, None, None) if found else None

    def at(place: int, x: Rows, slope: float) -> Rows:
        """Normed.at: convolution, norm and activation."""
        conv, norm = layers[str(place)], layers[str(place + 1)]
        if isinstance(conv, ResizeConv):
            x = convolved(upsample_nearest(x), conv)
        else:
            x = (upsampled if isinstance(conv, nn.ConvTranspose2d) else convolved)(x, conv)
        return normed(x, statistics(x, norm), slope)

    # Downsampling, as in Generator.forward. Nothing is computed here: each layer is a description of rows to come.
    whole = at(1, image, RELU)
    half = at(4, whole, RELU)
    x = convolved(half, layers["7"])
    x = cached(normed(stream, statistics(x, layers["8"], stream), RELU), stream)
    # Residual blocks: what they pass on is stored between passes, since each norm needs statistics of all rows.
    for block in (layers[str(10 + i)].conv_block for i in range(blocks)):
        y = normed(cached_with_halo(inner), statistics(convolved(x, block["1"]), block["2"], inner), RELU)
        y = normed(inner, statistics(convolved(y, block["5"]), block["6"], inner), LINEAR)
        x = cached(add(stream, y), stream)
    # Upsampling, and the last pass, which computes the bands of the result.
    x = at(10 + blocks, x, RELU)
    x = at(13 + blocks, concat(x, half) if generator.skips else x, RELU)
    x = convolved(concat(x, whole) if generator.skips else x, layers[str(17 + blocks)], image_conv)
    for a, b in bands(x):
        yield to_range(x.read(a, b), layers.norm, training=False)


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Rounded up to what the generator takes: multiples of 4."""
    return tuple(max(Generator.smallest, -(-size // 4) * 4) for size in (height, width))


def computed_in(weight: Tensor) -> torch.dtype:
    """The precision of convolutions with it, which autocast may change."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def widest(generator: Generator) -> int:
    """Channels at full size; skips and ResizeConv each join as many again."""
    resize = any(isinstance(module, ResizeConv) for module in generator.modules())
    return len(next(generator.parameters())) * (1 + generator.skips + resize)


def memory_of_whole(generator: Generator, height: int, width: int) -> int:
    """Bytes that Generator.forward takes at most, parameters apart."""
    weight = next(generator.parameters())
    return weight.itemsize * height * width * (3 * widest(generator) + 60)


def memory_of_band(generator: Generator, rows: int, width: int) -> int:
    """Bytes that a band takes at most, parameters, stores and pixels apart."""
    weight = next(generator.parameters())
    return weight.itemsize * (rows + 16) * width * (4 * widest(generator) + 100)


def rows_that_fit(generator: Generator, height: int, width: int, free: int | None = None) -> int | None:
    """Rows of a band for translate_in_bands, or None where an image [C, height, width] can be translated whole.

    free: bytes that tensors may take; None asks the generator's device. At least 4, even where these are too many.
    """
    weight = next(generator.parameters())
    height, width = padded_size(height, width)
    free = int((1 - LEFT) * (free_on(weight.device) if free is None else free))
    if memory_of_whole(generator, height, width) <= free:
        return None
    # On a CPU larger tensors, of one layer at full size, would be mapped anew each time, which takes longer than
    # computing the rows again that bands share. On a GPU many small kernels would.
    best = max(16, 2 ** (24 if weight.is_cpu else 28) // (weight.itemsize * len(weight) * width))
    least, next_row = (memory_of_band(generator, rows, width) for rows in (0, 1))
    most = (free - least) // (next_row - least)
    return max(4, min(best, most, height) // 4 * 4)
