"""The records of a run: stats.jsonl and others, eval/*.json, the trackers. Written on rank 0; reading.py reads them."""

import json
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
from zorse.runs.reading import EVENTS, OLD_SAMPLES, SAMPLES, STATS, parse_line, read_samples
from zorse.typed_json import convert, parse, read_bytes


def _pairs(line: str) -> float | None:
    """The pair of a line of a record; None for a damaged one."""
    try:
        return convert(convert(parse(line), dict).get("pairs"), float)
    except ValueError:
        return None


MADE = "made by "  # what an event begins with that says which command, versions and machine trained


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
        if enabled:
            self._cut_back(pairs_seen)
        for path in records_after(out, pairs_seen) if enabled else ():
            path.unlink()

    def _cut_back(self, pairs_seen: int) -> None:
        """Rewrite the files of lines without those after `pairs_seen`, and without damaged ones."""
        if (self.out / OLD_SAMPLES).exists():  # a run of version 0.1
            lines = read_samples(self.out, self.warn)
            write_durably(self.out / SAMPLES, "".join(json.dumps(line) + "\n" for line in lines))
            (self.out / OLD_SAMPLES).unlink()
        for name in (STATS, SAMPLES, EVENTS):
            if not (self.out / name).exists():
                continue
            text = read_bytes(self.out / name).decode(errors="replace")
            *lines, _ = text.split("\n")  # the last one may be torn
            pairs = {line: _pairs(line) for line in lines}
            if damaged := sum(pairs[line] is None for line in lines):
                self.warn(f"{self.out / name}: {damaged} of {len(lines)} lines are damaged, and are removed")
            kept = [line for line in lines if pairs[line] is not None]
            if name != EVENTS:
                kept = [line for line in kept if pairs[line] <= pairs_seen]
                self.past += filter(None, (parse_line(line, name) for line in kept))
            write_durably(self.out / name, "".join(line + "\n" for line in kept))

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
                self.warn(
                    f"warning: {tracker.name}'s records end before pair {pairs_seen}, training continues: {error}"
                )
                error.__traceback__ = None  # TensorBoard keeps the error, and so it would all that is on the stack

    @contextmanager
    def attempt(self, what: str, failing: type[Exception] = OSError) -> Iterator[None]:
        try:
            yield
        except failing as error:
            self.warn(f"warning: {what} could not be written, training continues: {error}")


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
    # Where each continues what it had: TensorBoard after this pair, Weights & Biases under the stored id.
    settings = {"tensorboard": {"purge_step": pairs_seen + 1}}
    if "wandb" in config.output.tracker and accelerator.is_main_process:
        file = config.output.out / "wandb-id"
        if not file.exists():
            write_durably(file, secrets.token_hex(4))
        settings["wandb"] = {
            "id": read_bytes(file).decode(errors="replace"),
            "resume": "allow",
            "name": config.output.out.name,
        }
        settings["wandb"] |= {"dir": str(config.output.out), "config": json.loads(to_json(config))}
    try:
        accelerator.init_trackers("zorse", init_kwargs=settings)
    except OSError:
        raise
    except Exception as error:  # of a library that we know little about
        line = f"--tracker {' '.join(config.output.tracker)}: {first_sentence(error)}; fix it, or drop it"
        raise OneRankError(line) from None
