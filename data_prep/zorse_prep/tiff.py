"""TIFF files: the first page as an image, or the true reason why it is not read.

tifffile knows the structure of the file, and decodes its strips and tiles. Whether they are all there, and of a size
that can be decoded, is judged here; what the numbers mean in tiff_kind.py; the pixels are made in tiff_levels.py.
"""

import io
import logging
import struct
from collections.abc import Iterator, Set
from contextlib import contextmanager

from PIL import Image, ImageOps
from tifffile import TiffFile, tifffile

from zorse_prep.pixels import MOST_PIXELS, BadImage
from zorse_prep.tiff_kind import JPEG, PREDICTING, kind_of, unread
from zorse_prep.tiff_levels import ORIENTATION, image_of
from zorse_prep.whole import EOI

CANON = b"CR"  # behind the header of its raw files, whose first page is a preview
LARGEST_PART = 400_000_000  # bytes of a strip or tile when it is decoded
# Tags of sizes, depth, meaning, strips and tiles: without one that is there, the pixels would be other ones.
NEEDED = {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 530}

logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it would tell is judged here


def read_tiff(data: bytes) -> tuple[Image.Image, list[str]]:
    """The first page, upright, with its colour profile in `info`, and the names of the conversions it took.

    Raises BadImage(reason), and what tifffile and its codecs raise for damaged files.
    """
    with without_crashes(), TiffFile(io.BytesIO(data)) as file:
        return _read(file, data)


@contextmanager
def without_crashes() -> Iterator[None]:
    """Turn what tifffile raises for tags of types that no page has into OSError."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ZeroDivisionError):
        raise OSError("its directory is damaged") from None


def _read(file: TiffFile, data: bytes) -> tuple[Image.Image, list[str]]:
    if data[8:10] == CANON:
        raise unread("a camera's raw file")
    pages = list(pages_of(file, data))
    page = pages[0]
    check_size_of(page)
    kind = kind_of(page)
    for other in pages:
        _check_parts(other, len(data))
    if page.compression == JPEG:
        _check_jpegs(page, data)
    if page.compression not in PREDICTING:
        page.predictor = 1  # as libtiff has it: for others the tag means nothing
    notes = ["first_frame"] * (len(pages) > 1) + ["deep_colour"] * kind.is_deep_colour
    orientation = page.tags.valueof(ORIENTATION)
    image = image_of(page, kind, data, notes)
    if orientation in range(2, 9):
        notes.append("exif_rotated")
        image.getexif()[ORIENTATION] = orientation
        image = ImageOps.exif_transpose(image)
    return image, notes


def pages_of(file: TiffFile, data: bytes, needed: Set[int] = NEEDED) -> Iterator:
    """All pages, after the directory of each is found whole, and the `needed` tags that it lists are there.

    tifffile itself leaves out what it cannot read.
    """
    tiff, offset, seen = file.tiff, file.pages.first.offset, set()
    while offset:
        if offset in seen:
            raise OSError("its pages form a ring")
        seen.add(offset)
        try:
            (count,) = struct.unpack_from(tiff.tagnoformat, data, offset)
            entries = offset + tiff.tagnosize
            codes = {
                struct.unpack_from(tiff.byteorder + "H", data, entries + n * tiff.tagsize)[0] for n in range(count)
            }
            (following,) = struct.unpack_from(tiff.offsetformat, data, entries + count * tiff.tagsize)
            page = file.pages[len(seen) - 1]
        except (struct.error, IndexError):
            raise OSError("the file is truncated: a page's directory is not complete") from None
        if page.offset != offset or (codes & needed) - {tag.code for tag in page.tags}:
            raise OSError("the file is truncated: a page's directory is not complete")
        yield page
        offset = following


def check_size_of(page) -> None:
    """Hold the page, and its strips or tiles, to what memory allows, before anything is decoded."""
    across, down = _part(page)
    if page.imagewidth * page.imagelength * page.samplesperpixel == 0:
        raise OSError("it has no pixels")
    if max(page.imagewidth * page.imagelength, across * down) > MOST_PIXELS:
        raise BadImage(f"more than {MOST_PIXELS / 1e6:.0f} million pixels")
    if page.dtype is not None:
        size = across * down * page.dtype.itemsize * (page.samplesperpixel if page.planarconfig == 1 else 1)
        if size > LARGEST_PART:
            most = LARGEST_PART / 1e6
            raise BadImage(
                f"its strips or tiles are of {size / 1e6:.0f} MB each, and more than {most:.0f} MB are not decoded"
            )


def _part(page) -> tuple[int, int]:
    """Width and height of a strip or tile."""
    return (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)


def check_parts_of(page, data: bytes) -> None:
    """Raise OSError where a strip or tile is missing, or is a JPEG that is larger than it may be."""
    _check_parts(page, len(data))
    if page.compression == JPEG:
        _check_jpegs(page, data)


def _check_parts(page, size: int) -> None:
    """Whether the strips or tiles lie in the file. A stopped writer leaves the offset 0 for what it never reached."""
    parts, lengths, count = page.dataoffsets, page.databytecounts, 1
    for number in page.chunked:
        count *= number
    if not len(parts) == len(lengths) == count:
        raise OSError("the list of its strips or tiles does not match its size")
    if any(at == 0 or length == 0 or at + length > size for at, length in zip(parts, lengths, strict=True)):
        raise OSError("the file is truncated: a strip or tile is missing")


def _check_jpegs(page, data: bytes) -> None:
    """A JPEG in a TIFF tells its own size, and is held to that of the strip or tile before it is decoded."""
    across, down = _part(page)
    for at, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        _, height, width, _ = tifffile.jpeg_shape(data[at : at + length])
        if width > across or height > max(down, page.imagelength):
            raise OSError("one of its strips or tiles is larger than it may be")
        if EOI not in data[at : at + length]:
            raise OSError("the file is truncated: a strip or tile has no end")
