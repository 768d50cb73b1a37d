"""Every option of data_prep/shard.py and of its stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zorse_prep.format import Mode
from zorse_prep.workers import cpu_count

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT", help_behavior_hint="")]
Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="A=X B=Y", help_behavior_hint="")]
Dir = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
Globs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="GLOB ...", help_behavior_hint="")]


@dataclass(frozen=True)
class Options:
    """What to shard, and how."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")] = None
    """A known data set (horse2zebra, monet2photo, ...) or OWNER/NAME@REVISION on the hub; leave out with --source."""
    source: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """A folder, .zip or .tar with trainA, trainB and optionally testA, testB; or a table of the `datasets` library, as
    save_to_disk writes it, or in .parquet, .arrow or other files."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where the shards go; shards/NAME unless given."""
    columns: Pairs = ()
    """The columns of a table that hold the domains; imageA and imageB need not be named."""
    configs: Pairs = ()
    """The configurations, or else the splits, of a table that hold a domain each."""
    label_a: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="")] = None
    """The label of domain A, by name or number, in a table of labelled images; its test split stays one."""
    label_b: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="")] = None
    """The label of domain B."""
    shard_size: int = 0
    """Samples per shard; 0 chooses a 64th of a split, within 64 and 10000."""
    max_side: int = 1024
    """Larger images are reduced to this on their longest side, in pixels."""
    min_side: int = 16
    """Images with a shorter side, in pixels, count as unusable."""
    lossless: Flag = False
    """What must be converted becomes a PNG, not a JPEG of quality 95, and good PNGs are copied like good JPEGs."""
    mode_a: Mode = "rgb"
    """Pixels of domain a: 8-bit colour; 8-bit grey; 8-bit colour with alpha, as PNG; 16-bit grey, as PNG."""
    mode_b: Mode = "rgb"
    """Pixels of domain b."""
    keep_duplicates: Flag = False
    """Keep all of several byte-identical images of a split, not only the first by name."""
    leak: Literal["warn", "fail"] = "warn"
    """What to do where the same image is in training and test images of a domain."""
    max_corrupt: float = 0.01
    """Share of unusable images above which nothing is finished; fewer are left out and listed."""
    workers: int = cpu_count()
    """Processes."""
    restart: Flag = False
    """Replace the shards which --out holds."""
    dry_run: Flag = False
    """List and hash the images and show the plan; write nothing."""


@dataclass(frozen=True)
class WriteOptions:
    """Write planned shards. Without --task, one of a Slurm array's tasks takes its own share."""

    out: Out
    """Where the plan is."""
    task: Annotated[int | None, tyro.conf.arg(metavar="I", help_behavior_hint="")] = None
    """Which share: 0 to --tasks less 1."""
    tasks: Annotated[int | None, tyro.conf.arg(metavar="T", help_behavior_hint="")] = None
    """Into how many shares the shards are divided."""
    workers: int = cpu_count()
    """Processes."""


@dataclass(frozen=True)
class FinalizeOptions:
    """Sum finished shards up in the manifest, which makes them a data set."""

    out: Out
    """Where the shards are."""
    max_corrupt: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Share of unusable images above which nothing is finished; as planned unless given."""


@dataclass(frozen=True)
class VerifyOptions:
    """Check finished shards against their manifest. Every fault gets a line, and any makes the exit code 1."""

    out: Out
    """Where the shards are."""
    deep: Flag = False
    """Also read every byte: checksums, members of the tars, decoding of every image."""
    workers: int = cpu_count()
    """Processes."""


@dataclass(frozen=True)
class StatsOptions:
    """Show what finished shards hold."""

    out: Out
    """Where the shards are."""


@dataclass(frozen=True)
class IndexOptions:
    """Make another program's tars usable: .idx, .crc and manifest.json are written beside them, no tar is changed. Of
    each sample the first image counts. Images are judged as those of other sources are, but not converted."""

    out: Dir
    """Where the tars lie."""
    train_a: Globs = ()
    """Tars of domain A for training, as patterns of names in DIR."""
    train_b: Globs = ()
    """The same of B."""
    test_a: Globs = ()
    """Tars of domain A for testing."""
    test_b: Globs = ()
    """The same of B."""
    min_side: int = 16
    """Images with a shorter side, in pixels, count as unusable."""
    max_corrupt: float = 0.01
    """Share of unusable images above which nothing is finished; fewer are left out and listed."""
    workers: int = cpu_count()
    """Processes."""
