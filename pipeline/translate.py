"""Translate images with a trained CycleGAN: python pipeline/translate.py RUN_OR_CHECKPOINT IN OUT --direction a2b."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from PIL import Image
from rich.progress import track

from data_prep.images import BadImage, read_as
from pipeline.errors import UserError
from pipeline.trained import Weights
from pipeline.translator import Translator

KINDS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
    ".gif": "GIF", ".ppm": "PPM",
}  # fmt: skip
KEEPING = (".png", ".tif", ".tiff")  # kinds that hold transparency and 16 bits


@dataclass(frozen=True)
class Options:
    """Translate an image, or every image of a folder, at its own size. File names are kept; images with transparency or
    16 bits become .png where the name's kind cannot hold them."""

    model: Annotated[Path, tyro.conf.Positional]
    """run directory, whose newest checkpoint is taken, or one checkpoint"""
    source: Annotated[Path, tyro.conf.Positional]
    """image file or folder, searched with its subfolders"""
    out: Annotated[Path, tyro.conf.Positional]
    """for a file: the file to write, or an existing folder; for a folder: the folder to write to"""
    direction: Literal["a2b", "b2a"]
    """which domain the given images belong to, and which they are translated to"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """where to compute"""
    weights: Weights = "auto"
    """ema: the average that --ema-pairs made in training. raw: the weights themselves. auto: the average, if any"""


def files(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """Pairs of a file to read and the file to write."""
    if source.is_file():
        target = out / source.name if out.is_dir() else out
        if target.suffix.lower() not in KINDS:
            raise UserError(f"{target}: images of this kind cannot be written; give a name that ends in .png or .jpg")
        return [(source, target)]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder; give an image, or a folder of images")
    if out.is_file():
        raise UserError(f"{out}: is a file, but {source} is a folder; give a folder to write to")
    found = [file for file in sorted(source.rglob("*")) if file.suffix.lower() in KINDS and file.is_file()]
    found = [file for file in found if out.resolve() not in file.resolve().parents]  # OUT may lie in IN
    if not found:
        raise UserError(f"{source}: no images ({', '.join(KINDS)}) in it; give a folder with image files")
    return [(file, out / file.relative_to(source)) for file in found]


def keeping(target: Path) -> Path:
    """The file to write in place of one whose kind would lose transparency or depth."""
    return target if target.suffix.lower() in KEEPING else target.with_suffix(".png")


def run(options: Options) -> None:
    pairs = files(options.source, options.out)
    try:
        torch.zeros(1, device=options.device).item()
    except (RuntimeError, AssertionError) as error:  # what torch raises for an unknown and for an absent device
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {options.device}: cannot be used ({reason}); give cpu, or leave it out") from None
    translator = Translator(options.model, options.direction, options.device, options.weights)
    if translator.modes[1] in ("rgba", "grey16"):
        pairs = [(source, keeping(target)) for source, target in pairs]
        if len({target for _, target in pairs}) < len(pairs):
            raise UserError(f"{options.source}: holds images that differ in their endings alone; rename one of them")
    for source, target in pairs:
        if source.resolve() == target.resolve():
            raise UserError(f"{target}: would overwrite its own source; give another folder or file to write to")
    failed = []
    for source, target in track(pairs, description=f"translating {options.direction}", disable=len(pairs) == 1):
        try:
            save(translator(read_as(source.read_bytes(), translator.modes[0])), target)
        except (BadImage, OSError, ValueError) as error:  # the last two also of formats that cannot hold the image
            failed.append(f"{source}: {error}")
    print(f"{len(pairs) - len(failed)} of {len(pairs)} images translated to {options.out}")
    if failed:
        raise UserError(f"{len(failed)} of {len(pairs)} files failed; mend or remove them. The first: {failed[0]}")


def save(image: Image.Image, target: Path) -> None:
    """Write at once, so that no half image is left under the name; the format follows the name."""
    kind = KINDS[target.suffix.lower()]
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        image.save(temporary, format=kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    """Exit codes: 0 done, 2 a mistake in the options or unreadable files."""
    try:
        run(tyro.cli(Options, prog="python pipeline/translate.py"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
