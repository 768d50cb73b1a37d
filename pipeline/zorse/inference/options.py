"""What can be asked of a translation, and the checks that need no images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zorse.errors import UserError
from zorse.files import load_json
from zorse_prep.format import FORMAT, MANIFEST, PLAN


@dataclass(frozen=True)
class Options:
    """Translate images from one domain to the other, each at its own size.

    Names and folders are kept. Arrays come back in the units of their domain and the kind of file that they came in,
    volumes whole; what no such file can hold becomes .npy (docs/data.md). A translated photograph is upright, in sRGB,
    and has the transparency of its source; EXIF data, colour profiles and frames after the first are dropped. Where a
    file's format cannot hold transparency or 16 bits, PNG is used. Of existing files, only earlier translations are
    replaced. Files that cannot be read are skipped and listed in OUT/failed.jsonl; the exit code is then 2.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")]
    """run directory (its latest checkpoint is used), a checkpoint, an exported model, or a .pth file or folder of
    junyanz's PyTorch code"""
    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IN [IN ...] OUT", help_behavior_hint="")
    ]
    """IN: an image; a folder, with its subfolders; a glob in quotes, such as 'photos/**/*.jpg'; several of these; or
    shards, by their directory or URL. OUT: a folder, which may be a new one; for one image also the file to write"""
    direction: Literal["a2b", "b2a", "both"]
    """the domain of the images, and the one to translate them to. both: for shards only, which record the domain of
    each image; writes OUT/a2b and OUT/b2a"""
    split: Annotated[
        Literal["test", "train"] | None, tyro.conf.arg(metavar="{test,train}", help_behavior_hint="(default: test)")
    ] = None
    """which split of shards to translate"""
    also: Annotated[
        tuple[Literal["cycle", "pair"], ...], tyro.conf.UseAppendAction, tyro.conf.arg(help_behavior_hint="")
    ] = ()
    """cycle: also write NAME.cycle.EXT, the translation translated back. pair: also write NAME.pair.EXT, source and
    translation side by side, with transparency on white. May be given twice, for both"""
    skip_existing: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """skip images that have a translation already, whichever model made it; to continue after an interruption"""
    batch: int = 1
    """images of equal size that are computed at once; results are the same up to rounding. On a CPU, one image of 256
    pixels or more keeps the cores busy, and more only take memory; on a GPU, try 8 for small images"""
    tile: Annotated[str, tyro.conf.arg(metavar="{auto,off,ROWS}")] = "auto"
    """rows that are computed at once, for images too large for the memory; the result is the same, since the norms use
    the statistics of the whole image. auto: as many as fit, small images whole. off: always the whole image"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """precision of the convolutions. bfloat16 is for GPUs: less memory and time, and colours that differ slightly"""
    device: Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: a GPU, if any)")] = None
    """where to compute: cpu, cuda, cuda:1, ..."""
    weights: Literal["auto", "raw", "ema"] = "auto"
    """ema: the average that --ema-pairs made in training. raw: the weights themselves. auto: the average, if any"""


def check(options: Options) -> None:
    """Raise UserError for what is wrong whatever the images are."""
    # Options by themselves.
    if len(options.paths) < 2:
        raise UserError("OUT is missing; give MODEL IN OUT: a model, images to translate, and where to write")
    if options.tile not in ("auto", "off") and not (options.tile.isdecimal() and int(options.tile) > 0):
        raise UserError(f"--tile {options.tile}: must be auto, off, or a number of rows")
    if "cycle" in options.also and (options.model.is_file() or (options.model / "model.safetensors").exists()):
        raise UserError(f"--also cycle: {options.model} has only one direction; give a model with both, or drop it")
    if options.batch < 1:
        raise UserError(f"--batch {options.batch}: must be at least 1")
    # The model, as far as file names show.
    if options.model.suffix == ".safetensors":
        raise UserError(f"{options.model}: give the folder that contains it")
    holds = ("state.json", "model.safetensors", "checkpoints/pairs-*", "*_net_G*.pth")
    if not options.model.is_file() and not any(any(options.model.glob(name)) for name in holds):
        raise UserError(
            f"{options.model}: no checkpoint here; give the directory of a run, a checkpoint, an "
            "exported model, or a file or folder of .pth weights"
        )
    # Images and shards: which options belong to which.
    *sources, out = options.paths
    shards = [source for source in sources if of_shards(source)]
    if shards and len(sources) > 1:
        raise UserError(
            f"{shards[0]}: holds shards, which cannot be mixed with other sources; translate them separately"
        )
    if shards and Path(out).is_file():
        raise UserError(f"{out}: is a file; give a folder to write to")
    if options.direction == "both" and not shards:
        raise UserError(
            "--direction both: only shards record the domain of each image; "
            "give a2b with images of domain a, then b2a with those of b, or shards"
        )
    if options.split and not shards:
        raise UserError(f"--split {options.split}: applies to shards only, and {sources[0]} has none; drop it")


def of_shards(source: str) -> bool:
    """Whether a source is a URL or a folder of shards, finished or not."""
    records = (load_json(Path(source) / name) or {} for name in (MANIFEST, PLAN))
    return "://" in source or (Path(source).is_dir() and any(record.get("format") == FORMAT for record in records))
