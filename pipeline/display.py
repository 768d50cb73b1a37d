"""What a person sees in the terminal: the plan, progress as a live bar or as plain lines, the closing table."""

import shlex
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from torch import nn

from pipeline.config import Config
from pipeline.data import Shards
from pipeline.networks import parameter_count
from pipeline.order import Share
from pipeline.pixels import CHANNELS
from pipeline.records import read_evaluation
from pipeline.schedule import peak_rates, total_pairs


class Patient:
    """Standard output that a run outlives: what a closed terminal or pipe cannot take is dropped."""

    def __init__(self):
        self.file = sys.stdout  # that of now: rich puts itself in its place

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.file.write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.file.flush()

    @property
    def encoding(self) -> str:
        return self.file.encoding or "utf-8"

    def isatty(self) -> bool:
        return self.file.isatty()

    def fileno(self) -> int:
        return self.file.fileno()


class Display:
    """Progress for a person: a live bar on a terminal, one plain line per status elsewhere. Silent but on rank 0."""

    def __init__(self, total_pairs: int, enabled: bool):
        self.console = Console(file=Patient(), quiet=not enabled, highlight=False, soft_wrap=True)
        self.total = total_pairs
        self.bar = None
        if enabled and self.console.is_terminal:
            self.bar = Progress(
                BarColumn(24), MofNCompleteColumn(), TextColumn("pairs  {task.fields[status]}"), console=self.console
            )
            self.task = self.bar.add_task("", total=total_pairs, status="starting")

    def __enter__(self) -> "Display":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def note(self, line: str) -> None:
        self.console.print(line, markup=False)

    def advance(self, pairs_seen: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=min(pairs_seen, self.total))

    def status(self, record: dict) -> None:
        """A record of stats.jsonl in one line."""
        speed = record["pairs_per_second"]
        left = timedelta(seconds=round((self.total - record["pairs"]) / speed))

        def mean(kind: str) -> float:
            values = [value for name, value in record.items() if name.startswith(kind)]
            return sum(values) / len(values)

        losses = [("G", "adversarial"), ("D", "discriminator"), ("cycle", "cycle"), ("identity", "identity")]
        present = [(title, kind) for title, kind in losses if any(name.startswith(kind) for name in record)]
        line = "  ".join(
            [
                f"{speed:.1f} pairs/s",
                f"{left} left",
                *[f"{title} {mean(kind):.3f}" for title, kind in present],
                f"data wait {record['data_wait']:.0%}",
            ]
        )
        if self.bar:
            self.bar.update(self.task, completed=min(record["pairs"], self.total), status=line)
        else:
            self.note(f"{record['pairs']:>9}/{self.total} pairs  epoch {record['epoch']:.2f}  {line}")


def print_plan(config: Config, shards: Shards, share: Share, model: nn.Module, mixed_precision: str) -> None:
    """What a run would do, for --dry-run."""
    optimization, size = config.optimization, config.images.crop
    pairs, epoch = total_pairs(optimization, shards.epoch), shards.epoch
    slots, item = len(share.slots), 8 if config.run.dtype == "float64" else 4
    places = config.losses.history + 1 if config.losses.history else 0
    channels = [CHANNELS[mode] for mode in shards.modes.values()]
    generator, discriminator = model.generators["a_to_b"], model.discriminators["of_a"]
    tests = " + ".join(str(len(split) if split else 0) for split in (shards.test_a, shards.test_b))
    mirrored = [domain for domain in ("a", "b") if config.images.mirrored(domain)]
    flipped = f"mirrored half of the time: {' and '.join(mirrored)}" if mirrored else "never mirrored"
    steps = -(-pairs // optimization.batch)
    of_g, of_d = peak_rates(optimization)
    rates = f"{of_g:g}" if of_g == of_d else f"{of_g:g} (generators) and {of_d:g} (discriminators)"
    falling = {"linear": "to 0", "cosine": "along a cosine to 0", "constant": "as high"}[optimization.lr_policy]
    warmup = f", after a rise over {optimization.warmup_pairs} pairs," if optimization.warmup_pairs else ""
    blocks = f", {config.networks.generator_blocks} residual blocks" if hasattr(generator, "blocks") else ""
    dropped = ", dropout" if config.networks.dropout else ""
    bounded = ", spectral norm" if config.networks.spectral_norm else ""
    how = {
        "compiled networks": config.run.compile, "fused norm": config.run.fused_norm,
        "a CUDA graph": config.run.cuda_graph, "recomputed blocks": config.run.recompute,
        "gradients added up in bfloat16": config.run.reduce_in != "float32",
    }  # fmt: skip
    rows = {
        "data": f"{shards.root}: {len(shards.train_a)} + {len(shards.train_b)} training images, {tests} test images",
        "images": f"{shards.modes['a']} and {shards.modes['b']}, "
        f"loaded at {by(config.images.load)}, cropped to {by(size)}, {flipped}",
        "length": f"{pairs} pairs = {steps} steps = {pairs / epoch:g} epochs of {epoch} pairs",
        "learning rate": f"{rates}{warmup} for {optimization.epochs:g} epochs, "
        f"then {falling} over {optimization.decay_epochs:g}",
        "batch": f"{optimization.batch} = {share.world_size} processes x {share.accumulate} micro-steps "
        f"x {share.each} pairs",
        "generators": f"2 x {parameter_count(generator):,} parameters: {config.networks.generator}"
        f"{blocks}, {config.networks.norm} norm{dropped}",
        "discriminators": f"2 x {parameter_count(discriminator):,} parameters: "
        f"{config.networks.discriminator}{bounded}",
        "image history": f"{config.losses.history} images a slot, {slots} slots a process: "
        f"{slots * places * sum(channels) * size[0] * size[1] * item / 2**20:.0f} MiB a process",
        "precision": config.run.dtype
        if mixed_precision == "no"
        else f"{mixed_precision} over {config.run.dtype} weights",
        "besides": ", ".join(name for name, used in how.items() if used),
        "weights": f"those of {config.run.init_from}" if config.run.init_from else "",
        "run directory": str(config.run.out),
    }
    table = Table.grid(padding=(0, 3))
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # of a log, whose lines should not be broken
    console.print(f"The plan with preset {config.preset} (dry run: nothing is written)\n")
    console.print(table)


def by(size: tuple[int, int]) -> str:
    """Height and width for the eye."""
    return f"{size[0]}" if size[0] == size[1] else f"{size[1]} x {size[0]}"


def print_summary(console: Console, out: Path, pairs_seen: int) -> None:
    """The closing words: what the distance was and is, and where to look."""
    found = (read_evaluation(path) for path in sorted((out / "eval").glob("*.json")) if path.stem.isdecimal())
    evaluations = [record for record in found if record]
    if len(evaluations) > 1:
        first, last = evaluations[0], evaluations[-1]
        columns = {"untranslated": last["untranslated"], "real images": last["real"]}
        columns |= {f"{each['pairs']} pairs": each for each in (first, last)}
        images = " and ".join(str(last["protocol"]["images"][way]) for way in ("a_to_b", "b_to_a"))
        console.print(distance_table(f"{images} test images, compared with real ones", columns))
    console.print(f"{out} is finished at {pairs_seen} pairs; look at {out}/samples/{pairs_seen:09d}.png")
    console.print(f"translate with: python pipeline/translate.py {shlex.quote(str(out))} IN OUT --direction a2b")


def distance_table(title: str, columns: dict[str, dict]) -> Table:
    """Metrics by direction. columns: {title: {"a_to_b": {metric: value}, "b_to_a": ...}}, the metrics of the last."""
    table = Table(title=title)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for way in ("a_to_b", "b_to_a"):
        table.add_section()
        table.add_row(f"[bold]{way.replace('_', ' ')}")
        for metric in next(reversed(columns.values()))[way]:
            if not metric.endswith("_std"):  # deviations are in the records
                values = [each[way].get(metric) for each in columns.values()]
                table.add_row(metric, *["" if value is None else f"{value:.4g}" for value in values])
    return table
