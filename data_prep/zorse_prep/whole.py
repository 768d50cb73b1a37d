"""Whether an image file is there to its end.

Pillow decodes what it finds and says nothing of what is missing after the last pixel that it needs; of a PNG whose
tail was filled with zeros, as an interrupted download leaves it, it even gives the missing rows as black. What has an
end marker, checksums or a table of its parts is therefore held to them here. BMP, PPM and WebP need no help.
"""

import io
import re

from PIL import Image

EOI = b"\xff\xd9"  # JPEG's end of image
SOI_SIZE = 2
IEND = b"IEND\xae\x42\x60\x82"  # PNG's end chunk and its checksum
# In a scan, FF 00 stands for the byte FF, and FF D0 to FF D7 restart the decoder; all else after FF is a segment.
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
BIG_TIFF = (b"II+\0", b"MM\0+")
STRIPS, TILES = (273, 279), (324, 325)  # TIFF tags: offsets, byte counts


def check_whole(data: bytes, kind: str) -> None:
    """Raise OSError where the end of a file is missing; PIL raises other kinds for broken ones. kind: PIL's format."""
    check = {"JPEG": _check_jpeg, "MPO": _check_jpeg, "PNG": _check_png, "GIF": _check_gif, "TIFF": _check_tiff}
    if kind in check:
        check[kind](data)


def _check_jpeg(data: bytes) -> None:
    if data.endswith(EOI):
        return
    at = SOI_SIZE
    while found := MARKER.search(data, at):
        if found[0].endswith(EOI):  # cameras append their own data
            return
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])  # the segment's length counts itself
    raise OSError("the file is truncated: no end of image")


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


def _check_tiff(data: bytes) -> None:
    """All pages' strips and tiles; a writer that was stopped leaves zero for the offset of what it had not reached."""
    start, end = (8, 16) if data[:4] in BIG_TIFF else (4, 8)
    pages = [int.from_bytes(data[start:end], "little" if data[:2] == b"II" else "big")]
    image = Image.open(io.BytesIO(data), formats=["TIFF"])
    while True:
        for offsets, counts in (STRIPS, TILES):
            sizes = image.tag_v2.get(counts) or (1,) * len(image.tag_v2.get(offsets, ()))  # old ones have no counts
            for at, size in zip(image.tag_v2.get(offsets, ()), sizes, strict=True):
                if at == 0 or at + size > len(data):
                    raise OSError("the file is truncated: a strip or tile is missing")
        following = image.tag_v2.next
        if following == 0:
            return
        if following in pages:  # PIL leaves it at the page itself where it cannot be read
            raise OSError("the file is truncated: a page's directory is not complete")
        pages.append(following)
        image.seek(len(pages) - 1)
