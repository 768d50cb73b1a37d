"""An idea for the fused norm, not part of it: the last program of a plane joins the shares, so that nothing needs a
second launch. Are its bits those of `moments` and `join_moments`, and how much time would it save?

At batch 1 the joins are expected to cost a tenth of a step. Order is by tickets: whoever draws the last one finds all
shares written, and joins them in their fixed order, so no float is added atomically. Whether memory is ordered as that
needs, only a GPU shows. Elsewhere TRITON_INTERPRET=1 compares in the interpreter, and without it the kernel is compiled
for an H100.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import triton
import triton.language as tl
from records import Records

from zorse.ops import fused_norm_triton as kernels
from zorse.ops.fused_norm import EPS
from zorse.ops.fused_norm_triton import _channels, _offsets, _pooled, _share

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SMALL = [(2, 64, 24, 20), (1, 17, 9, 7), (1, 130, 12, 11)]
LARGE = [(4, 256, 64, 64), (8, 256, 64, 64), (1, 256, 64, 64), (2, 64, 256, 256)]


@triton.jit
def moments_joined(
    x, parts, tickets, statistics, pixels, C, eps,
    SHARES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """tickets: int32 [N, blocks of columns], zero before and after. FEW: columns that are joined at a time."""
    share, sample = tl.program_id(0), tl.program_id(2)
    channel, exists = _channels(C, COLUMNS)
    first, last = _share(share, pixels, SHARES, ROWS)
    count = tl.zeros([ROWS, 1], tl.float32)
    mean = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    # Welford's moments of this program's share of the pixels.
    for start in range(first, last, ROWS):
        pixel = start + tl.arange(0, ROWS)
        mask = (pixel < last)[:, None] & exists[None, :]
        value = tl.load(x + _offsets(pixel, channel, pixels, C), mask=mask, other=0.0).to(tl.float32)
        count += (pixel < last).to(tl.float32)[:, None]
        distance = tl.where(mask, value - mean, 0.0)
        mean += distance * (1.0 / tl.maximum(count, 1.0))
        squares += distance * (value - mean)
    plane_mean, plane_squares = _pooled(count, mean, squares)
    part = parts + (sample * 2 * SHARES + share) * C + channel
    tl.store(part, plane_mean, mask=exists)
    tl.store(part + SHARES * C, plane_squares, mask=exists)
    tl.debug_barrier()  # all threads' parts are written before the ticket, which releases them
    # Who draws the last ticket joins the parts of all.
    ticket = tickets + sample * tl.num_programs(1) + tl.program_id(1)
    if tl.atomic_add(ticket, 1, sem="acq_rel", scope="gpu") == SHARES - 1:
        tl.debug_barrier()
        tl.store(ticket, 0)
        every = tl.arange(0, SHARES)
        begin, end = _share(every, pixels, SHARES, ROWS)
        size = (end - begin).to(tl.float32)[:, None]
        for block in tl.static_range(COLUMNS // FEW):
            few = tl.program_id(1) * COLUMNS + block * FEW + tl.arange(0, FEW)
            there = few < C
            other = parts + (sample * 2 * SHARES + every[:, None]) * C + few[None, :]
            # Not from this multiprocessor's own cache, since other ones wrote them.
            means = tl.load(other, mask=there[None, :], other=0.0, cache_modifier=".cg")
            spread = tl.load(other + SHARES * C, mask=there[None, :], other=0.0, cache_modifier=".cg")
            joined_mean, joined_squares = _pooled(size, means, spread)
            scale = 1.0 / tl.sqrt_rn(joined_squares / pixels + eps)
            tl.store(statistics + sample * 2 * C + few, joined_mean, mask=there)
            tl.store(statistics + sample * 2 * C + C + few, scale, mask=there)


def both_ways(x: torch.Tensor) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor], torch.Tensor, ...]:
    """What computes the statistics in two launches, and what does in one; the shares' results and the tickets."""
    samples, channels, height, width = x.shape
    pixels = height * width
    rows, columns, shares, few = kernels.tiles(pixels, channels)
    blocks = triton.cdiv(channels, columns)
    parts = x.new_empty(samples, 2, shares, channels, dtype=torch.float32)
    two, one = (x.new_empty(samples, 2, channels, dtype=torch.float32) for _ in range(2))
    tickets = torch.zeros(samples, blocks, dtype=torch.int32, device=x.device)
    tile = {"SHARES": shares, "ROWS": rows, **kernels.OPTIONS}

    def in_two() -> torch.Tensor:
        kernels.moments[shares, blocks, samples](x, parts, pixels, channels, COLUMNS=columns, **tile)
        kernels.join_moments[1, triton.cdiv(channels, few), samples](
            parts, two, pixels, channels, EPS, COLUMNS=few, **tile
        )
        return two

    def in_one() -> torch.Tensor:
        moments_joined[shares, blocks, samples](
            x, parts, tickets, one, pixels, channels, EPS, COLUMNS=columns, FEW=min(few, columns), **tile
        )
        return one

    return in_two, in_one, parts, tickets


def compare(shape: tuple[int, ...], records: Records) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 3
    x = x.to("cuda", torch.bfloat16) if GPU else x
    in_two, in_one, parts, tickets = both_ways(x.contiguous(memory_format=torch.channels_last))
    expected = in_two()
    parts.fill_(float("nan"))  # of what the other way left
    in_one()
    same = torch.equal(in_one(), expected) and not tickets.any()  # the second time only with tickets of zero again
    records.failed |= not same
    found = {"shape": list(shape), "same_bits": same}
    if GPU:
        from triton.testing import do_bench_cudagraph

        found |= {
            "two_launches_us": round(1000 * do_bench_cudagraph(in_two), 1),
            "one_launch_us": round(1000 * do_bench_cudagraph(in_one), 1),
        }
    records.tell(**found)


def compile_for_h100(pixels: int, channels: int, records: Records) -> None:
    from triton.backends.compiler import GPUTarget

    rows, columns, shares, few = kernels.tiles(pixels, channels)
    types = {"x": "*bf16", "parts": "*fp32", "tickets": "*i32", "statistics": "*fp32"}
    types |= {"pixels": "i32", "C": "i32", "eps": "fp32"}
    constants = {"SHARES": shares, "ROWS": rows, "COLUMNS": columns, "FEW": min(few, columns)}
    multiples = {(place,): [["tt.divisibility", 16]] for place in (0, 1, 2, 3, 5)}
    source = triton.compiler.ASTSource(
        moments_joined, types | dict.fromkeys(constants, "constexpr"), constants, multiples
    )
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernels.OPTIONS)
    atomic = [line.strip() for line in made.asm["ptx"].splitlines() if "atom" in line]
    records.tell(pixels=pixels, channels=channels, shared_bytes=made.metadata.shared, atomic=atomic[:2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    records = Records(parser.parse_args().results, "join in last")
    try:
        if GPU or INTERPRETED:
            for shape in SMALL + LARGE * GPU:
                compare(shape, records)
        else:
            for pixels, channels in ((64 * 64, 256), (256 * 256, 64), (31 * 31, 512)):
                compile_for_h100(pixels, channels, records)
    except Exception as error:  # what Triton may refuse has many types
        records.tell_error(error)
    return int(records.failed)


if __name__ == "__main__":
    sys.exit(main())
