"""The records of a run: stats.jsonl and others, eval/*.json, the trackers. Written on rank 0, read by whoever likes."""

import json
import math
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from zorse.config.resolve import to_json
from zorse.config.schema import Config
from zorse.directions import Direction
from zorse.errors import OneRankError, first_sentence
from zorse.files import append, write_durably
from zorse.runs.directory import records_after

STATS, SAMPLES, EVENTS = "stats.jsonl", "sample_stats.jsonl", "events.jsonl"
OLD_SAMPLES = "looks.jsonl"  # of version 0.1, with "looks" for "samples" in each line


def _pairs(line: str) -> float:
    """The pair of a line of stats.jsonl; infinity for what a kill or a crash left of one."""
    try:
        return json.loads(line)["pairs"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def read_lines(path: Path) -> list[dict]:
    """Parse a .jsonl file, skipping truncated lines, which a kill leaves, or a writer at this moment."""
    lines = []
    with suppress(FileNotFoundError):
        for text in path.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                lines += [line] if isinstance(line := json.loads(text), dict) else []
    return lines


def read_samples(out: Path) -> list[dict]:
    """The lines of sample_stats.jsonl, or of the file that version 0.1 wrote."""
    if (out / SAMPLES).exists():
        return [line for line in read_lines(out / SAMPLES) if "samples" in line]
    lines = [line for line in read_lines(out / OLD_SAMPLES) if "looks" in line]
    return [{"pairs": line["pairs"], "samples": line["looks"]} for line in lines]


def read_evaluation(path: Path) -> dict | None:
    """Parse a file of eval/; None for one that is truncated, or something else."""
    try:
        record = json.loads(path.read_text())
        for kind in ("untranslated", "real"):
            record[kind]["a_to_b"], record[kind]["b_to_a"]
        return record if {"pairs", "weights", "protocol", "a_to_b", "b_to_a"} <= record.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class Recorder:
    """stats.jsonl, sample_stats.jsonl, events.jsonl, eval/*.json and the trackers. Writes on rank 0 alone.

    Records after `pairs_seen` are removed, since a resumed run takes those steps again; events stay. A record that
    cannot be written, as on a full disk, is reported to `warn`, and is no reason to stop.

    trackers: accelerate's. past: the lines of stats.jsonl and sample_stats.jsonl up to now.
    """

    def __init__(self, out: Path, pairs_seen: int, trackers: list, warn: Callable[[str], None], enabled: bool):
        self.out, self.trackers, self.warn, self.enabled = out, trackers, warn, enabled
        self.past: list[dict] = []
        self._unwritten = dict.fromkeys((STATS, SAMPLES), "")
        if enabled and (out / OLD_SAMPLES).exists():  # a run of version 0.1
            write_durably(out / SAMPLES, "".join(json.dumps(line) + "\n" for line in read_samples(out)))
            (out / OLD_SAMPLES).unlink()
        for name in (STATS, SAMPLES) if enabled else ():
            if (out / name).exists():
                lines = (out / name).read_text(errors="replace").splitlines(keepends=True)
                kept = [line for line in lines if _pairs(line) <= pairs_seen]
                write_durably(out / name, "".join(kept))
                self.past += map(json.loads, kept)
        if enabled and (out / EVENTS).exists():
            write_durably(out / EVENTS, "".join(json.dumps(line) + "\n" for line in read_lines(out / EVENTS)))
        for path in records_after(out, pairs_seen) if enabled else ():
            path.unlink()

    def status(self, record: dict) -> None:
        self._line(STATS, record)
        self._track(lambda tracker: tracker.log(record, step=record["pairs"]), record["pairs"])

    def sample_statistics(self, record: dict) -> None:
        self._line(SAMPLES, record)
        samples = record["samples"].items()
        values = {f"{name}/{direction}": value for direction, each in samples for name, value in each.items()}
        self._track(lambda tracker: tracker.log(values, step=record["pairs"]), record["pairs"])

    def evaluation(self, result: dict) -> None:
        if self.enabled:
            with self.attempt("the evaluation"):
                (self.out / "eval").mkdir(exist_ok=True)
                path = self.out / "eval" / f"{result['pairs']:09d}.json"
                write_durably(path, json.dumps(result, indent=2) + "\n")
        values = {f"{name}/{direction}": value for direction in Direction for name, value in result[direction].items()}
        self._track(lambda tracker: tracker.log(values, step=result["pairs"]), result["pairs"])

    def grid(self, pairs_seen: int, image: np.ndarray) -> None:
        """uint8 [H, W, 3], for the trackers."""

        def log(tracker: GeneralTracker) -> None:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"samples": image[None]}, step=pairs_seen, **layout)

        self._track(log, pairs_seen)

    def event(self, pairs_seen: int, text: str) -> None:
        """Something that happened, for whoever reads later."""
        if self.enabled:
            line = {
                "time": datetime.now().astimezone().isoformat(timespec="seconds"),
                "pairs": pairs_seen,
                "text": text,
            }
            with suppress(OSError):  # such as the very warning that the disk is full
                append(self.out / EVENTS, json.dumps(line) + "\n")

    def _line(self, name: str, record: dict) -> None:
        if self.enabled:
            self._unwritten[name] += json.dumps(record) + "\n"
            with self.attempt(f"{name} (these lines come with the next one)"):
                append(self.out / name, self._unwritten[name])
                self._unwritten[name] = ""

    def _track(self, log: Callable[[GeneralTracker], None], pairs_seen: int) -> None:
        for tracker in list(self.trackers):
            try:
                log(tracker)
            except Exception as error:  # of libraries that we know little about, and of networks
                self.trackers.remove(tracker)  # TensorBoard's writer fails for good, and says so late
                self.warn(f"warning: {tracker.name}'s records end before pair {pairs_seen}, training goes on: {error}")

    @contextmanager
    def attempt(self, what: str, failing: type[Exception] = OSError) -> Iterator[None]:
        try:
            yield
        except failing as error:
            self.warn(f"warning: {what} could not be written, training goes on: {error}")


def start_trackers(accelerator: Accelerator, config: Config, pairs_seen: int) -> None:
    """TensorBoard in OUT/tensorboard, and one run at Weights & Biases however often it is resumed.

    Raises OneRankError where Weights & Biases refuses.
    """
    usual = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread on a full disk; its next record raises, too, and is reported in a line.
        if not (isinstance(failed.exc_value, OSError) and "tensorboard" in type(failed.thread).__module__):
            usual(failed)

    threading.excepthook = hook
    settings = {"tensorboard": {"purge_step": pairs_seen + 1}}
    if "wandb" in config.output.tracker and accelerator.is_main_process:
        file = config.output.out / "wandb-id"
        if not file.exists():
            write_durably(file, secrets.token_hex(4))
        settings["wandb"] = {"id": file.read_text(), "resume": "allow", "name": config.output.out.name}
        settings["wandb"] |= {"dir": str(config.output.out), "config": json.loads(to_json(config))}
    try:
        accelerator.init_trackers("zorse", init_kwargs=settings)
    except OSError:
        raise
    except Exception as error:  # of a library that we know little about
        line = f"--tracker {' '.join(config.output.tracker)}: {first_sentence(error)}; fix it, or drop it"
        raise OneRankError(line) from None
