"""From the numbers of a file to images: which axes are slices, channels, rows and columns, and the types that are kept.

`Layout` goes both ways, so that a translation can be given the axes that its source has.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from zorse_prep.pixels import MOST_PIXELS, BadImage

MOST_BYTES = 1_000_000_000  # of the numbers of one file, once decoded
FEW_CHANNELS = 64  # that are recognised as such by their number
KEPT = {"b1": "uint8", "i1": "int16", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "f4": "float32"}


class Planes(NamedTuple):
    """values: [n, C, H, W], n slices of a volume, stack or time series, or 1 image, of one of the types format.STORED,
    little-endian and contiguous. channels: the names that the file gives its channels, or None. notes: names of the
    conversions, as in images.py, and these:

      float64      floats of more than 32 bits rounded to 32
      rescaled     slope and intercept applied that the file gives
      monochrome1  a DICOM image of which low values are shown bright; they are kept
      white_is_0   a TIFF whose numbers were turned around, so that more is brighter
      palette      colours taken from the file's palette
      first_series the first of several series, whose images differ in size or place
    """

    values: np.ndarray
    channels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


class Numbers(NamedTuple):
    """The values of one image, by channel: sums, sums of squares, percentiles. outside: how many the range leaves out,
    where it is given. channels: names, where the file has any."""

    dtype: str
    channels: tuple[str, ...] | None
    sums: list[float]
    square_sums: list[float]
    low: list[float]
    high: list[float]
    outside: int


class Layout(NamedTuple):
    """Numbers of an array's axes. Each combination of `slices` is one image; `channels` are none, one or several."""

    slices: tuple[int, ...]
    channels: tuple[int, ...]
    rows: int
    columns: int

    @property
    def order(self) -> tuple[int, ...]:
        """All axes in the order of [n, C, H, W]."""
        return (*self.slices, *self.channels, self.rows, self.columns)

    def cut(self, values: np.ndarray) -> np.ndarray:
        """An array as [n, C, H, W]."""
        count = prod(values.shape[axis] for axis in self.slices)
        channels = prod(values.shape[axis] for axis in self.channels)
        return values.transpose(self.order).reshape(
            count, channels, values.shape[self.rows], values.shape[self.columns]
        )

    def joined(self, planes: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
        """The array of which `planes`, [n, C, H, W], are cut: its shape is the given one, but for the number of its
        channels. None where no such array exists."""
        sizes = [shape[axis] for axis in self.order]
        if len(self.channels) == 1:
            sizes[len(self.slices)] = planes.shape[1]
        slices, inner = sizes[: len(self.slices)], sizes[len(self.slices) :]
        channels = prod(inner[:-2])
        if (prod(slices), channels, *inner[-2:]) != planes.shape:
            return None
        return planes.reshape(sizes).transpose(np.argsort(self.order))


def layout_of(shape: Sequence[int], channels: int | None = None, axis: int | None = None) -> Layout:
    """The layout of an array of which nothing but the shape is known. channels, axis: as in arrays.read_planes."""
    told, rest = " x ".join(map(str, shape)), list(range(len(shape)))
    if len(shape) < 2:
        raise BadImage(f"an array of shape {told or '()'}, which is no image; give arrays of two axes or more")
    slices = ()
    if axis is not None and len(shape) > 2:
        if not -len(shape) <= axis < len(shape):
            raise BadImage(f"an array of shape {told} has no axis {axis}; give 0 to {len(shape) - 1}")
        slices = (rest.pop(axis),)
    if len(rest) == 2:
        return Layout(slices, (), *rest)
    place = _channels_among([shape[number] for number in rest], channels) if len(rest) == 3 else None
    if place is None and channels is not None and channels > 1 and len(rest) == 3:
        raise BadImage(f"an array of shape {told}, of which neither the first nor the last axis is {channels} channels")
    if place is None:
        cut = "which is not known to be images" if axis is None else "of which one axis is cut already"
        raise BadImage(
            f"{len(shape)}-D array of shape {told}, {cut}; shard it with --slice-axis-a or -b N, which cuts volumes "
            "into slices, or store it as channels x height x width"
        )
    return Layout(slices, (rest.pop(place),), *rest)


def _channels_among(sizes: list[int], channels: int | None) -> int | None:
    """Which of three axes holds the channels: the last or the first; None where it cannot be told."""
    if channels is not None:
        return 2 if sizes[2] == channels else 0 if sizes[0] == channels else None
    place = 2 if sizes[2] <= sizes[0] else 0
    others = sizes[:place] + sizes[place + 1 :]
    return place if sizes[place] <= min(FEW_CHANNELS, min(others) // 2) else None


def check_shape(shape: Sequence[int], item_bytes: int) -> None:
    """Raise BadImage for an array that is empty, or too large to be held. To be called before it is made."""
    if not shape or min(shape) <= 0:
        raise BadImage(f"an array of shape {' x '.join(map(str, shape)) or '()'}, which holds no pixels")
    if (size := prod(map(int, shape)) * item_bytes) > MOST_BYTES:
        raise BadImage(f"{size / 1e6:.0f} MB of numbers, and {MOST_BYTES / 1e6:.0f} MB are read; cut it into parts")


def planes_of(
    values: np.ndarray, layout: Layout, notes: Sequence[str] = (), channels: Sequence[str] | None = None
) -> Planes:
    """An array as planes of a type that is stored. Raises BadImage where it holds what is no image, or no number."""
    check_shape(values.shape, values.dtype.itemsize)
    if values.shape[layout.rows] * values.shape[layout.columns] > MOST_PIXELS:
        raise BadImage(f"more than {MOST_PIXELS / 1e6:.0f} million pixels")
    notes = list(notes)
    planes = np.ascontiguousarray(_stored(layout.cut(values), notes))
    names = tuple(channels) if channels is not None and len(channels) == planes.shape[1] else None
    return Planes(planes, names, tuple(dict.fromkeys(notes)))


def _stored(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Numbers in one of the types that are stored."""
    kind = values.dtype.kind
    if kind == "f":
        if values.dtype.itemsize > 4:
            notes.append("float64")
        with np.errstate(over="ignore"):  # too large for 32 bits: infinite, which is told
            values = values.astype("<f4", copy=False)
        if not np.isfinite(values).all():
            raise BadImage("NaN or infinite values; replace them by numbers first, as numpy.nan_to_num does")
        return values
    if kind not in "biu":
        what = "complex numbers" if kind == "c" else f"values of the type {values.dtype}"
        raise BadImage(f"{what}, which are no image; store real numbers, one array in a file")
    if type_ := KEPT.get(kind + str(values.dtype.itemsize)):
        return values.astype(np.dtype(type_).newbyteorder("<"), copy=False)
    return whole_numbers(values, "int32")


def whole_numbers(values: np.ndarray, *types: str) -> np.ndarray:
    """Whole numbers in the first of the types that holds them all. Raises BadImage where none does."""
    low, high = values.min(), values.max()
    for type_ in types:
        if np.iinfo(type_).min <= low and high <= np.iinfo(type_).max:
            return values.astype(type_, copy=False)
    raise BadImage(f"whole numbers from {low} to {high}, which 32 bits do not hold; store them as float32")
