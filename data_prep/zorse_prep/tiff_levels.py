"""The pixels of a TIFF: from the numbers that tifffile decodes to an image as Pillow holds it."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from zorse_prep.pixels import BadImage, to_srgb
from zorse_prep.tiff_kind import (
    CIELAB,
    FLOATS,
    ICCLAB,
    MINISWHITE,
    PALETTE,
    PREMULTIPLIED,
    RGB,
    SEPARATED,
    SIGNED,
    Kind,
)

WHITE_16 = 65535
SIGN = 128  # the bit of an 8-bit a* or b*
PROFILE, ORIENTATION = 34675, 274  # tags


def image_of(page, kind: Kind, data: bytes, notes: list[str]) -> Image.Image:
    """The image of a page in the file `data`, with its colour profile in `info`; not turned yet.

    Grey becomes L, LA, I;16, I (signed, or of 32 bits) or F; colour RGB, RGBA, CMYK or LAB. Conversions that are
    done here are appended to `notes`.
    """
    if kind.by_libtiff:
        from imagecodecs import tiff_decode

        levels, orientation = tiff_decode(data, asrgb=True), page.tags.valueof(ORIENTATION)
        # It mirrors, but does not turn: both are to be done by who asked for the image.
        down, across = (-1 if orientation in mirrored else 1 for mirrored in ((3, 4, 7, 8), (2, 3, 6, 7)))
        levels = levels[::down, ::across, :3]
    else:
        levels = _levels(page, kind)
    return _image(levels, kind, page, notes)


def _levels(page, kind: Kind) -> np.ndarray:
    """The levels of the channels that are kept, [H, W, C]: uint8, or one channel of uint16, int32 or float32.

    Strips and tiles are brought to these one by one, so that of a deep image only one is held at its full depth.
    """
    rule, type_ = _rule(kind)
    levels = np.empty((page.imagelength, page.imagewidth, len(kind.channels)), type_)
    for part, (plane, _, top, left, _), _ in page.segments(maxworkers=1):
        room = levels[top : top + part.shape[1], left : left + part.shape[2]]
        part = part[0, : room.shape[0], : room.shape[1]]
        if page.planarconfig == 2:
            if plane in kind.channels:
                room[..., kind.channels.index(plane)] = rule(part[..., 0])
        else:
            room[...] = rule(part[..., kind.channels])
    return levels


def _rule(kind: Kind) -> tuple[Callable[[np.ndarray], np.ndarray], type]:
    """From the numbers in the file to levels, and their type."""
    most = 2**kind.bits - 1
    if kind.colour == PALETTE:
        return (lambda part: part), np.uint16 if kind.bits > 8 else np.uint8
    if kind.is_single:
        return _rule_for_grey(kind, most)
    if kind.numbers == FLOATS:
        return _float_colour, np.uint8
    if kind.bits > 8:
        return (lambda part: part >> (kind.bits - 8)), np.uint8
    table = np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8)
    return (lambda part: part) if kind.bits == 8 else (lambda part: table[part.astype(np.uint8)]), np.uint8


def _rule_for_grey(kind: Kind, most: int) -> tuple[Callable[[np.ndarray], np.ndarray], type]:
    """Grey keeps its depth; what is no whole number of at most 31 bits is judged where it is converted."""
    white_is_0 = kind.colour == MINISWHITE
    if kind.numbers == FLOATS:
        return (lambda part: 1 - part.astype(np.float32) if white_is_0 else part), np.float32
    if kind.numbers == SIGNED and kind.bits <= 8:
        return _not_negative, np.uint8
    if kind.numbers == SIGNED or kind.bits >= 32:
        return (lambda part: part.clip(-1 if kind.numbers == SIGNED else 0, WHITE_16 + 1)), np.int32
    white, type_ = (255, np.uint8) if kind.bits <= 8 else (WHITE_16, np.uint16)
    if kind.bits > 16:
        return (lambda part: np.rint((most - part if white_is_0 else part) * (white / most))), type_
    table = np.rint(np.arange(most + 1) * (white / most)).astype(type_)
    table = table[::-1].copy() if white_is_0 else table
    as_it_is = kind.bits in (8, 16) and not white_is_0
    return (lambda part: part) if as_it_is else (lambda part: table[part.astype(type_)]), type_


def _not_negative(part: np.ndarray) -> np.ndarray:
    if part.min() < 0:
        raise BadImage("grey values outside 0 .. 255: signed bytes, and some are negative")
    return part


def _float_colour(part: np.ndarray) -> np.ndarray:
    part = part.astype(np.float32)
    if not (part.min() >= 0 and part.max() <= 1):  # NaN fails too
        raise BadImage("colour values outside 0 .. 1")
    return np.rint(part * 255)


def _image(levels: np.ndarray, kind: Kind, page, notes: list[str]) -> Image.Image:
    """Levels [H, W, C] as an image with its colour profile."""
    icc, alpha = page.tags.valueof(PROFILE), None
    if kind.alpha is not None and not kind.is_grey and kind.colour != RGB:
        levels, alpha = levels[..., :-1], levels[..., -1]
    if kind.is_single:
        image = Image.fromarray(levels[..., 0])
    elif kind.colour == PALETTE:
        image = _by_palette(levels[..., 0], page.colormap)
    elif kind.colour in (CIELAB, ICCLAB):
        if kind.colour == ICCLAB:  # its a* and b* are shifted and not signed
            levels[..., 1:] ^= SIGN
        image = _of_bytes("LAB", levels, "LAB")
    else:
        mode = {RGB: "RGBA" if kind.alpha else "RGB", SEPARATED: "CMYK"}.get(kind.colour, "LA")
        if kind.alpha == PREMULTIPLIED and mode == "LA":
            levels[..., 0] = np.minimum(levels[..., 0] * np.uint16(255) // np.maximum(levels[..., 1], 1), 255)
        image = _of_bytes(mode, levels, "RGBa" if kind.alpha == PREMULTIPLIED and mode == "RGBA" else mode)
    if alpha is not None:
        image = to_srgb(image, icc, notes).convert("RGB")
        icc = None
        image.putalpha(Image.fromarray(alpha))
    if isinstance(icc, bytes):
        image.info["icc_profile"] = icc
    return image


def _of_bytes(mode: str, levels: np.ndarray, raw: str) -> Image.Image:
    """raw: PIL's name of the order of the bytes. The memory is shared where PIL can."""
    levels = np.ascontiguousarray(levels)
    return Image.frombuffer(mode, levels.shape[1::-1], memoryview(levels).cast("B"), "raw", raw, 0, 1)


def _by_palette(levels: np.ndarray, palette: np.ndarray | None) -> Image.Image:
    """palette: [3, n] of 16 bits; some old writers put 8 bits there."""
    if palette is None:
        raise OSError("its palette is missing")
    colours = (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8).T
    return Image.fromarray(colours[levels])
