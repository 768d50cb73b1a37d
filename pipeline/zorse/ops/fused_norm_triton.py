"""The Triton kernels of the fused norm, and how they are launched; fused_norm.py says what they compute together.

Legend: tensors are NHWC in memory, so that the C channels of a pixel lie side by side. A program works on tiles of
ROWS pixels x COLUMNS channels of one sample and calculates in fp32, whatever the tensors hold. A place is a pixel of a
padded plane. `statistics` is [N, 2, C]: mean and 1 / standard deviation.

Nothing is added atomically: partial sums are written out and joined in a fixed order, and the padding's gradient is
gathered. So the same input gives the same bits. For the same reason no tile is autotuned: the fastest of several nearly
equal ones differs between starts, and with it the order of the sums. How a plane is shared among programs depends on
its size alone, so an image also gives the same bits in every batch.
"""

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the fused norm needs the module triton, which PyTorch brings along on Linux only") from error

TILE = 4096  # elements: 32 for each thread of a program, which leaves registers for two fp32 sums of the same size
COLUMNS = 64  # channels of a tile at most: in bf16 one line of the cache
PROGRAMS = 512  # that share one sample's sums at most: 4 for each of 132 multiprocessors, to hide the memory's latency
SHARES = 256  # of one plane at most: their results are joined in one tile
OPTIONS = {"enable_fp_fusion": True}  # Triton's default is about to change, and with it the bits


def tiles(places: int, channels: int) -> tuple[int, int, int, int]:
    """Rows and columns of a tile, shares of a plane of `places`, and columns of the tile that joins the shares."""
    columns = min(COLUMNS, triton.next_power_of_2(channels))
    rows = TILE // columns
    wanted = min(SHARES, PROGRAMS // triton.cdiv(channels, columns), triton.cdiv(places, rows))
    shares = triton.next_power_of_2(max(1, wanted))
    return rows, columns, shares, min(columns, TILE // shares)


@triton.jit
def _channels(C, COLUMNS: tl.constexpr):
    """The channels of this program, and which of them exist."""
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return channel, channel < C


@triton.jit
def _offsets(place, channel, places, C):
    """Where a tile lies in a tensor of `places` pixels per sample, in int64: a tensor may pass 2^31 elements."""
    sample = tl.program_id(2).to(tl.int64)
    return (sample * places + place)[:, None] * C + channel[None, :]


@triton.jit
def _share(number, places, SHARES: tl.constexpr, ROWS: tl.constexpr):
    """First and last + 1 of the places that belong to one share of a plane, or to each; late shares may be empty."""
    size = tl.cdiv(tl.cdiv(places, SHARES), ROWS) * ROWS
    first = tl.minimum(number * size, places)
    return first, tl.minimum(first + size, places)


@triton.jit
def _pooled(count, mean, squares):
    """Mean, and sum of squared distances from it, of all the groups along axis 0 (Chan, Golub and LeVeque 1979).

    Squares are taken of distances alone, so that a large mean costs the variance no digits.
    """
    pooled = tl.sum(count * mean, 0) / tl.maximum(tl.sum(count, 0), 1.0)
    distance = mean - pooled[None, :]
    return pooled, tl.sum(squares + count * distance * distance, 0)


@triton.jit
def moments(x, parts, pixels, C, SHARES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mean and sum of squared distances of every share of a plane -> parts [N, 2, SHARES, C]."""
    share = tl.program_id(0)
    channel, exists = _channels(C, COLUMNS)
    first, last = _share(share, pixels, SHARES, ROWS)
    # Each row of the tile goes its own way by Welford's method; they meet only once, after the loop.
    count = tl.zeros([ROWS, 1], tl.float32)
    mean = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(first, last, ROWS):
        pixel = start + tl.arange(0, ROWS)
        mask = (pixel < last)[:, None] & exists[None, :]
        value = tl.load(x + _offsets(pixel, channel, pixels, C), mask=mask, other=0.0).to(tl.float32)
        count += (pixel < last).to(tl.float32)[:, None]
        distance = tl.where(mask, value - mean, 0.0)
        mean += distance * (1.0 / tl.maximum(count, 1.0))
        squares += distance * (value - mean)
    plane_mean, plane_squares = _pooled(count, mean, squares)
    part = parts + (tl.program_id(2) * 2 * SHARES + share) * C + channel
    tl.store(part, plane_mean, mask=exists)
    tl.store(part + SHARES * C, plane_squares, mask=exists)


@triton.jit
def join_moments(
    parts, statistics, pixels, C, eps, SHARES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """The statistics of whole planes from those of their shares; ROWS as in `moments`."""
    sample = tl.program_id(2)
    channel, exists = _channels(C, COLUMNS)
    share = tl.arange(0, SHARES)
    part = parts + (sample * 2 * SHARES + share[:, None]) * C + channel[None, :]
    mean = tl.load(part, mask=exists[None, :], other=0.0)
    squares = tl.load(part + SHARES * C, mask=exists[None, :], other=0.0)
    first, last = _share(share, pixels, SHARES, ROWS)
    mean, squares = _pooled((last - first).to(tl.float32)[:, None], mean, squares)
    tl.store(statistics + sample * 2 * C + channel, mean, mask=exists)
    tl.store(statistics + sample * 2 * C + C + channel, 1.0 / tl.sqrt_rn(squares / pixels + eps), mask=exists)


@triton.jit
def _two_values(pairs, channel, exists, C):
    """Both values of each channel of this program from a tensor [N, 2, C], [1, COLUMNS] each."""
    own = pairs + tl.program_id(2) * 2 * C + channel
    first = tl.load(own, mask=exists, other=0.0)
    return first[None, :], tl.load(own + C, mask=exists, other=0.0)[None, :]


@triton.jit
def _mirrored(place, size, PAD: tl.constexpr):
    """The pixel that a place of the padded plane shows, along one axis; the edge itself is not repeated."""
    pixel = tl.abs(place - PAD)
    return tl.where(pixel >= size, 2 * (size - 1) - pixel, pixel)


@triton.jit
def _source(place, H, W, PAD: tl.constexpr):
    """Row and column of the pixel that a place of the padded plane shows."""
    wide = W + 2 * PAD
    return _mirrored(place // wide, H, PAD), _mirrored(place % wide, W, PAD)


@triton.jit
def normalize(
    x, statistics, residual, out, H, W, C,
    SLOPE: tl.constexpr, PAD: tl.constexpr, RESIDUAL: tl.constexpr, RESIDUAL_PAD: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out = reflect_pad(activation((x - mean) * scale) + residual)."""
    channel, exists = _channels(C, COLUMNS)
    mean, scale = _two_values(statistics, channel, exists, C)
    places = (H + 2 * PAD) * (W + 2 * PAD)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = (place < places)[:, None] & exists[None, :]
    row, column = _source(place, H, W, PAD)
    value = tl.load(x + _offsets(row * W + column, channel, H * W, C), mask=mask, other=0.0).to(tl.float32)
    value = (value - mean) * scale
    value = tl.where(value > 0, value, value * SLOPE)
    if RESIDUAL:
        wide = W + 2 * RESIDUAL_PAD
        inside = (row + RESIDUAL_PAD) * wide + column + RESIDUAL_PAD
        offsets = _offsets(inside, channel, (H + 2 * RESIDUAL_PAD) * wide, C)
        value += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + _offsets(place, channel, places, C), value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def sums(
    grad, x, statistics, parts, H, W, C,
    SLOPE: tl.constexpr, PAD: tl.constexpr, SHARES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of d and d * normed over every share of a plane -> parts [N, 2, SHARES, C]; d: gradient of the normed x.

    A pixel's gradient is a sum over the places that show it, so the sums run over places and need no gathering.
    """
    share = tl.program_id(0)
    channel, exists = _channels(C, COLUMNS)
    mean, scale = _two_values(statistics, channel, exists, C)
    places = (H + 2 * PAD) * (W + 2 * PAD)
    first, last = _share(share, places, SHARES, ROWS)
    plain = tl.zeros([ROWS, COLUMNS], tl.float32)
    weighted = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(first, last, ROWS):
        place = start + tl.arange(0, ROWS)
        mask = (place < last)[:, None] & exists[None, :]
        row, column = _source(place, H, W, PAD)
        normed = tl.load(x + _offsets(row * W + column, channel, H * W, C), mask=mask, other=0.0).to(tl.float32)
        normed = (normed - mean) * scale
        d = tl.load(grad + _offsets(place, channel, places, C), mask=mask, other=0.0).to(tl.float32)
        d = tl.where(normed > 0, d, d * SLOPE)
        plain += d
        weighted += d * normed
    part = parts + (tl.program_id(2) * 2 * SHARES + share) * C + channel
    tl.store(part, tl.sum(plain, 0), mask=exists)
    tl.store(part + SHARES * C, tl.sum(weighted, 0), mask=exists)


@triton.jit
def join_sums(parts, means, pixels, C, SHARES: tl.constexpr, COLUMNS: tl.constexpr):
    """Means [N, 2, C] over planes from the sums over their shares."""
    sample = tl.program_id(2)
    channel, exists = _channels(C, COLUMNS)
    part = parts + (sample * 2 * SHARES + tl.arange(0, SHARES)[:, None]) * C + channel[None, :]
    for which in tl.static_range(2):
        total = tl.sum(tl.load(part + which * SHARES * C, mask=exists[None, :], other=0.0), 0)
        tl.store(means + (sample * 2 + which) * C + channel, total / pixels, mask=exists)


@triton.jit
def _shown_at(pixel, size, PAD: tl.constexpr, WHICH: tl.constexpr):
    """A place that shows a pixel, along one axis, and whether there is one: 0 its own, 1 and 2 mirrored at the ends."""
    if WHICH == 0:
        place, there = pixel + PAD, pixel >= 0
    elif WHICH == 1:
        place, there = PAD - pixel, (pixel >= 1) & (pixel <= PAD)
    else:
        place, there = PAD + 2 * (size - 1) - pixel, (pixel <= size - 2) & (pixel >= size - 1 - PAD)
    return place, there


@triton.jit
def _row_gradient(grad, row, column, channel, mask, H, W, C, PAD: tl.constexpr, WHICH: tl.constexpr):
    """What comes back to pixels from one of the rows that show them."""
    wide = W + 2 * PAD
    place_row, there = _shown_at(row, H, PAD, WHICH)
    total = tl.zeros(mask.shape, tl.float32)
    for side in tl.static_range(3 if PAD else 1):
        place_column, shown = _shown_at(column, W, PAD, side)
        offsets = _offsets(place_row * wide + place_column, channel, (H + 2 * PAD) * wide, C)
        total += tl.load(grad + offsets, mask=mask & (there & shown)[:, None], other=0.0).to(tl.float32)
    return total


@triton.jit
def gradient(
    grad, x, statistics, means, grad_x, grad_residual, H, W, C,
    SLOPE: tl.constexpr, PAD: tl.constexpr, RESIDUAL: tl.constexpr, RESIDUAL_PAD: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradients of x and of the residual, whose padding gets zeros. Goes over the places of the padded residual."""
    channel, exists = _channels(C, COLUMNS)
    wide = W + 2 * RESIDUAL_PAD
    places = (H + 2 * RESIDUAL_PAD) * wide
    start = tl.program_id(0) * ROWS
    place = start + tl.arange(0, ROWS)
    row, column = place // wide - RESIDUAL_PAD, place % wide - RESIDUAL_PAD
    inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
    mask = inside[:, None] & exists[None, :]
    # The gradient of the norm's output: of the pixel itself, and of its copies in the reflected border.
    total = _row_gradient(grad, row, column, channel, mask, H, W, C, PAD, 0)
    if PAD:
        # Only the few tiles that reach the upper or lower border read more than one row per pixel.
        if start // wide - RESIDUAL_PAD <= PAD:
            total += _row_gradient(grad, row, column, channel, mask, H, W, C, PAD, 1)
        if (start + ROWS - 1) // wide - RESIDUAL_PAD >= H - 1 - PAD:
            total += _row_gradient(grad, row, column, channel, mask, H, W, C, PAD, 2)
    if RESIDUAL:
        whole = (place < places)[:, None] & exists[None, :]
        offsets = _offsets(place, channel, places, C)
        tl.store(grad_residual + offsets, total.to(grad_residual.dtype.element_ty), mask=whole)
    # Backward through the activation, then the norm.
    mean, scale = _two_values(statistics, channel, exists, C)
    mean_d, mean_weighted = _two_values(means, channel, exists, C)
    offsets = _offsets(row * W + column, channel, H * W, C)
    normed = (tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - mean) * scale
    d = tl.where(normed > 0, total, total * SLOPE)
    d = scale * (d - mean_d - normed * mean_weighted)
    tl.store(grad_x + offsets, d.to(grad_x.dtype.element_ty), mask=mask)
