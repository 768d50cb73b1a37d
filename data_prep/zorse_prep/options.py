"""Every option of data_prep/shard.py and of its stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zorse.errors import UserError
from zorse_prep.format import PixelMode, is_range
from zorse_prep.ranges import ArrayPolicy
from zorse_prep.workers import cpu_count

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT", help_behavior_hint="")]
Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="A=X B=Y", help_behavior_hint="")]
Dir = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
Range = Annotated[tuple[str, ...], tyro.conf.arg(metavar="LOW HIGH|percentiles|type", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")]
Numbers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="")]
Globs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="GLOB ...", help_behavior_hint="")]


@dataclass(frozen=True)
class Options:
    """List the images and decide which of them goes into which shard; writes OUT/plan.json, for write and finalize."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")] = None
    """a known data set (horse2zebra, monet2photo, ...) or OWNER/NAME@REVISION on the hub; leave out for your own
    images"""
    a: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """folder with the images of domain A, in any subfolders"""
    b: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """folder with the images of domain B"""
    test_a: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """folder with the test images of domain A; without it, a share of those in --a is held out"""
    test_b: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """folder with the test images of domain B"""
    test_share: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """share of the training images to hold out as test images, chosen by a hash of their names; by default 0.05 of --a
    and --b, and nothing where the source has its own test images. 0 holds out none"""
    source: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """instead of --a and --b: a folder, .zip or .tar with trainA, trainB and optionally testA, testB; or a table of the
    `datasets` library, as save_to_disk writes it, or in .parquet, .arrow or other files"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """folder to write shards to; by default shards/NAME"""
    columns: Pairs = ()
    """columns of a table that hold the domains; by default imageA and imageB"""
    configs: Pairs = ()
    """configurations, or else splits, of a table that hold a domain each"""
    label_a: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="")] = None
    """label of domain A, by name or number, in a table of labelled images; its test split is kept"""
    label_b: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="")] = None
    """label of domain B"""
    shard_size: int = 0
    """samples per shard; 0 chooses a 64th of a split, but at least 64 and at most 10000"""
    max_side: int = 1024
    """pixels; images with a longer side are reduced to this"""
    min_side: int = 16
    """pixels; images with a shorter side count as unusable"""
    lossless: Flag = False
    """store images that must be converted as PNG, not as JPEG of quality 95, and copy good PNGs like good JPEGs"""
    mode_a: PixelMode = "rgb"
    """pixels of domain a. rgb, grey: 8 bits. rgba: 8 bits with alpha, as PNG. grey16: 16 bits, as PNG"""
    mode_b: PixelMode = "rgb"
    """pixels of domain b"""
    range_a: Range = ()
    """keep images of domain a as arrays of numbers in their own units, where networks see LOW as -1 and HIGH as 1.
    percentiles: by channel, the range of nearly all values of the training images. type: all that an integer type
    holds. For measured values, as of scanners, microscopes and satellites: docs/data.md"""
    range_b: Range = ()
    """the same for domain b"""
    channels_a: Names = ()
    """with --range-a: names of the channels, in order; images with another number of channels are left out. By default
    the names in the files, or numbers from 0"""
    channels_b: Names = ()
    """the same for domain b"""
    show_a: Numbers = ()
    """with --range-a: one or three channels, by number from 0, that sample grids and feature networks see; by default
    the first three, or the first"""
    show_b: Numbers = ()
    """the same for domain b"""
    slice_axis_a: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """with --range-a: axis that volumes are cut along, from 0; needed for .npy, by default the third of NIfTI,
    MetaImage and NRRD, and the pages of TIFF"""
    slice_axis_b: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """the same for domain b"""
    keep_duplicates: Flag = False
    """keep all byte-identical images of a split, not only the first by name"""
    paired_tests: Flag = False
    """test images of one name in testA and testB show the same, even where the name is only a number, so that
    evaluation compares translations with them; names with a letter count anyway"""
    leak: Literal["warn", "fail"] = "warn"
    """what to do when an image is in both the training and the test images of a domain"""
    max_corrupt: float = 0.01
    """largest share of unusable images, which are skipped and listed; with more, nothing is finished"""
    workers: int = cpu_count()
    """worker processes"""
    restart: Flag = False
    """replace the shards in --out"""
    dry_run: Flag = False
    """list and hash the images and show the plan; write nothing"""


@dataclass(frozen=True)
class WriteOptions:
    """Write planned shards. Without --task, a task of a Slurm array takes its own share."""

    out: Out
    """folder of the plan"""
    task: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """number of this task, from 0 to --tasks - 1"""
    tasks: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """number of tasks that the shards are divided among"""
    workers: int = cpu_count()
    """worker processes"""


@dataclass(frozen=True)
class FinalizeOptions:
    """Summarize finished shards in the manifest, which makes them a data set."""

    out: Out
    """folder of the shards"""
    max_corrupt: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """largest share of unusable images; by default as planned"""
    paired_tests: Flag = False
    """test images of one name in testA and testB show the same, even where the name is only a number"""


@dataclass(frozen=True)
class VerifyOptions:
    """Check finished shards against their manifest. Every fault gets a line, and any makes the exit code 1."""

    out: Out
    """folder of the shards"""
    deep: Flag = False
    """also read every byte: checksums, members of the tars, decoding of every image"""
    workers: int = cpu_count()
    """worker processes"""


@dataclass(frozen=True)
class StatsOptions:
    """Show what finished shards hold."""

    out: Out
    """folder of the shards"""


@dataclass(frozen=True)
class IndexOptions:
    """Make another program's tars usable: write .idx, .crc and manifest.json beside them, without changing a tar. Of
    each sample the first image counts. Images are checked as those of other sources are, but not converted."""

    out: Dir
    """folder of the tars"""
    train_a: Globs = ()
    """tars of domain A for training, as name patterns within DIR"""
    train_b: Globs = ()
    """the same for B"""
    test_a: Globs = ()
    """tars of domain A for testing"""
    test_b: Globs = ()
    """the same for B"""
    min_side: int = 16
    """pixels; images with a shorter side count as unusable"""
    max_corrupt: float = 0.01
    """largest share of unusable images, which are skipped and listed; with more, nothing is finished"""
    workers: int = cpu_count()
    """worker processes"""


def folders_of(options: Options) -> dict[str, Path]:
    """The folders of --a, --b, --test-a and --test-b by split; {} where none is given. Raises UserError."""
    given = {"trainA": options.a, "trainB": options.b, "testA": options.test_a, "testB": options.test_b}
    folders = {split: path for split, path in given.items() if path is not None}
    if folders and not {"trainA", "trainB"} <= folders.keys():
        raise UserError("--a and --b go together, and --test-a and --test-b with them; give both --a DIR and --b DIR")
    return folders


def array_policy(domain: str, options: Options) -> ArrayPolicy | None:
    """How images of a domain become arrays; None where they stay photographs. Raises UserError for what contradicts."""
    given = {name: getattr(options, f"{name}_{domain}") for name in ("range", "channels", "show", "slice_axis", "mode")}
    if not given["range"]:
        if unused := [name for name in ("channels", "show", "slice_axis") if given[name] not in ((), None)]:
            flag = f"--{unused[0].replace('_', '-')}-{domain}"
            raise UserError(f"{flag} is for arrays; add --range-{domain} LOW HIGH or percentiles, or leave it out")
        return None
    if given["mode"] != "rgb":
        raise UserError(f"--range-{domain} and --mode-{domain} cannot be combined; drop one")
    if min(given["show"], default=0) < 0 or len(given["show"]) not in (0, 1, 3):
        raise UserError(f"--show-{domain} {' '.join(map(str, given['show']))}: give one or three numbers from 0")
    if (given["slice_axis"] or 0) < 0:
        raise UserError(f"--slice-axis-{domain} {given['slice_axis']}: give a number from 0")
    if len(set(given["channels"])) < len(given["channels"]):
        raise UserError(f"--channels-{domain} {' '.join(given['channels'])}: give each channel a name of its own")
    of_files = {"channels": given["channels"], "shown": given["show"], "axis": given["slice_axis"]}
    if given["range"] in (("percentiles",), ("type",)):
        return ArrayPolicy(given["range"][0], **of_files)
    try:
        low, high = map(float, given["range"])
    except ValueError:
        low = high = 0.0
    if not is_range(low, high):
        said = " ".join(given["range"])
        raise UserError(f"--range-{domain} {said}: give LOW and HIGH, the larger second, or percentiles, or type")
    return ArrayPolicy("given", low, high, **of_files)
