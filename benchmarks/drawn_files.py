"""Image files of many kinds, written byte by byte from numbers that are known: TIFF, PNG, BMP."""

import lzma
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import imagecodecs
import numpy as np

COMPRESS = {
    "none": (1, bytes), "LZW": (5, imagecodecs.lzw_encode), "deflate": (8, zlib.compress),
    "PackBits": (32773, lambda data: imagecodecs.packbits_encode(data)), "Zstandard": (50000, imagecodecs.zstd_encode),
    "LZMA": (34925, lzma.compress), "JPEG": (7, None),
}  # fmt: skip
NUMBERS = {"unsigned": 1, "signed": 2, "float": 3}
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, steps


class Tiff(NamedTuple):
    """How a TIFF is laid out; `photometric`, `extra` and `orientation` are the numbers of the specification."""

    bits: int = 8
    numbers: str = "unsigned"
    photometric: int = 1
    extra: tuple[int, ...] = ()
    compression: str = "none"
    predictor: int = 1
    planar: int = 1
    tile: tuple[int, int] | None = None  # height, width
    rows: int = 1000  # of a strip
    order: str = "<"
    big: bool = False
    fill: int = 1
    orientation: int = 1
    pages: int = 1
    palette: np.ndarray | None = None  # [n, 3], uint16


def tiff(levels: np.ndarray, how: Tiff) -> bytes:
    """A TIFF of levels [H, W, C], which are stored as they are."""
    height, width, channels = levels.shape
    parts = [_encoded(part, how) for part in _parts(levels, how)]
    # The directory, but for where the strips or tiles lie.
    tags = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [how.bits] * channels),
        259: ("H", [COMPRESS[how.compression][0]]), 262: ("H", [how.photometric]), 266: ("H", [how.fill]),
        274: ("H", [how.orientation]), 277: ("H", [channels]), 284: ("H", [how.planar]),
        317: ("H", [how.predictor]), 339: ("H", [NUMBERS[how.numbers]] * channels),
    }  # fmt: skip
    if how.extra:
        tags[338] = ("H", list(how.extra))
    if how.palette is not None:
        tags[320] = ("H", how.palette.T.ravel().tolist())
    if how.photometric == 6:
        tags[530] = ("H", [1, 1])
    if how.tile:
        tags |= {322: ("I", [how.tile[1]]), 323: ("I", [how.tile[0]])}
    else:
        tags[278] = ("I", [min(how.rows, height)])
    # Pages of strips or tiles, each with its directory behind them.
    places, counts = (324, 325) if how.tile else (273, 279)
    data = bytearray(_header(how))
    for page in range(how.pages):
        starts = []
        for part in parts:
            starts.append(len(data))
            data += part + bytes(len(part) % 2)
        _append_directory(
            data, {**tags, places: ("I", starts), counts: ("I", [len(part) for part in parts])}, how, page == 0
        )
    return bytes(data)


def _header(how: Tiff) -> bytes:
    mark = b"II" if how.order == "<" else b"MM"
    if how.big:
        return mark + struct.pack(how.order + "HHHQ", 43, 8, 0, 0)
    return mark + struct.pack(how.order + "HI", 42, 0)


def _append_directory(data: bytearray, tags: dict, how: Tiff, is_first: bool) -> None:
    """A page's directory, behind all else, and its place where the header or the page before leaves room for it."""
    word = "Q" if how.big else "I"
    room, sizes, codes = struct.calcsize(word), {"H": 2, "I": 4}, {"H": 3, "I": 4}
    entries = b""
    for code, (type_, values) in sorted(tags.items()):
        packed = struct.pack(f"{how.order}{len(values)}{type_}", *values)
        if len(values) * sizes[type_] > room:
            start = len(data)
            data += packed + bytes(len(packed) % 2)
            packed = struct.pack(how.order + word, start)
        entries += struct.pack(how.order + "HH" + word, code, codes[type_], len(values)) + packed.ljust(room, b"\0")
    start = len(data)
    data += struct.pack(how.order + ("Q" if how.big else "H"), len(tags)) + entries + bytes(room)
    at = (8 if how.big else 4) if is_first else _last_link(data, how, start)
    data[at : at + room] = struct.pack(how.order + word, start)


def _last_link(data: bytearray, how: Tiff, before: int) -> int:
    """Where the last page before this one names the place of the next."""
    word, count, entry = ("Q", 8, 20) if how.big else ("I", 2, 12)
    at = 8 if how.big else 4
    while (start := struct.unpack_from(how.order + word, data, at)[0]) and start < before:
        (tags,) = struct.unpack_from(how.order + ("Q" if how.big else "H"), data, start)
        at = start + count + entry * tags
    return at


def _parts(levels: np.ndarray, how: Tiff) -> Iterator[np.ndarray]:
    """Strips or tiles [h, w, C], plane by plane where channels lie apart; tiles are filled up with zeros."""
    planes = [levels[..., n : n + 1] for n in range(levels.shape[2])] if how.planar == 2 else [levels]
    for plane in planes:
        if not how.tile:
            yield from (plane[top : top + how.rows] for top in range(0, len(plane), how.rows))
            continue
        high, wide = how.tile
        for top in range(0, plane.shape[0], high):
            for left in range(0, plane.shape[1], wide):
                part = plane[top : top + high, left : left + wide]
                yield np.pad(part, ((0, high - part.shape[0]), (0, wide - part.shape[1]), (0, 0)))


def _encoded(part: np.ndarray, how: Tiff) -> bytes:
    if how.compression == "JPEG":
        space = {1: "GRAYSCALE", 3: "RGB"}[part.shape[2]]
        part = np.ascontiguousarray(part if part.shape[2] == 3 else part[..., 0])
        return imagecodecs.jpeg_encode(part, 95, colorspace=space, outcolorspace=space)
    if how.predictor == 3:
        data = imagecodecs.floatpred_encode(part.astype(part.dtype.newbyteorder(how.order)), axis=-2).tobytes()
    else:
        if how.predictor == 2:
            part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], axis=1)
        data = _packed(part, how.bits, how.order)
    data = COMPRESS[how.compression][1](data)
    return imagecodecs.bitorder_encode(data) if how.fill == 2 else data


def _packed(part: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Rows of numbers of so many bits; those that fill no bytes from the highest bit on, each row to whole bytes."""
    if bits in (8, 16, 32, 64):
        return part.astype(part.dtype.newbyteorder(order)).tobytes()
    rows = part.reshape(len(part), -1).astype(np.uint32)
    each = (rows[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint32)) & 1
    return np.packbits(each.reshape(len(part), -1).astype(np.uint8), axis=1).tobytes()


def png(levels: np.ndarray, depth: int, interlaced: bool = False, palette=None, transparent=None) -> bytes:
    """A PNG of levels [H, W, C]. palette: [n, 3], uint8. transparent: the tRNS chunk: alphas, or one colour."""
    height, width, channels = levels.shape
    kind = 3 if palette is not None else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    passes = [levels[y::down, x::across] for x, y, across, down in ADAM7] if interlaced else [levels]
    rows = b"".join(b"\0" + _packed(row[None], depth) for part in passes if part.size for row in part)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced))]
    if palette is not None:
        chunks.append((b"PLTE", palette.tobytes()))
    if transparent is not None:
        packed = bytes(transparent) if kind == 3 else struct.pack(f">{len(transparent)}H", *transparent)
        chunks.append((b"tRNS", packed))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def bmp(levels: np.ndarray, bits: int, masks=(), palette=None, top_down: bool = False, runs: bool = False) -> bytes:
    """A BMP of one number a pixel, [H, W]: an entry of the palette [n, 3], or colours packed by the masks."""
    height, width = levels.shape
    rows = levels if top_down else levels[::-1]
    if runs:
        pixels = b"".join(_runs(row, bits) + b"\0\0" for row in rows) + b"\0\1"
    elif bits == 24:
        packed = np.stack([rows & 255, rows >> 8 & 255, rows >> 16], -1).astype(np.uint8).reshape(height, -1)
        pixels = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4))).tobytes()
    elif bits in (16, 32):
        packed = rows.astype(f"<u{bits // 8}").view(np.uint8).reshape(height, -1)
        pixels = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4))).tobytes()
    else:
        lines = [_packed(row[None, :, None].astype(np.uint8), bits) for row in rows]
        pixels = b"".join(line + bytes(-len(line) % 4) for line in lines)
    table = b"" if palette is None else b"".join(bytes((*entry[::-1], 0)) for entry in palette.tolist())
    size = 108 if len(masks) == 4 else 40
    more = struct.pack(f"<{len(masks)}I", *masks)
    more = more + b"BGRs" + bytes(48) if size == 108 else more
    start = 14 + 40 + len(more) + len(table)
    method = 3 if masks else {8: 1, 4: 2}[bits] if runs else 0
    info = (size, width, -height if top_down else height, 1, bits, method, len(pixels), 2835, 2835, len(table) // 4, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", *info)
        + (more + table + pixels)
    )


def _runs(row: np.ndarray, bits: int) -> bytes:
    """A row in runs of one pixel each, and of 3 to 7 that differ, by turns."""
    data, at, single = b"", 0, True
    while at < len(row):
        part = row[at : at + 1] if single or len(row) - at < 3 else row[at : at + 3 + at % 5]
        packed = _packed(part[None, :, None].astype(np.uint8), bits)
        data += bytes((1, packed[0])) if len(part) == 1 else bytes((0, len(part))) + packed + bytes(len(packed) % 2)
        at, single = at + len(part), not single
    return data
