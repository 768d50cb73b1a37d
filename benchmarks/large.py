"""Time and memory of translating a large image: python benchmarks/large.py [--size 1024 768] [--tile off auto 64].

Each --tile translates the same noise in a process of its own, in turns: `off` at once, a number in bands of so many
rows, `auto` whichever fits. Memory is how much the process has grown at its peak since parameters and pixels were
there; on a GPU, what its tensors took. The ratio is to the time of the first --tile in the same round, the difference
that of the networks' values, in [-1, 1], from its; --no-difference leaves this out, which takes a float32 copy of each.
"""

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from workers import WorkerError, workers

from zorse.cyclegan.build import init_weights
from zorse.cyclegan.resnet import Generator
from zorse.data.pixels import to_network, to_pixels
from zorse.inference.banded import bands_of, rows_that_fit, translate_in_bands


class Contender:
    """A generator, an image of noise, and one way to translate it."""

    def __init__(self, tile: str, options: argparse.Namespace):
        torch.set_num_threads(options.threads)
        self.gpu = torch.cuda.is_available()
        self.place = None if options.place == "auto" else options.place
        self.half = options.bf16
        width, height = options.size
        generator = Generator(options.channels, options.blocks)
        init_weights(generator, torch.Generator().manual_seed(0))
        self.generator = generator.requires_grad_(False).to("cuda" if self.gpu else "cpu")
        torch.manual_seed(0)
        self.pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        self.rows = None if tile == "off" else rows_that_fit(generator, height, width) if tile == "auto" else int(tile)

    def how(self) -> str:
        return "whole" if self.rows is None else f"bands of {self.rows} rows"

    def translate(self) -> tuple[float, float]:
        """Seconds, and megabytes grown."""
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() / 1e6
        else:
            before = of_process("VmRSS")
        began = time.perf_counter()
        with self._precision(), torch.no_grad():
            if self.rows is None:
                to_pixels(self._whole())
            else:
                translate_in_bands(self.generator, self.pixels, "rgb", self.rows, place=self.place)
        seconds = time.perf_counter() - began  # the pixels are on the host, so that a GPU is done, too
        return seconds, (torch.cuda.max_memory_allocated() / 1e6 if self.gpu else of_process("VmHWM")) - before

    def save(self, path: Path) -> None:
        """The networks' values."""
        with self._precision(), torch.no_grad():
            bands = [self._whole()] if self.rows is None else bands_of(self.generator, self.pixels, self.rows)
            torch.save(torch.cat([band.float().cpu() for band in bands], 2), path)

    def _precision(self):
        return torch.autocast("cuda" if self.gpu else "cpu", torch.bfloat16) if self.half else nullcontext()

    def _whole(self) -> torch.Tensor:
        weight = next(self.generator.parameters())
        return self.generator(to_network(self.pixels[None], weight.device, weight.dtype))


def of_process(what: str) -> float:
    """Megabytes: VmRSS, its memory now, or VmHWM, at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 768], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--tile", nargs="+", default=["off", "auto", "64"], help="off, auto, or rows of a band")
    parser.add_argument(
        "--place", choices=["auto", "device", "host", "file"], default="auto", help="of what bands keep"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    parser.add_argument("--no-difference", action="store_true")
    options = parser.parse_args()
    if any(side % 4 or side < 16 for side in options.size):
        sys.exit("error: --size must be multiples of 4, and at least 16")
    if any(tile not in ("off", "auto") and not tile.isdecimal() for tile in options.tile):
        sys.exit("error: --tile must be off, auto, or a number of rows")
    # Each contender translates the same image in a process of its own, in turns; then the outputs are compared.
    makers = {tile: partial(Contender, tile, options) for tile in options.tile}
    try:
        with workers(makers) as running, tempfile.TemporaryDirectory() as folder:
            found = {tile: [] for tile in running}
            for _ in range(options.rounds):
                for tile, worker in running.items():
                    found[tile].append(worker.ask("translate"))
            how = {tile: worker.ask("how") for tile, worker in running.items()}
            if not options.no_difference:
                for number, worker in enumerate(running.values()):
                    worker.ask("save", Path(folder) / f"{number}.pt")
                values = [torch.load(Path(folder) / f"{number}.pt", mmap=True) for number in range(len(running))]
                differences = [f"{(value - values[0]).abs().max():.1e}" for value in values]
    except WorkerError as error:
        sys.exit(f"error: {error}")
    # A row each; ratios are to the first contender of the same round.
    width, height = options.size
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{options.threads} threads of a CPU"
    precision = "bf16" if options.bf16 else "fp32"
    table = Table(title=f"{width}x{height}, {options.channels} channels, {options.blocks} blocks, {precision}, {kind}")
    for name in ("--tile", "how", "s", "least to most", "ratio", "least to most", "MB at the peak", "difference"):
        table.add_column(name, justify="right")
    first = [seconds for seconds, _ in found[options.tile[0]]]
    for number, (tile, rounds) in enumerate(found.items()):
        times, memory = zip(*rounds, strict=True)
        ratios = [seconds / other for seconds, other in zip(times, first, strict=True)]
        row = [tile, how[tile]]
        for numbers in (times, ratios):
            row += [f"{median(numbers):.2f}", f"{min(numbers):.2f} to {max(numbers):.2f}"]
        table.add_row(*row, f"{max(memory):.0f}", "" if options.no_difference else differences[number])
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
