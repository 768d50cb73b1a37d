"""The records of a run, read: stats.jsonl and others, eval/*.json. What is damaged is left out, and told."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from zorse.directions import Direction
from zorse.typed_json import Count, Measured, convert, parse, read_bytes, reason

STATS, SAMPLES, EVENTS = "stats.jsonl", "sample_stats.jsonl", "events.jsonl"
OLD_SAMPLES = "looks.jsonl"  # of version 0.1, with "looks" for "samples" in each line


class EvaluationRecord(TypedDict):
    """A file of eval/: distances by direction, of translations and of real images, and how they were measured."""

    pairs: Count
    weights: str
    protocol: "Protocol"
    a_to_b: dict[str, Measured]
    b_to_a: dict[str, Measured]
    untranslated: "ByDirection"
    real: "ByDirection"


class ByDirection(TypedDict):
    """Values by metric, in each direction."""

    a_to_b: dict[str, Measured]
    b_to_a: dict[str, Measured]


class Protocol(TypedDict):
    """How distances were measured, as far as it is shown."""

    images: "Counts"
    real_images: "Counts"
    real_split: str
    resize: str
    features: str | None


class Counts(TypedDict):
    """Numbers of images in each direction."""

    a_to_b: Count
    b_to_a: Count


class Event(TypedDict):
    """A line of events.jsonl."""

    time: str
    pairs: Count
    text: str


class SampleRecord(TypedDict):
    """A line of sample_stats.jsonl."""

    pairs: Count
    samples: ByDirection


KINDS = {STATS: dict[str, Measured], SAMPLES: SampleRecord, OLD_SAMPLES: SampleRecord, EVENTS: Event}
OF_STATS = ("pairs", "epoch", "pairs_per_second", "data_wait")  # what is shown of a line of stats.jsonl
OF_SAMPLES = ("diversity", "luminance", "saturation")


def parse_line(line: str, name: str) -> dict | None:
    """A line of stats.jsonl, sample_stats.jsonl or events.jsonl, as `name` says; None where it is no such line."""
    try:
        record = convert(parse(line), dict[str, object])
        if name == OLD_SAMPLES and "looks" in record:
            record = {"pairs": record["pairs"], "samples": record["looks"]}
        record = convert(record, KINDS[name])
        if name == STATS:
            pairs, *others = (record[key] for key in OF_STATS)
            whole = type(pairs) is int and pairs > 0 and min(others[:2]) > 1e-9 and max(others) < 1e30
        else:
            whole = name == EVENTS or all(key in record["samples"][way] for way in Direction for key in OF_SAMPLES)
    except (ValueError, KeyError):
        return None
    return record if whole else None


def read_lines(path: Path, warn: Callable[[str], None] = lambda line: None) -> list[dict]:
    """The lines of stats.jsonl, sample_stats.jsonl or events.jsonl.

    The last one may be half a line, which a kill leaves, or a writer at this moment. What else cannot be read is left
    out, and told to `warn`.
    """
    try:
        *lines, last = read_bytes(path).decode(errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        warn(f"{path}: {reason(error)}; it is skipped")
        return []
    records = [parse_line(line, path.name) for line in lines]
    if damaged := records.count(None):
        warn(f"{path}: {damaged} of {len(lines)} lines are damaged and skipped")
    return [record for record in [*records, parse_line(last, path.name)] if record is not None]


def count_unreadable(run: Path) -> int:
    """The training images that could not be read, by the files of data/quarantine.py."""
    count = 0
    for path in run.glob("quarantine-*.jsonl"):
        with suppress(OSError):
            count += read_bytes(path).count(b"\n")
    return count


def read_samples(out: Path, warn: Callable[[str], None] = lambda line: None) -> list[dict]:
    """The lines of sample_stats.jsonl, or of the file that version 0.1 wrote."""
    return read_lines(out / SAMPLES if (out / SAMPLES).exists() else out / OLD_SAMPLES, warn)


def read_evaluation(path: Path, warn: Callable[[str], None] = lambda line: None) -> EvaluationRecord | None:
    """Parse a file of eval/; None for another kind of file, which is told to `warn`."""
    try:
        return convert(parse(read_bytes(path)), EvaluationRecord)
    except FileNotFoundError:  # a run that resumes measures it again
        return None
    except (OSError, ValueError) as error:
        warn(f"{path}: {reason(error)}; it is skipped")
        return None
