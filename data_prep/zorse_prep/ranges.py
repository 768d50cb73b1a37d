"""Arrays: images that are stored as numbers in their own units, and the range of these that the networks see.

Which images become arrays is the user's choice, by --range-a and --range-b. A volume becomes a sample for each of its
slices. Every member is a .npy file, [H, W] or [C, H, W], of a little-endian type of format.STORED.
"""

import io
import math
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from PIL import Image

from zorse.errors import UserError
from zorse.typed_json import Count, Mismatch
from zorse_prep.arrays import NPY, array_of_npy, read_planes
from zorse_prep.format import STORED, Arrays, is_range
from zorse_prep.images import ImagePolicy, Prepared
from zorse_prep.pictures import reasons
from zorse_prep.pixels import BadImage
from zorse_prep.planes import Numbers, Planes

TAILS = (0.001, 0.999)  # of an image's values, beyond which lie those of a defect or two
OUTLIERS = (0.01, 0.99)  # of a domain's images, by the percentiles of each
CHANNELS_SHOWN = 3


@dataclass(frozen=True)
class ArrayPolicy:
    """How the images of a domain become arrays.

    by: where the range is from: "given" as low and high, "percentiles" of the training images, or the "type" of their
    numbers. channels, shown: see format.Arrays; () leaves them to the files. axis: what volumes are cut along.
    """

    by: Literal["given", "percentiles", "type"]
    low: float | None = None
    high: float | None = None
    channels: tuple[str, ...] = ()
    shown: tuple[Count, ...] = ()
    axis: int | None = None


class ArrayTotals(TypedDict):
    """Of a shard's record. low, high: [image][channel]. channels: each kind of names that its files have."""

    dtypes: list[Literal["uint8", "uint16", "int16", "int32", "float32"]]
    channels: list[list[str] | None]
    sum: list[float]
    square_sum: list[float]
    low: list[list[float]]
    high: list[list[float]]
    outside: Count


def prepare_arrays(data: bytes, policy: ImagePolicy, arrays: ArrayPolicy) -> list[Prepared]:
    """Make arrays of one image file, one for each slice of a volume.

    Conversions are named with the first one. Raises BadImage, and UserError where a reader is not installed.
    """
    with reasons(data):
        slices, conversions = prepare_slices(data, arrays, policy.max_side, policy.min_side)
        return [
            Prepared(encode_npy(plane), "npy", [] if number else conversions, plane.shape[:0:-1], [], [], numbers)
            for number, (plane, numbers) in enumerate(slices)
        ]


def prepare_slices(
    data: bytes, policy: ArrayPolicy, max_side: int, min_side: int
) -> tuple[list[tuple[np.ndarray, Numbers]], list[str]]:
    """The slices of a file, [C, H, W] each, with their numbers; and the names of the conversions.

    Raises BadImage, and UserError where the reader of such files is not installed.
    """
    planes = read_planes(data, len(policy.channels) or None, policy.axis)
    _, channels, height, width = planes.values.shape
    if policy.channels and channels != len(policy.channels):
        raise BadImage(f"it has {channels} channels, and --channels names {len(policy.channels)}")
    scale = min(1.0, max_side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if min(size) < min_side:
        raise BadImage(f"{width}x{height} is too small (a side under {min_side} px)")
    notes = [*planes.notes, "slices"] if len(planes.values) > 1 else list(planes.notes)
    if scale < 1:
        notes.append("reduced")
    made = (_reduced(plane, size) if scale < 1 else plane for plane in planes.values)
    return [(plane, _numbers(plane, planes, policy)) for plane in made], notes


def _reduced(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[C, H, W] made smaller, by floats of 32 bits, and of its own type again. size: width, height."""
    small = [Image.fromarray(each.astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for each in plane]
    return as_type(np.stack([np.asarray(each) for each in small]), plane.dtype)


def as_type(values: np.ndarray, dtype: str | np.dtype) -> np.ndarray:
    """Values rounded and clipped to a type; floats as they are."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values.astype(np.float64)).clip(limits.min, limits.max).astype(dtype)


def _numbers(plane: np.ndarray, planes: Planes, policy: ArrayPolicy) -> Numbers:
    values = plane.reshape(len(plane), -1).astype(np.float64)  # [C, H W]
    low, high = np.quantile(values, TAILS, axis=1)
    outside = int(((values < policy.low) | (values > policy.high)).sum()) if policy.by == "given" else 0
    return Numbers(
        plane.dtype.name, planes.channels, values.sum(1).tolist(), np.square(values).sum(1).tolist(), low.tolist(),
        high.tolist(), outside,
    )  # fmt: skip


def encode_npy(plane: np.ndarray) -> bytes:
    """The bytes of a member: [H, W] where there is one channel, else [C, H, W]."""
    buffer = io.BytesIO()
    plane = plane[0] if len(plane) == 1 else plane
    np.lib.format.write_array(buffer, np.ascontiguousarray(plane, plane.dtype.newbyteorder("<")), version=(1, 0))
    return buffer.getvalue()


def decode_npy(data: bytes) -> np.ndarray:
    """A member as [C, H, W]. Raises BadImage for anything else."""
    if not data.startswith(NPY):
        raise BadImage("not an array")
    array = array_of_npy(data)
    if array.ndim not in (2, 3) or array.dtype.name not in STORED or not array.size:
        raise BadImage(f"an array of {array.dtype} {list(array.shape)}")
    return array if array.ndim == 3 else array[None]


def array_totals(numbers: list[Numbers]) -> ArrayTotals:
    """What a shard's record says of its arrays."""
    return ArrayTotals(
        dtypes=sorted({each.dtype for each in numbers}),
        channels=[list(names) if names else None for names in dict.fromkeys(each.channels for each in numbers)],
        sum=np.sum([each.sums for each in numbers], axis=0).tolist() if _alike(numbers) else [],
        square_sum=np.sum([each.square_sums for each in numbers], axis=0).tolist() if _alike(numbers) else [],
        low=[each.low for each in numbers],
        high=[each.high for each in numbers],
        outside=sum(each.outside for each in numbers),
    )


def _alike(numbers: list[Numbers]) -> bool:
    return len({len(each.sums) for each in numbers}) == 1


def arrays_of(domain: str, records: list[ArrayTotals], training: list[ArrayTotals], policy: ArrayPolicy) -> Arrays:
    """What the numbers of a domain mean, by what is in the shards of all its splits and of its training split.

    Raises UserError where its images have unlike channels, or no range.
    """
    options = {name: f"--{name}-{domain}" for name in ("range", "channels", "show")}
    # The type that holds all of them, and the channels that all of them have.
    kind = np.result_type(*(dtype for record in records for dtype in record["dtypes"])).name
    dtype = kind if kind in STORED else "float32"
    counts = {len(low) for record in records for low in record["low"]}
    if len(counts) > 1:
        raise UserError(
            f"images of {domain} have {' and '.join(map(str, sorted(counts)))} channels; name those to keep with "
            f"{options['channels']} NAME ..., which leaves out images of another number"
        )
    (count,) = counts
    names = {tuple(names or ()) for record in records for names in record["channels"]}
    channels = policy.channels or (names.pop() if len(names) == 1 else ()) or tuple(map(str, range(count)))
    if policy.shown and (len(policy.shown) not in (1, 3) or max(policy.shown) >= count):
        raise UserError(f"{options['show']}: give one or three of the channels 0 to {count - 1}")
    shown = policy.shown or (tuple(range(3)) if count >= CHANNELS_SHOWN else (0,))

    # The range of values.
    if policy.by == "given":
        low, high = [policy.low] * count, [policy.high] * count
    elif policy.by == "type":
        if np.dtype(dtype).kind == "f":
            raise UserError(
                f"{options['range']} type: images of {domain} are floats, whose type has no range; give LOW HIGH, or "
                "percentiles"
            )
        limits = np.iinfo(dtype)
        low, high = [limits.min] * count, [limits.max] * count
    else:
        ends = zip(*percentiles(training), strict=True)
        low, high = zip(*(rounded(bottom, top, dtype) for bottom, top in ends), strict=True)
    try:
        return Arrays(dtype, channels, tuple(map(float, low)), tuple(map(float, high)), shown, policy.axis)
    except Mismatch as error:
        raise UserError(f"images of {domain}: {error}; give another {options['range']}") from None


def rounded(low: float, high: float, dtype: str) -> tuple[float, float]:
    """A range as a person would write it, never narrower: of whole numbers whole, of floats to a 1e-5th of it or so.

    That of a constant, or of next to one, is widened, upwards.
    """
    if np.dtype(dtype).kind != "f":
        low, high = math.floor(low), math.ceil(high)
        return low, max(high, low + 1)
    if not is_range(low, high):
        return low, low + max(1.0, abs(low) * 1e-3)
    places = 5 - math.floor(math.log10(high - low))
    step = 10.0**-places
    return round(math.floor(low / step) * step, max(0, places)), round(math.ceil(high / step) * step, max(0, places))


def percentiles(records: list[ArrayTotals]) -> tuple[list[float], list[float]]:
    """By channel, the values between which nearly all of nearly all images lie."""
    lows = np.array([low for record in records for low in record["low"]])
    highs = np.array([high for record in records for high in record["high"]])
    return np.quantile(lows, OUTLIERS[0], axis=0).tolist(), np.quantile(highs, OUTLIERS[1], axis=0).tolist()


def statistics_of(records: list[ArrayTotals], pixels: int, arrays: Arrays) -> dict:
    """What the manifest says of a split's values: mean and standard deviation in [0, 1] of the range; percentiles, and
    the share of values outside a given range. pixels: of all its images."""
    low, span = np.array(arrays.low), np.array(arrays.high) - np.array(arrays.low)
    first, second = (sum(np.array(record[name]) for record in records) / pixels for name in ("sum", "square_sum"))
    lows, highs = percentiles(records)
    return {
        "pixel_mean": np.clip((first - low) / span, 0, 1).round(6).tolist(),
        "pixel_std": (np.sqrt(np.maximum(second - first**2, 0)) / span).round(6).tolist(),
        "low": lows,
        "high": highs,
        "outside": round(sum(record["outside"] for record in records) / (pixels * len(low)), 6),
    }
