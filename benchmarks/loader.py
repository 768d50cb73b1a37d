"""What an image costs on its way to the trainer: python benchmarks/loader.py decode|read|prepare|order [options].

decode: JPEG bytes to a 256x256 crop, as CycleGAN code does it (Pillow, torchvision transforms, float32) beside ours
(uint8), on one core. read: bytes of a sample from shards by ours and by plain webdataset, and from a folder of files.
prepare: an image's way into a shard, by ours and by webdataset's writer.
order: which sample stands at a position, in a domain of 10^8. Times are CPU time of the thread unless said otherwise;
rounds alternate in random order, and a ratio is the median over rounds of the quotient within a round.
"""

import argparse
import io
import os
import random
import statistics
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision import transforms

from zorse.data.dataset import open_shards
from zorse.data.loader import AHEAD
from zorse.data.order import BLOCK, DomainOrder
from zorse.data.pixels import augment, decode
from zorse.data.prefetch import Prefetcher
from zorse.keyed_random import key
from zorse_prep.folders import folder_source
from zorse_prep.plan import Policy
from zorse_prep.planning import Choices, make_plan
from zorse_prep.shards import write_shard

CONSOLE = Console()


def rounds(parts: dict[str, Callable[[], None]], count: int, clock=time.thread_time) -> dict[str, list[float]]:
    """Seconds of each part in each round."""
    seconds = {name: [] for name in parts}
    for _ in range(count):
        for name in random.sample(list(parts), len(parts)):
            began = clock()
            parts[name]()
            seconds[name].append(clock() - began)
    return seconds


def show(title: str, seconds: dict[str, list[float]], count: int) -> None:
    """A table of microseconds per image, and of how many times as fast as the first part each one is."""
    table = Table("", title=title, title_justify="left")
    for name in ("us", "speed", "in all rounds"):
        table.add_column(name, justify="right", no_wrap=True)
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        ratios = sorted(a / b for a, b in zip(first, values, strict=True))
        us, spread = statistics.median(values) / count * 1e6, f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        table.add_row(name, f"{us:.0f}", f"{statistics.median(ratios):.2f}", spread)
    CONSOLE.print(table)


def compare_decoding(options: argparse.Namespace) -> None:
    files = [path.read_bytes() for path in sorted(options.images.glob("*.jpg"))[: options.count]]
    usual = transforms.Compose(
        [
            transforms.Resize([286, 286], transforms.InterpolationMode.BICUBIC),
            transforms.RandomCrop(256),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )

    def bits() -> int:
        return random.getrandbits(64)

    def each(part: Callable[[bytes], object]) -> Callable[[], None]:
        return lambda: [part(data) for data in stored]

    for width, height in ((256, 256), (500, 375), (1024, 768)):
        stored = [jpeg(data, width, height) for data in files]
        parts = {
            "Pillow and torchvision, float32": each(lambda data: usual(Image.open(io.BytesIO(data)).convert("RGB"))),
            "ours": each(lambda data: augment(decode(data, (286, 286)), (256, 256), True, bits()).contiguous()),
            "ours, decoding alone": each(lambda data: Image.open(io.BytesIO(data)).convert("RGB")),
        }
        far = [abs(decode(data, (286, 286)).permute(1, 2, 0).numpy().astype(int) - by_pillow(data)) for data in stored]
        show(f"{len(stored)} JPEG files of {width}x{height}", rounds(parts, options.rounds), len(stored))
        equal = np.mean([(difference == 0).mean() for difference in far])
        CONSOLE.print(f"beside Pillow's bicubic: {equal:.2%} of the values equal, none more than {np.max(far)} off\n")


def jpeg(data: bytes, width: int, height: int) -> bytes:
    image = Image.open(io.BytesIO(data))
    if image.size == (width, height):
        return data
    buffer = io.BytesIO()
    image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((286, 286), Image.Resampling.BICUBIC)).astype(int)


def compare_reading(options: argparse.Namespace) -> None:
    """Every sample of trainA once; the same images in a folder were sharded."""
    split = open_shards(options.data).train_a
    tars = [str(options.data / tar.name) for tar in split.tars]
    files = [path for path in sorted((options.images / "trainA").iterdir()) if path.is_file()]
    order = DomainOrder(split.counts, seed=0, domain=0, lanes=1)

    # Readers of the same samples.
    def webdataset(shuffle: int = 0) -> None:
        deque((sample["jpg"] for sample in wds.WebDataset(tars, shardshuffle=False).shuffle(shuffle)), maxlen=1)

    def ours(distance: int = 0) -> None:
        """distance: how many samples before it is read one is asked for."""
        samples = [order(i)[1] for i in range(len(split))]
        ahead = Prefetcher()
        for i, sample in enumerate(samples):
            if distance and i + distance < len(samples):
                ahead(i, partial(split.prefetch, samples[i + distance], False))
            split.read(sample)
        ahead.close()

    # From memory, then from a disk whose pages the system has dropped.
    parts = {
        "webdataset, in turn": webdataset,
        "webdataset, shuffle(1000)": lambda: webdataset(1000),
        "files, shuffled": lambda: deque(map(Path.read_bytes, random.sample(files, len(files))), maxlen=1),
        "ours, in the order of training": ours,
        "ours, asked for 128 samples ahead": lambda: ours(AHEAD),
    }
    show(f"{len(split)} samples, from memory, CPU time", rounds(parts, options.rounds), len(split))

    def cold(part: Callable[[], object]) -> Callable[[], None]:
        return lambda: (forget(tars), forget(files), part())

    seconds = rounds({name: cold(part) for name, part in parts.items()}, options.rounds, time.perf_counter)
    show(f"{len(split)} samples, not in this system's memory, by the clock", seconds, len(split))


def forget(paths: list) -> None:
    """Have the system give up what it holds of these files in memory."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def compare_preparing(options: argparse.Namespace) -> None:
    """One process, CPU time of all its threads. Ours also hashes, checks, converts colours and takes statistics."""
    files = [path for split in ("trainA", "trainB") for path in sorted((options.images / split).iterdir())]
    files = [path for path in files if path.suffix == ".jpg"]
    policy = Policy(max_side=1024, min_side=16, shard_size=0)

    def plain(decode_too: bool) -> None:
        with tempfile.TemporaryDirectory() as out:
            writer = wds.ShardWriter(f"{out}/%06d.tar", verbose=False)
            for number, path in enumerate(files):
                data = path.read_bytes()
                if decode_too:
                    Image.open(io.BytesIO(data)).load()
                writer.write({"__key__": f"{number:08d}", "jpg": data})
            writer.close()

    def ours(written: bool) -> None:
        with tempfile.TemporaryDirectory() as out, redirect_stdout(io.StringIO()):
            plan = make_plan(folder_source(options.images), policy, Path(out), Choices(max_corrupt=0.01, threads=1))
            for shard in plan.shards if written else ():
                write_shard(Path(out), shard, policy, plan.source["root"])

    parts = {
        "webdataset.ShardWriter": lambda: plain(False),
        "the same, and decodes each image": lambda: plain(True),
        "ours, the plan alone": lambda: ours(False),
        "ours": lambda: ours(True),
    }
    show(f"{len(files)} JPEG files to shards", rounds(parts, options.rounds, time.process_time), len(files))


def measure_order(options: argparse.Namespace) -> None:
    """A domain of N samples in shards of 10,000, one of `ranks` ranks, one pair a step."""
    n, ranks = options.samples, options.ranks
    # The first pass: time and memory.
    tracemalloc.start()
    began = time.perf_counter()
    order = DomainOrder([10_000] * (n // 10_000), seed=0, domain=0, lanes=ranks)
    made = time.perf_counter() - began
    began = time.perf_counter()
    order(0)
    first = time.perf_counter() - began
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    # Lookups in the order of a rank's steps, and anywhere.
    positions = [step * ranks + ranks // 3 for step in range(options.steps)]
    began = time.perf_counter()
    samples = [order(position)[1] for position in positions]
    lookup = (time.perf_counter() - began) / len(positions)
    scattered = [key(position) % n for position in range(20_000)]
    began = time.perf_counter()
    for position in scattered:
        order(position)
    anywhere = (time.perf_counter() - began) / len(scattered)
    blocks = set(np.searchsorted(order.block_starts, samples, side="right").tolist())
    table = Table(title=f"the order of {n:,} samples, {ranks} ranks of one pair a step", show_header=False)
    table.add_row("set-up", f"{made:.2f} s")
    table.add_row("first lookup, which makes the pass", f"{first:.2f} s")
    table.add_row("memory, at most", f"{megabytes:.0f} MB")
    table.add_row("a lookup, step after step", f"{lookup * 1e6:.1f} us")
    table.add_row("a lookup, anywhere", f"{anywhere * 1e6:.1f} us")
    least = -(-len(samples) // BLOCK)
    table.add_row(f"blocks of {BLOCK} that one rank reads in {len(samples)} steps", f"{len(blocks)}, at best {least}")
    CONSOLE.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("decode")
    part.add_argument("--images", type=Path, required=True, help="a folder of JPEG files")
    part.add_argument("--count", type=int, default=100)
    part.set_defaults(run=compare_decoding)
    part = parts.add_parser("read")
    part.add_argument("--data", type=Path, required=True, help="shards")
    part.add_argument("--images", type=Path, required=True, help="the folder with trainA that they were made of")
    part.set_defaults(run=compare_reading)
    part = parts.add_parser("prepare")
    part.add_argument("--images", type=Path, required=True, help="a folder with trainA and trainB")
    part.set_defaults(run=compare_preparing)
    part = parts.add_parser("order")
    part.add_argument("--samples", type=int, default=10**8)
    part.add_argument("--ranks", type=int, default=1024)
    part.add_argument("--steps", type=int, default=10_000)
    part.set_defaults(run=measure_order)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
