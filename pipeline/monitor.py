"""What a person sees of a run: progress on a terminal or plain lines, stats.jsonl, the plan, the closing table."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from torch import Tensor, nn

from pipeline.config import Config, UserError, total_pairs
from pipeline.data import Shards, Share
from pipeline.networks import parameter_count
from pipeline.rundir import write_durably


class LossWindow:
    """The losses of the steps since the last status. They stay on the device until `collect`.

    rows: one per step, [losses in the order of `names`], means over all ranks; part of a checkpoint, so that the line
    after a resume is the line that would have been written without it. start: the first step's first pair.
    """

    def __init__(self, batch: int, accumulate: int):
        self.batch, self.accumulate = batch, accumulate
        self.names: list[str] = []
        self.rows: list[list[float]] = []
        self.start = 0
        self._waiting: list[Tensor] = []

    def add(self, losses: dict[str, Tensor]) -> None:
        """The losses of one micro-step of this rank."""
        self.names = list(losses)
        self._waiting.append(torch.stack(list(losses.values())))

    def collect(self, mean_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Bring the losses here: one reduction, one wait for the device.

        Raises UserError at the first loss that is not finite; since the reduced values are the same on all ranks, so is
        the decision.
        """
        if not self._waiting:
            return
        steps = torch.stack(self._waiting).view(-1, self.accumulate, len(self.names)).mean(1)
        self._waiting.clear()
        for row in mean_over_ranks(steps).tolist():
            for name, value in zip(self.names, row, strict=True):
                if not math.isfinite(value):
                    pair = self.start + len(self.rows) * self.batch
                    raise UserError(
                        f"the loss {name} is {value} in the step that began at pair {pair}; stopped before saving it. "
                        "Lower --lr, or train without mixed precision"
                    )
            self.rows.append(row)

    def means(self) -> dict[str, float]:
        """Means over the collected steps by name; starts a new window."""
        count = len(self.rows)
        means = {name: math.fsum(row[i] for row in self.rows) / count for i, name in enumerate(self.names)}
        self.start += count * self.batch
        self.rows = []
        return means

    def state(self) -> dict:
        return {"start": self.start, "names": self.names, "rows": self.rows}

    def load(self, state: dict) -> None:
        self.start, self.names, self.rows = state["start"], state["names"], state["rows"]


class Stopwatch:
    """Seconds spent in training steps since `reset`, and of these waiting for data; maintenance does not count."""

    def __init__(self):
        self.reset()
        self.resume()

    def reset(self) -> None:
        self.training = self.waiting = 0.0

    def pause(self) -> None:
        self.training += time.perf_counter() - self._since

    def resume(self) -> None:
        self._since = time.perf_counter()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - began


class Display:
    """Progress for a person: a live bar on a terminal, one plain line per status elsewhere. Silent but on rank 0."""

    def __init__(self, total_pairs: int, enabled: bool):
        self.console = Console(quiet=not enabled, highlight=False, soft_wrap=True)
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


def status(pairs_seen: int, epoch: int, lr: float, window: LossWindow, watch: Stopwatch) -> dict:
    """One line of stats.jsonl: means since the line before. Starts a new window and resets the watch."""
    pairs = pairs_seen - window.start
    record = {
        "pairs": pairs_seen,
        "epoch": pairs_seen / epoch,
        "lr": lr,
        **window.means(),
        "pairs_per_second": pairs / watch.training,
        "data_wait": watch.waiting / watch.training,
    }
    watch.reset()
    return record


class Recorder:
    """stats.jsonl, eval/*.json and the trackers. Writes on rank 0 alone.

    From stats.jsonl, lines after `pairs_seen` are removed: they stem from steps that a resume does again.
    """

    def __init__(self, out: Path, pairs_seen: int, track: Callable[..., None], enabled: bool):
        self.out, self.track, self.enabled = out, track, enabled
        self.stats = out / "stats.jsonl"
        if enabled and self.stats.exists():
            lines = self.stats.read_text().splitlines(keepends=True)
            # A line that a kill cut off has no newline.
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["pairs"] <= pairs_seen]
            write_durably(self.stats, "".join(kept))

    def status(self, record: dict) -> None:
        self.track(record, step=record["pairs"])
        if self.enabled:
            with self.stats.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def evaluation(self, pairs_seen: int, result: dict) -> None:
        self.track({f"{result['metric']}/{way}": result[way] for way in ("a_to_b", "b_to_a")}, step=pairs_seen)
        if self.enabled:
            (self.out / "eval").mkdir(exist_ok=True)
            path = self.out / "eval" / f"{pairs_seen:09d}.json"
            write_durably(path, json.dumps({"pairs": pairs_seen, **result}, indent=2) + "\n")


def print_plan(config: Config, shards: Shards, share: Share, model: nn.Module, mixed_precision: str) -> None:
    """What a run would do, for --dry-run."""
    optimization, size = config.optimization, config.images.crop_size
    pairs, epoch = total_pairs(optimization, shards.epoch), shards.epoch
    slots, item = len(share.slots), 8 if config.run.dtype == "float64" else 4
    places = config.losses.history + 1 if config.losses.history else 0
    generator, discriminator = model.generators["a_to_b"], model.discriminators["of_a"]
    tests = " + ".join(str(len(split) if split else 0) for split in (shards.test_a, shards.test_b))
    flipped = "mirrored half of the time" if config.images.flip else "never mirrored"
    steps = -(-pairs // optimization.batch)
    rows = {
        "data": f"{shards.root}: {len(shards.train_a)} + {len(shards.train_b)} training images, {tests} test images",
        "images": f"loaded at {config.images.load_size}, cropped to {size}, {flipped}",
        "length": f"{pairs} pairs = {steps} steps = {pairs / epoch:g} epochs of {epoch} pairs",
        "learning rate": f"{optimization.lr:g} for {optimization.epochs:g} epochs, "
        f"then to 0 over {optimization.decay_epochs:g}",
        "batch": f"{optimization.batch} = {share.world_size} processes x {share.accumulate} micro-steps "
        f"x {share.each} pairs",
        "generators": f"2 x {parameter_count(generator):,} parameters, "
        f"{config.networks.generator_blocks} residual blocks",
        "discriminators": f"2 x {parameter_count(discriminator):,} parameters",
        "image history": f"{config.losses.history} images a slot, {slots} slots a process: "
        f"{2 * slots * places * 3 * size * size * item / 2**20:.0f} MiB a process",
        "precision": config.run.dtype
        if mixed_precision == "no"
        else f"{mixed_precision} over {config.run.dtype} weights",
        "run directory": str(config.run.out),
    }
    table = Table.grid(padding=(0, 3))
    for row in rows.items():
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # of a log, whose lines should not be broken
    console.print(f"The plan with preset {config.preset} (dry run: nothing is written)\n")
    console.print(table)


def print_summary(console: Console, out: Path, pairs_seen: int) -> None:
    """The closing words: what the distance was and is, and where to look."""
    evaluations = [json.loads(path.read_text()) for path in sorted((out / "eval").glob("*.json"))]
    if len(evaluations) > 1:
        console.print(distance_table(evaluations[0], evaluations[-1]))
    console.print(f"{out} is finished at {pairs_seen} pairs; look at {out}/samples/{pairs_seen:09d}.png")
    console.print(f"translate with: python pipeline/translate.py {out} IN OUT --direction a2b")


def distance_table(first: dict, last: dict) -> Table:
    """Distances to the target domain before and after training, between what they are to be compared with."""
    table = Table(title=f"distance to real test images ({last['metric']}, {last['images']} images, lower is nearer)")
    columns = ["direction", "not translated", f"at {first['pairs']} pairs", f"at {last['pairs']} pairs", "real images"]
    for name in columns:
        table.add_column(name, justify="left" if name == "direction" else "right")
    for way, title in (("a_to_b", "a to b"), ("b_to_a", "b to a")):
        values = [last["untranslated"][way], first[way], last[way], last["real"][way]]
        table.add_row(title, *[f"{value:.4f}" for value in values])
    return table
