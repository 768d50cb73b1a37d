"""Whether the data keeps up with a GPU: python benchmarks/feed.py SHARDS [--rate 200] [--workers 1 2 4].

Takes batches as the trainer does, through the same worker processes. First as fast as they come; then for a GPU that
trains --rate pairs/s, of which a clock stands in: a step is queued when its batch is there, at most one ahead of the
one that runs, and takes its time. The data wait is the share of time in which no step was there to run.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from rich.table import Table

from zorse.config.schema import Images
from zorse.data.dataset import open_shards
from zorse.data.loader import pair_batches
from zorse.data.order import RankSlice
from zorse.errors import UserError
from zorse.terminal import plain_console


def fastest(batches: Iterator[dict], count: int) -> float:
    """Batches per second."""
    began = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return count / (time.perf_counter() - began)


def waiting(batches: Iterator[dict], count: int, step: float) -> float:
    """The share of its time that a GPU is idle which takes `step` seconds for each batch."""
    idle = 0.0
    began = free = time.perf_counter()  # free: when the GPU has done what is queued
    for _ in range(count):
        next(batches)
        now = time.perf_counter()
        idle += max(0.0, now - free)
        free = max(free, now) + step
        time.sleep(max(0.0, free - step - time.perf_counter()))
    return idle / (free - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", help="a folder or a URL")
    parser.add_argument("--rate", type=float, default=200.0, help="pairs per second that the GPU trains")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--load-size", type=int, default=286)
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, about")
    options = parser.parse_args()
    # Open the shards as training does.
    torch.set_num_threads(1)
    folder = options.shards if "://" in options.shards else Path(options.shards)
    try:
        shards = open_shards(folder)
        shards.check()
    except UserError as error:
        sys.exit(f"error: {error}")
    images = Images(load_size=options.load_size, crop_size=options.crop_size)
    share = RankSlice(0, 1, 1, options.batch)
    table = Table(title=f"batches of {options.batch} at {options.crop_size} pixels from {options.shards}")
    for name in ("workers", "pairs/s at most", f"data wait at {options.rate:g} pairs/s"):
        table.add_column(name, justify="right")
    # For each number of workers, the fastest they can be read, and the wait of a GPU that trains at --rate.
    for workers in options.workers:
        batches = pair_batches(
            shards, images, share, seed=0, lanes=options.batch, start=0, workers=workers, pin=torch.cuda.is_available()
        )
        fastest(batches, 20)  # until the workers run
        count = max(1, int(options.seconds * fastest(batches, 50)))
        rate = options.batch * fastest(batches, count)
        steps = max(1, int(options.seconds * options.rate / options.batch))
        wait = waiting(batches, steps, options.batch / options.rate)
        batches.close()
        table.add_row(str(workers), f"{rate:.0f}", f"{wait:.2%}")
    plain_console().print(table)


if __name__ == "__main__":
    main()
