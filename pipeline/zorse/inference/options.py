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

    Names and folders are kept. A translation is upright, in sRGB, and has the transparency of its source; EXIF data,
    colour profiles and frames after the first are left out. Where a name's kind cannot hold transparency or 16 bits, it
    ends in .png. An earlier translation is replaced, no other file is. Files that cannot be read are passed over and
    listed in OUT/failed.jsonl; the exit code is then 2.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")]
    """run directory, whose newest checkpoint is taken, one checkpoint, an exported model, or a file or folder of the
    well-known PyTorch code's weights (.pth)"""
    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IN [IN ...] OUT", help_behavior_hint="")
    ]
    """IN: an image; a folder, with its subfolders; a glob in quotes, such as 'photos/**/*.jpg'; several of these; or
    shards, by their directory or URL. OUT: a folder, which may be a new one; for one image also the file to write"""
    direction: Literal["a2b", "b2a", "both"]
    """which domain the given images belong to, and which they are translated to. both: of shards alone, which know it
    of each image, to OUT/a2b and OUT/b2a"""
    split: Annotated[
        Literal["test", "train"] | None, tyro.conf.arg(metavar="{test,train}", help_behavior_hint="(default: test)")
    ] = None
    """which images of shards are taken"""
    also: Annotated[
        tuple[Literal["cycle", "pair"], ...], tyro.conf.UseAppendAction, tyro.conf.arg(help_behavior_hint="")
    ] = ()
    """cycle: write NAME.cycle.EXT, too, what comes back when the translation is translated back. pair: NAME.pair.EXT,
    source and translation side by side, what is transparent on white. May be given twice, for both"""
    skip_existing: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """leave out images whose translation is there, whatever model made it. For going on after an interruption"""
    batch: int = 1
    """images of one size that are computed at once; the results are the same but for rounding. On a CPU, one keeps the
    cores busy from some 256 pixels a side on, and more only take memory; on a GPU, try 8 for small images"""
    tile: Annotated[str, tyro.conf.arg(metavar="{auto,off,ROWS}")] = "auto"
    """rows that are computed at once, for images that are too large for the memory: the result is the same, since the
    norms' statistics are those of the whole image. auto: by what is free, and small images whole. off: always whole"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the convolutions. bfloat16 is for GPUs: less memory and time, and colours that differ slightly"""
    device: Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: a GPU, if any)")] = None
    """where to compute: cpu, cuda, cuda:1, ..."""
    weights: Literal["auto", "raw", "ema"] = "auto"
    """ema: the average that --ema-pairs made in training. raw: the weights themselves. auto: the average, if any"""


def check(options: Options) -> None:
    """Raise UserError for what is wrong whatever the images are."""
    # Options by themselves.
    if len(options.paths) < 2:
        raise UserError("something is missing; give a model, images to translate, and where to write")
    if options.tile not in ("auto", "off") and not (options.tile.isdecimal() and int(options.tile) > 0):
        raise UserError(f"--tile {options.tile}: must be auto, off, or a number of rows")
    if "cycle" in options.also and (options.model.is_file() or (options.model / "model.safetensors").exists()):
        raise UserError(f"--also cycle: {options.model} holds one direction alone; give a model with both, or drop it")
    if options.batch < 1:
        raise UserError(f"--batch {options.batch}: must be at least 1")
    # The model, as far as file names show.
    if options.model.suffix == ".safetensors":
        raise UserError(f"{options.model}: give the folder that it lies in")
    holds = ("state.json", "model.safetensors", "checkpoints/pairs-*", "*_net_G*.pth")
    if not options.model.is_file() and not any(any(options.model.glob(name)) for name in holds):
        raise UserError(
            f"{options.model}: no checkpoint here; give a run directory of pipeline/train.py, a checkpoint, an "
            "exported model, or a file or folder of .pth weights"
        )
    # Images and shards: which options belong to which.
    *sources, out = options.paths
    shards = [source for source in sources if of_shards(source)]
    if shards and len(sources) > 1:
        raise UserError(f"{shards[0]}: holds shards, which are translated alone; drop the other sources")
    if shards and Path(out).is_file():
        raise UserError(f"{out}: is a file; give a folder to write to")
    if options.direction == "both" and not shards:
        raise UserError(
            "--direction both: only shards know the domain of an image; "
            "give a2b with images of domain a, then b2a with those of b, or shards"
        )
    if options.split and not shards:
        raise UserError(f"--split {options.split}: chooses among images of shards, and {sources[0]} are none; drop it")


def of_shards(source: str) -> bool:
    """Whether a source is a URL or a folder of shards, finished or not."""
    records = (load_json(Path(source) / name) or {} for name in (MANIFEST, PLAN))
    return "://" in source or (Path(source).is_dir() and any(record.get("format") == FORMAT for record in records))
