"""Turn two unpaired image domains into WebDataset shards.

  python data_prep/shard.py horse2zebra           a known data set, from the Hugging Face hub
  python data_prep/shard.py --source DIR          your images: DIR/trainA, DIR/trainB, optional DIR/testA, DIR/testB

Run again after an interruption, it writes only what is missing. Exit codes: 0 done; 2 a mistake in the input or the
options; 3 too many unusable images; 130 interrupted.
"""

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from data_prep import PrepError
from data_prep.manifest import finalize
from data_prep.pixels import Mode
from data_prep.shards import Policy, begin, committed, make_plan, outdated
from data_prep.sources import open_source
from data_prep.workers import cpu_count, write_shards

DEFAULT_DATA = Path("shards/horse2zebra")  # what pipeline/train.py reads unless told otherwise


@dataclass(frozen=True)
class Options:
    """What to shard, and how."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")] = None
    """A known data set (horse2zebra, monet2photo, ...) or OWNER/NAME on the hub; leave out with --source."""
    source: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """A folder with trainA, trainB and optionally testA, testB; or a table of the `datasets` library on disk."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where the shards go; shards/NAME unless given."""
    shard_size: int = 0
    """Samples per shard; 0 chooses a 64th of a split, within 64 and 10000."""
    max_side: int = 1024
    """Larger images are reduced to this on their longest side, in pixels."""
    min_side: int = 16
    """Images with a shorter side, in pixels, count as unusable."""
    lossless: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """What must be converted becomes a PNG, not a JPEG of quality 95, and good PNGs are copied like good JPEGs."""
    mode_a: Mode = "rgb"
    """Pixels of domain a: 8-bit colour; 8-bit grey; 8-bit colour with alpha, as PNG; 16-bit grey, as PNG."""
    mode_b: Mode = "rgb"
    """Pixels of domain b."""
    max_corrupt: float = 0.01
    """Share of unusable images above which nothing is finished; fewer are left out and listed in the manifest."""
    workers: int = cpu_count()
    """Processes."""
    restart: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the shards which --out holds."""


def run(options: Options) -> None:
    """Shard a data set and print what was made. Raises PrepError, OSError, KeyboardInterrupt."""
    _check(options)
    started = time.monotonic()
    source = open_source(options.name, options.source)
    numbers = options.max_side, options.min_side, options.shard_size
    plan = make_plan(source, Policy(*numbers, options.lossless, options.mode_a, options.mode_b))
    out = options.out or Path("shards", source.name)
    created = begin(out, plan, source, options.restart)
    missing = [shard for shard in plan.shards if committed(out, shard) is None or outdated(out, shard)]
    write_shards(out, plan, missing, options.workers)
    manifest = finalize(out, source, plan, created, options.max_corrupt)
    _report(out, manifest, len(plan.shards) - len(missing), time.monotonic() - started)


def _check(options: Options) -> None:
    for flag, value, least in (
        ("--workers", options.workers, 1),
        ("--shard-size", options.shard_size, 0),
        ("--min-side", options.min_side, 1),
        ("--max-side", options.max_side, options.min_side),
    ):
        if value < least:
            raise PrepError(f"{flag} {value} is too small; give {least} or more")
    if not 0 <= options.max_corrupt <= 1:
        raise PrepError(f"--max-corrupt {options.max_corrupt} is no share; give a number from 0 to 1")


def _report(out: Path, manifest: dict, kept: int, seconds: float) -> None:
    table = Table("split", title=f"{manifest['name']} in {out}", title_justify="left")
    for heading in ("images", "shards", "MB"):
        table.add_column(heading, justify="right")
    for heading in ("converted", "left out"):
        table.add_column(heading)
    for split, entry in manifest["splits"].items():
        left_out = {**entry["dropped"], "unusable": len(entry["quarantined"])}
        megabytes = f"{entry['bytes'] / 1e6:.1f}"
        counts = (str(entry["samples"]), str(len(entry["shards"])), megabytes)
        table.add_row(split, *counts, _counts(entry["converted"]), _counts(left_out))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    bad = [bad for entry in manifest["splits"].values() for bad in entry["quarantined"]]
    for entry in bad[:5]:
        console.print(f"warning: left out {printable(entry['file'])}: {entry['reason']}")
    if len(bad) > 5:
        console.print(f"warning: {len(bad) - 5} more, listed under `quarantined` in {out / 'manifest.json'}")
    shards = sum(len(entry["shards"]) for entry in manifest["splits"].values())
    console.print(f"done in {seconds:.1f} s" + (f"; {kept} of {shards} shards were there already" if kept else ""))
    data = "" if out == DEFAULT_DATA else f" --data {shlex.quote(str(out))}"
    console.print(f"next: accelerate launch pipeline/train.py{data}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "-"


def printable(text: str) -> str:
    """Text whose file names may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def main() -> int:
    """The command: errors as one line on stderr, exit codes as in the help."""
    options = tyro.cli(Options, description=__doc__)
    try:
        run(options)
    except PrepError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(f"{error}; make room or give access, or change --out or --source, and run again", 2)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on", 130)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
