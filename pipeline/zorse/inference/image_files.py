"""Image files: which are to be translated and where their translations go; reading and writing them. Needs no torch."""

import glob
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zorse.errors import UserError
from zorse.files import write_quickly
from zorse_prep.folders import files_below
from zorse_prep.format import Mode
from zorse_prep.images import read_as, read_noted
from zorse_prep.items import is_hidden, is_system
from zorse_prep.pixels import convert

KINDS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF",
    ".tiff": "TIFF", ".bmp": "BMP", ".gif": "GIF", ".ppm": "PPM",
}  # fmt: skip
TRANSPARENT = (".png", ".webp", ".tif", ".tiff")  # kinds that hold transparency
DEEP = (".png", ".tif", ".tiff")  # kinds that hold 16 bits
# Each translation says what made it, so that a later one may replace it, and nothing else.
MARK, SOFTWARE = b"Zorse", 305  # of EXIF and TIFF
MARK_WITHIN = 1024  # bytes from the beginning or the end of a file, where every kind has the mark
NAMED, PNG_TEXT = Image.Exif(), PngInfo()
NAMED[SOFTWARE] = MARK.decode()
PNG_TEXT.add_text("Software", MARK.decode())
SAVING = {
    "JPEG": {"quality": 95, "subsampling": 0, "comment": MARK}, "WEBP": {"quality": 95, "exif": NAMED},
    "PNG": {"pnginfo": PNG_TEXT}, "TIFF": {"tiffinfo": {SOFTWARE: MARK.decode()}}, "GIF": {"comment": MARK},
}  # fmt: skip
NUMBERS = (".npy", ".npz", ".nii", ".nii.gz", ".dcm", ".ima", ".mha", ".nrrd")  # kinds that are read as arrays alone
# What is read. Translations of photographs that are not in KINDS are PNGs.
READ = (*KINDS, *NUMBERS, ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl")
PLAIN = ("rgb", "rgb")  # modes that every kind holds


class Found(NamedTuple):
    """pairs: of a file to read and the file to write. left_out: other files there, counted by their endings, and hidden
    ones."""

    pairs: list[tuple[Path, Path]]
    left_out: Counter[str]


def find(sources: Sequence[str], out: str) -> Found:
    """Images to translate: files, folders with all below them, globs. Raises UserError where there are none.

    One file goes to the file `out`, or into it if that is a folder or ends in a slash. Else `out` is a folder: a
    folder's tree is kept in it, below the folder's name if it is one of several sources, a glob's from the first part
    with a * on.
    """
    folder, only = Path(out), Path(sources[0]).expanduser()
    if len(sources) == 1 and only.is_file():
        own = only.name if only.suffix or not _is_dicom(only) else f"{only.name}.dcm"
        target = folder / own if folder.is_dir() or out.endswith("/") else folder
        if ending(target) not in READ and target.name == only.name:
            raise UserError(f"{only}: its name is not that of an image ({', '.join(READ)}); give image files")
        if ending(target) not in (*KINDS, *NUMBERS) and target.name != only.name:
            raise UserError(
                f"{target}: images of this kind cannot be written; give a name that ends in .png, .tif or .npy, or a "
                "folder, with a slash at its end if it is a new one"
            )
        return Found([(only, target)], Counter())
    if folder.is_file():
        raise UserError(f"{out}: is a file, but there may be several images; give a folder to write to")
    pairs, left_out = {}, Counter()
    for source in sources:
        for file, name in _files(source, folder, alone=len(sources) == 1):
            if name is None:
                left_out["hidden"] += 1
            elif ending(file) in READ:
                pairs.setdefault(file, folder / name)
            elif not file.suffix and _is_dicom(file):  # as scanners name them
                pairs.setdefault(file, folder / f"{name}.dcm")
            else:
                left_out[file.suffix.lower() or "no ending"] += 1
    if not pairs:
        raise UserError(f"{' '.join(sources)}: no images found ({', '.join(READ)}); give image files, or their folder")
    return Found(sorted(pairs.items()), left_out)


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False


def ending(path: Path) -> str:
    """The ending of a file's name, in lower case: ".png", ".nii.gz"."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def with_ending(path: Path, new: str | None, more: str = "") -> Path:
    """The same name with another ending, None for its own. more: what is put before it."""
    stem = path.name[: len(path.name) - len(ending(path))]
    return path.with_name(stem + more + (path.name[len(stem) :] if new is None else new))


def _files(source: str, out: Path, alone: bool) -> Iterator[tuple[Path, Path | None]]:
    """Files of a source, and the name of each below OUT, None for a hidden one; without those that lie in OUT."""
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            yield from _below(path, Path() if alone else Path(path.resolve().name), _in_out(path, out))
        elif path.is_file():
            yield path, Path(path.name)
        elif _is_glob(source):
            root = Path(*takewhile(lambda part: not _is_glob(part), path.parts))
            in_out = _in_out(root, out)
            for match in map(Path, glob.glob(str(path), recursive=True)):  # noqa: PTH207, as a shell reads it
                if match.is_dir():
                    yield from _below(match, match.relative_to(root), in_out)
                elif match.is_file() and not in_out(match.parent):
                    name = match.relative_to(root)
                    yield match, None if any(map(is_system, name.parts)) else name
        else:
            raise UserError(f"{source}: no such file or folder; give an image, a folder of images, or shards")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); fix this, or leave it out") from None


def _is_glob(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _below(folder: Path, prefix: Path, in_out: Callable[[Path], bool]) -> Iterator[tuple[Path, Path | None]]:
    for entry in files_below(folder):
        file = Path(entry.path)
        name = file.relative_to(folder)
        if entry.is_file() and not in_out(file.parent):
            yield file, None if is_hidden(name.parts) else prefix / name


def _in_out(root: Path, out: Path) -> Callable[[Path], bool]:
    """What tells whether a folder below the root lies in OUT, which may itself be a folder below the root."""
    start, end = root.resolve(), out.resolve()

    @cache
    def in_out(folder: Path) -> bool:
        real = folder.resolve()
        return real == end or end in real.parents

    return in_out if start in end.parents else lambda folder: False


class Picture(NamedTuple):
    """image: upright, sRGB, in the PIL mode of its domain's mode. alpha: its transparency, L, None where it has none.
    first_frame: of an animation, or the first of several pages."""

    image: Image.Image
    alpha: Image.Image | None = None
    first_frame: bool = False


def read_picture(data: bytes, mode: Mode) -> Picture:
    """An image file as the networks see it, and what they do not see of it. Raises BadImage."""
    image, conversions = read_noted(data, mode)
    alpha = read_as(data, "rgba").getchannel("A") if "alpha" in conversions else None
    opaque = alpha is None or alpha.getextrema()[0] == 255
    return Picture(image, None if opaque else alpha, "first_frame" in conversions)


def with_alpha(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Transparency put back into colour or grey of 8 bits; others have their own, or cannot have any."""
    if alpha is not None and image.mode in ("RGB", "L"):
        image = image.copy()
        image.putalpha(alpha)
    return image


def side_by_side(one: Image.Image, other: Image.Image) -> Image.Image:
    """Two images of one size for the eye, RGB, what is transparent on white."""
    pair = Image.new("RGB", (2 * one.width, one.height))
    for number, image in enumerate((one, other)):
        pair.paste(convert(image, None, "rgb", []), (number * one.width, 0))
    return pair


def encode(image: Image.Image, path: Path) -> bytes:
    """The bytes of a file of the kind that its name says. PIL raises nearly anything where the kind cannot hold it."""
    buffer, kind = io.BytesIO(), KINDS[path.suffix.lower()]
    image.save(buffer, format=kind, **SAVING.get(kind, {}))
    data = buffer.getvalue()
    if kind == "PPM":  # PIL writes no comments
        data = data[:3] + b"# " + MARK + b"\n" + data[3:]
    elif kind == "BMP":  # which has no place for any but its end; the header says how long it is
        data = data[:2] + (len(data) + len(MARK)).to_bytes(4, "little") + data[6:] + MARK
    return data


def save(data: bytes, path: Path) -> None:
    """Write a file, and its folder, so that it is there whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_quickly(path, data)
