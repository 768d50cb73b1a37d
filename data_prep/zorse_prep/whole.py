"""Whether an image file is there to its end.

Pillow decodes what it finds and says nothing of what is missing after the last pixel that it needs; of a PNG whose
tail was filled with zeros, as an interrupted download leaves it, it even gives the missing rows as black. What has an
end marker, checksums or a table of its parts is therefore held to them here, and TIFF in tiff.py. BMP, PPM,
JPEG 2000 and JPEG XL need no help.

JPEG and WebP have no checksums. Where the pixels of one look as those of half a file do, bytes are put where the data
would go on, or the last ones are changed: that alters the pixels of half a JPEG alone, or of a whole WebP alone.
"""

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from math import prod

from PIL import Image

from zorse_prep.pixels import MOST_PIXELS, BadImage, bands_of

EOI = b"\xff\xd9"  # JPEG's end of image
SOI_SIZE = 2
SOS = b"\xff\xda"  # start of scan
ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # kinds of JPEG whose coding leaves out zeros at the end
MISSING_GREY = {127, 128}  # how libjpeg fills in blocks without data; CMYK is inverted
OTHER_DATA = bytes(range(1, 200))
TWICE = 50_000_000  # pixels of the largest JPEG of several scans that is decoded twice
FLUSHED = 32  # bytes at the end of a WebP's data that may change nothing
JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")  # bare, and in boxes
JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # of width to height
IEND = b"IEND\xae\x42\x60\x82"  # PNG's end chunk and its checksum
# In a scan, FF 00 stands for the byte FF, and FF D0 to FF D7 restart the decoder; all else after FF is a segment.
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)


def check_whole(data: bytes, kind: str) -> None:
    """Raise OSError where the end of a file is missing; PIL raises other kinds for broken ones. kind: PIL's format."""
    if kind in ("AVIF", "HEIF") and not any(data[-2 * FLUSHED :]):  # as a download leaves it that was not finished
        raise OSError("the file is damaged: its end is all zeros")
    check = {"JPEG": _check_jpeg, "MPO": _check_jpeg, "PNG": _check_png, "GIF": _check_gif, "WEBP": _check_webp}
    if kind in check:
        check[kind](data)


def check_size(data: bytes) -> None:
    """Raise BadImage for a WebP of which PIL would hold too much: four times its pixels, twice on opening."""
    if data.startswith(JXL):
        width, height = _size_of_jxl(data)
        if width * height > MOST_PIXELS:  # its plug-in decodes at once
            raise BadImage(f"more than {MOST_PIXELS / 1e6:.0f} million pixels")
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return
    kind, sides = data[12:16], (0, 0)
    if kind == b"VP8X":
        sides = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        sides = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        sides = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    if prod(sides) > MOST_PIXELS // 2:
        raise BadImage(f"more than {MOST_PIXELS / 2e6:.0f} million pixels, the most of a WebP that is decoded")


def _size_of_jxl(data: bytes) -> tuple[int, int]:
    """Width and height as the first bits of the coded image have them, the lowest bit of each byte first."""
    at = 0
    if data.startswith(JXL[1]):  # boxes: the coded image lies in one, or in several that are numbered
        found = re.search(rb"jxlc|jxlp....", data, re.DOTALL)
        at = found.end() if found else len(data)
    bits, used = int.from_bytes(data[at + 2 : at + 14], "little"), 0

    def take(count: int) -> int:
        nonlocal used
        used += count
        return bits >> used - count & (1 << count) - 1

    is_small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if is_small else 1 + take((9, 13, 18, 30)[take(2)])

    height = side()
    ratio = take(3)
    return side() if ratio == 0 else height * JXL_RATIOS[ratio - 1][0] // JXL_RATIOS[ratio - 1][1], height


def check_decoded(data: bytes, image: Image.Image) -> None:
    """Raise OSError where the pixels of a loaded JPEG or WebP are those of half a file."""
    if image.format in ("JPEG", "MPO"):
        _check_scans(data, image)
    elif image.format == "WEBP":
        _check_pixels_of_webp(data, image)


def _check_jpeg(data: bytes) -> None:
    if not data.endswith(EOI):  # cameras append their own data
        _markers(data)


def _markers(data: bytes) -> list[tuple[int, int]]:
    """The second byte and the place of each marker up to the end of the image. Raises OSError where that is missing."""
    at, found = SOI_SIZE, []
    while marker := MARKER.search(data, at):
        found.append((marker[1][0], marker.end() - 2))
        if marker[0].endswith(EOI):
            return found
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])  # the segment's length counts itself
    raise OSError("the file is truncated: no end of image")


def _check_scans(data: bytes, image: Image.Image) -> None:
    """Whether the last scan has all its data before the end marker; libjpeg makes what is missing grey, or blurred.

    A scan that is whole ignores what follows it. It is decoded twice only where the last pixel is that grey, and of a
    JPEG of several scans, since there each adds to what the ones before have left.
    """
    corner = image.getpixel((image.width - 1, image.height - 1))
    is_grey = set(corner if isinstance(corner, tuple) else (corner,)) <= MISSING_GREY
    if not is_grey and (data.count(SOS) == 1 or image.width * image.height > TWICE):
        return
    markers = _markers(data)
    codes, end = [code for code, _ in markers], markers[-1][1]
    if not (is_grey or codes.count(SOS[1]) > 1) or ARITHMETIC.intersection(codes):
        return
    if not _same_pixels(image, data[:end] + OTHER_DATA + data[end:]):
        raise OSError("the file is truncated: its last scan is not complete")


def _same_pixels(image: Image.Image, data: bytes) -> bool:
    """Whether a file has the pixels of the image, which are compared in bands, to hold no copy of all of them."""
    other = Image.open(io.BytesIO(data), formats=["JPEG" if image.format == "MPO" else image.format])
    with suppress(OSError):  # changed data may be invalid
        other.load()
        return all(image.crop(band).tobytes() == other.crop(band).tobytes() for band in bands_of(image))
    return False


def _check_png(data: bytes) -> None:
    """Every chunk's checksum, up to the end chunk; the decoder leaves those of the pixels out."""
    Image.open(io.BytesIO(data), formats=["PNG"]).verify()
    if IEND not in data:  # verify() stops in front of this chunk's own checksum
        raise OSError("the file is truncated: no end chunk")


def _check_gif(data: bytes) -> None:
    at = 13 + _gif_colours(data[10])
    while at < len(data):
        if data[at] == 0x3B:  # trailer
            return
        if data[at] == 0x21:  # extension: its label, blocks
            at += 2
        elif data[at] == 0x2C and at + 9 < len(data):  # image: its frame, colours, code size, blocks
            at += 11 + _gif_colours(data[at + 9])
        else:
            break
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    raise OSError("the file is truncated: no trailer")


def _gif_colours(flags: int) -> int:
    """Bytes of the colour table that a GIF's descriptor announces."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _check_webp(data: bytes) -> None:
    """Whether each chunk is there, and none of them but zeros."""
    for name, start, size in _webp_chunks(data):
        if start + size > len(data) or not name.strip(b"\0"):
            raise OSError("the file is truncated: a chunk is not complete")


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name, start and size of each chunk."""
    at, end = 12, 8 + int.from_bytes(data[4:8], "little")
    while at + 8 <= end:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        yield name, at + 8, size
        at += 24 if name == b"ANMF" else 8 + size + size % 2  # a frame holds chunks after 16 bytes of its own


def _check_pixels_of_webp(data: bytes, image: Image.Image) -> None:
    """Whether the first picture's data is read to its end, where zeros stand in it: flat areas may be coded so, too."""
    start, size = next((start, size) for name, start, size in _webp_chunks(data) if name in (b"VP8 ", b"VP8L"))
    coded = data[start : start + size]
    if bytes(2 * FLUSHED + 1) in coded:
        zeros, end = size - len(coded.rstrip(b"\0")), start + size
        changed = max(FLUSHED, zeros // 16)
        others = (OTHER_DATA * (changed // len(OTHER_DATA) + 1))[:changed]
        if _same_pixels(image, data[: end - changed] + others + data[end:]):
            raise OSError("the file is damaged: a part of its data is all zeros")
