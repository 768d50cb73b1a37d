"""TIFF as numbers: pages, planes and tiles of any depth, with the axes that OME, ImageJ and others give them.

The checks are those of tiff.py: every strip and tile must be there and decode to its full size.
"""

import io
import re
from xml.etree import ElementTree

import numpy as np
from tifffile import TiffFile

from zorse_prep.images import read_noted
from zorse_prep.pixels import BadImage
from zorse_prep.planes import Layout, Planes, check_shape, planes_of
from zorse_prep.tiff import NEEDED, check_parts_of, check_size_of, pages_of, without_crashes
from zorse_prep.tiff_kind import (
    CIELAB,
    COMPRESSIONS,
    DNG,
    ICCLAB,
    JPEG,
    MINISWHITE,
    OLD_JPEG,
    PALETTE,
    PREDICTING,
    SUBFILES,
    YCBCR,
    unread,
)  # fmt: skip
from zorse_prep.tiff_levels import ORIENTATION

DESCRIPTION = 270  # the tag of what OME and ImageJ say of the axes
GDAL = 42112  # the tag in which GDAL describes bands
RAW = (32803, 34892)  # photometric interpretations of cameras' sensors
CONVERTED = (PALETTE, YCBCR, CIELAB, ICCLAB)  # whose numbers are no amounts of anything
CHANNELS = "SC"  # axes, by tifffile's letters
TOO_FEW = "the file is truncated: it holds fewer images than it tells of"


def read_tiff_planes(data: bytes, channels: int | None, axis: int | None) -> Planes:
    """The first series of a TIFF. Raises BadImage, and what tifffile and its codecs raise for damaged files."""
    with without_crashes(), TiffFile(io.BytesIO(data), _multifile=False) as file:
        pages = {page.offset: page for page in pages_of(file, data, NEEDED | {DESCRIPTION})}
        first = next(iter(pages.values()))
        if _is_converted(file, first):
            image, notes = read_noted(data, "rgb")
            return planes_of(np.asarray(image), Layout((), (2,) if image.mode == "RGB" else (), 0, 1), notes)
        series = _first_series(file)
        notes = ["first_series"] * (len(file.series) > 1)
        values = _values(file, series, pages, data, notes)
        layout = layout_of_axes(series.axes, values.shape, channels, axis)
        names = channel_names(file, first)
        return _upright(planes_of(values, layout, notes, names), first)


def layout_of_axes(axes: str, shape: tuple[int, ...], channels: int | None, axis: int | None) -> Layout:
    """The layout of an array whose axes have tifffile's letters: Y, X are spatial, S, C channels, all others slices."""
    rows, columns = axes.index("Y"), axes.index("X")
    among = tuple(place for place, letter in enumerate(axes) if letter in CHANNELS)
    slices = tuple(place for place in range(len(axes)) if place not in (*among, rows, columns))
    if axis is not None and len(axes) > 2:
        if not -len(axes) <= axis < len(axes):
            raise BadImage(f"an array of the axes {axes} has no axis {axis}; give 0 to {len(axes) - 1}")
        axis %= len(axes)
        if axis in among:
            among, slices = tuple(place for place in among if place != axis), tuple(sorted((*slices, axis)))
        elif axis in (rows, columns):
            depth = axes.index("Z") if "Z" in axes else slices[0] if len(slices) == 1 else None
            if depth is None:
                raise BadImage(f"an array of the axes {axes} has no third axis of space to cut along {axis}")
            rows, columns = sorted({rows, columns, depth} - {axis})
            slices = tuple(sorted({*slices, axis} - {depth}))
    elif not among and channels is not None and channels > 1:
        among = tuple(place for place in slices if shape[place] == channels)[-1:]
        slices = tuple(place for place in slices if place not in among)
    return Layout(slices, among, rows, columns)


def _is_converted(file: TiffFile, page) -> bool:
    """Whether a photograph is made of a page's numbers. Palettes of microscopes are only for showing."""
    if page.photometric == PALETTE and (file.is_imagej or file.is_ome):
        return False
    is_decoded = page.photometric == YCBCR and page.compression == JPEG  # the codec gives RGB
    return page.compression == OLD_JPEG or (page.photometric in CONVERTED and not is_decoded)


def _first_series(file: TiffFile):
    """tifffile's first series; it falls back to single pages where a file is shorter than its description says."""
    told = file.pages.first.description
    if "<OME" in told[:2000] and not file.is_ome:
        raise OSError("the file is damaged: its description has no end")
    series = file.series[0]
    is_described = (file.is_imagej and file.imagej_metadata is not None) or file.is_shaped
    if is_described and series.kind not in ("imagej", "shaped", "ome"):
        raise OSError(TOO_FEW)
    if "Y" not in series.axes or "X" not in series.axes:
        raise unread(f"axes {series.axes}")
    return series


def _values(file: TiffFile, series, pages: dict, data: bytes, notes: list[str]) -> np.ndarray:
    """The numbers of a series in its own axes."""
    first = series.keyframe
    _check_kind(first)
    check_shape(series.shape, first.dtype.itemsize)
    count = int(np.prod(series.shape, dtype=object))
    listed = [None if page is None else pages.get(page.offset) for page in series._pages]  # _: only what is stored
    if count != len(listed) * first.size:
        # One page describes all images, which lie one behind the other.
        values = _contiguous(file, series, data, count)
    else:
        if None in listed:
            raise BadImage("some of its images lie in other files; store all of them in one")
        if any((page.shaped, page.dtype) != (first.shaped, first.dtype) for page in listed):
            raise OSError("its pages differ from what its description says")
        values = np.empty((len(listed), *first.shaped), first.dtype.newbyteorder("="))
        for page, room in zip(listed, values, strict=True):
            _check_kind(page)
            check_size_of(page)
            check_parts_of(page, data)
            _decode(page, room)
    if first.dtype.kind == "b":  # of one bit, as Pillow gives them
        values = values.view(np.uint8) * np.uint8(255)
    if first.photometric == MINISWHITE and values.dtype.kind == "u" and not file.is_imagej:
        notes.append("white_is_0")
        most = 255 if first.dtype.kind == "b" else (1 << first.bitspersample) - 1
        values = np.asarray(most, values.dtype) - values
    return values.reshape(series.shape)


def _contiguous(file: TiffFile, series, data: bytes, count: int) -> np.ndarray:
    start, type_ = series.dataoffset, series.keyframe.dtype.newbyteorder(file.byteorder)
    if start is None or start == 0 or len(series._pages) != 1 or start + count * type_.itemsize > len(data):
        raise OSError(TOO_FEW)
    return np.frombuffer(data, type_, count, start)


def _check_kind(page) -> None:
    """Raise BadImage for what is no array of numbers of one type."""
    if page.compression not in COMPRESSIONS:
        raise unread(f"compressed by {getattr(page.compression, 'name', page.compression)}")
    if DNG in page.tags or page.photometric in RAW or (page.is_reduced and SUBFILES in page.tags):
        raise unread("a camera's raw file")
    if page.dtype is None or not isinstance(page.bitspersample, int) or not isinstance(page.sampleformat, int):
        raise unread(f"{page.samplesperpixel} channels of different or unknown types")
    if page.compression in PREDICTING and page.predictor != 1 and page.bitspersample not in (8, 16, 32, 64):
        raise unread(f"{page.bitspersample} bits, with a predictor")


def _decode(page, room: np.ndarray) -> None:
    """Put a page's strips or tiles into an array [planes, depth, height, width, samples]."""
    if page.compression not in PREDICTING:
        page.predictor = 1  # as libtiff has it: for others the tag means nothing
    for part, (plane, depth, top, left, _), _ in page.segments(maxworkers=1):
        if part is None:
            raise OSError("one of its strips or tiles is missing")
        place = room[plane, depth : depth + part.shape[0], top : top + part.shape[1], left : left + part.shape[2]]
        if part.shape[3] != place.shape[3]:
            raise OSError("one of its strips or tiles is damaged")
        place[...] = part[: place.shape[0], : place.shape[1], : place.shape[2]]


def _upright(planes: Planes, page) -> Planes:
    """Planes turned as the page's orientation says."""
    orientation = page.tags.valueof(ORIENTATION)
    if orientation not in range(2, 9):
        return planes
    values = planes.values
    if orientation >= 5:
        values = values.swapaxes(2, 3)
    # Of the numbers 5 to 8, rows and columns are exchanged first.
    down, across = {
        2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1),
    }[orientation]  # fmt: skip
    values = np.ascontiguousarray(values[:, :, ::down, ::across])
    return planes._replace(values=values, notes=(*planes.notes, "exif_rotated"))


def channel_names(file: TiffFile, page) -> list[str] | None:
    """The names of the channels that OME or GDAL have left in the file; None where one is missing."""
    text = file.ome_metadata if file.is_ome else page.tags.valueof(GDAL)
    if not isinstance(text, str) or "<!DOCTYPE" in text:
        return None
    try:
        root = ElementTree.fromstring(re.sub(r'\sxmlns="[^"]*"', "", text))
    except ElementTree.ParseError:
        return None
    if file.is_ome:
        names = [channel.get("Name") for channel in root.findall("./Image[1]/Pixels/Channel")]
    else:
        found = {item.get("sample"): item.text for item in root.iter("Item") if item.get("role") == "description"}
        names = [found.get(str(number)) for number in range(page.samplesperpixel)]
    return names if names and all(names) else None
