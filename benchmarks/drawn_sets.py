"""The zoo: unpaired data sets of many kinds, drawn in seconds, small, and never changed once results are known.

Domain a and domain b of the training images show different scenes; test images of the same name show the same scene,
so that the error of a translation can be computed where training never saw pairs.
"""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import drawn_scenes as scenes
import numpy as np
import tifffile
from drawn_scenes import Pair, Rng, Size
from PIL import Image

from zorse_prep.demo import draw as draw_animal

TESTS = 16  # test images of each domain
SLICES = 12  # of a volume


@dataclass(frozen=True)
class DrawnSet:
    """number: what its scenes are drawn from. about: what differs from photographs. draw: both views of a scene. sizes:
    the (height, width) of its images, taken in turn. ends: of its files, which say what they are. counts: training
    images of a and of b. shard, train: options that the data needs. paired: test images show the same scenes.
    """

    number: int
    about: str
    draw: Callable[[Rng, Size], Pair]
    sizes: tuple[Size, ...] = ((160, 160),)
    ends: tuple[str, str] = (".jpg", ".jpg")
    counts: tuple[int, int] = (80, 90)
    shard: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    paired: bool = True


def animals(rng: Rng, size: Size) -> Pair:
    """The demo's horses and zebras; not the same animal."""
    number = int(rng.integers(2**31))
    return tuple(np.asarray(draw_animal(0, split, number, size[0])) for split in ("trainA", "trainB"))


PERCENTILES = ("--range-a", "percentiles", "--range-b", "percentiles")
UNLIKE = ("--identity-weight", "0")  # domains of different channels have no identity loss
SETS = {
    "maps": DrawnSet(1, "bright maps, aerial photographs", scenes.maps),
    "fluorescence": DrawnSet(
        2, "8-bit grey, 12 bits in 16 and dark", scenes.fluorescence, ends=(".png", ".tif"),
        shard=("--mode-a", "grey", "--range-b", "percentiles"),
    ),
    "fields": DrawnSet(
        3, "13 bands of uint16, 2 of float32 in dB", scenes.fields, ends=(".tif", ".npy"), shard=PERCENTILES,
        train=UNLIKE,
    ),
    "thermal": DrawnSet(
        4, "colour, 16-bit temperature", scenes.thermal, ((120, 160),), (".jpg", ".png"),
        shard=("--range-b", "percentiles"), train=UNLIKE,
    ),
    "stains": DrawnSet(5, "mostly blank", scenes.stains, ((192, 192),)),
    "digits": DrawnSet(
        6, "no flips, 48 pixels", scenes.digits, ((48, 48),), (".png", ".png"), (200, 240),
        train=("--flip-a", "off", "--flip-b", "off"),
    ),
    "line-art": DrawnSet(7, "black lines on white", scenes.line_art, ends=(".jpg", ".png")),
    "day-night": DrawnSet(8, "bright, dark", scenes.day_night),
    "leaves": DrawnSet(9, "30 images and 3,000", scenes.leaves, ((64, 64),), counts=(30, 3000)),
    "prints": DrawnSet(
        10, "48 to 2,000 pixels, not square", scenes.prints,
        ((120, 180), (48, 64), (200, 150), (160, 300), (96, 128), (240, 240)) * 3 + ((1300, 2000),),
    ),
    "showers": DrawnSet(
        11, "5 channels of float32, mostly near 0", scenes.showers, ((96, 96),), (".npy", ".npy"), shard=PERCENTILES
    ),
    "simulation": DrawnSet(12, "flat colours, textured ones", scenes.simulation, ((128, 224),)),
    "head": DrawnSet(
        13, "volumes: CT in HU, MR without a unit", partial(scenes.head, slices=SLICES), ((128, 128),),
        (".nii", ".nii"), (7, 8), ("--range-a", "-1000", "2000", "--range-b", "percentiles"),
    ),
    "animals": DrawnSet(14, "the demo's", animals, ((96, 96),), paired=False),
}  # fmt: skip


def draw(name: str, folder: Path, most: int | None = None) -> None:
    """Draw a set into a new folder with trainA, trainB, testA and testB. most: files of a split, the first ones."""
    drawn = SETS[name]
    for end, domain in enumerate("AB"):
        tests = max(2, TESTS // SLICES) if drawn.ends[end] == ".nii" else TESTS
        for split, count in ((f"train{domain}", drawn.counts[end]), (f"test{domain}", tests)):
            (folder / split).mkdir(parents=True)
            for number, values in enumerate(_values(drawn, split, min(count, most or count), end)):
                (folder / split / f"{number:04d}{drawn.ends[end]}").write_bytes(encoded(values, drawn.ends[end]))


def _values(drawn: DrawnSet, split: str, count: int, end: int) -> Iterator[np.ndarray]:
    """The images of a split. Test images of both domains are drawn from the same numbers, training images are not."""
    of = 2 if split.startswith("test") else end
    for number in range(count):
        rng = np.random.default_rng([drawn.number, of, number])
        yield drawn.draw(rng, drawn.sizes[number % len(drawn.sizes)])[end]


def encoded(values: np.ndarray, end: str) -> bytes:
    """Numbers [H, W], [H, W, C] or, for .nii, [slices, H, W] as a file of this kind."""
    file = io.BytesIO()
    if end == ".jpg":
        Image.fromarray(values).save(file, "JPEG", quality=95, subsampling=0)
    elif end == ".png":
        Image.fromarray(values).save(file, "PNG")
    elif end == ".tif":
        tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig" if values.ndim == 3 else None)
    elif end == ".npy":
        np.save(file, values)
    elif end == ".nii":
        file.write(nifti(values))
    else:
        raise ValueError(end)
    return file.getvalue()


def nifti(volume: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 3.0)) -> bytes:
    """NIfTI-1: a header of 348 bytes, 4 that say that nothing follows it, and the numbers, x fastest.

    volume: [slices, H, W]. spacing: in mm, of x, y and z.
    """
    types = {np.dtype(np.int16): 4, np.dtype(np.float32): 16}
    header = bytearray(348)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *volume.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, types[volume.dtype], 8 * volume.itemsize)
    struct.pack_into("<8f", header, 76, 1, *spacing, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)  # where the numbers begin; slope and intercept
    struct.pack_into("<2h", header, 252, 0, 1)  # the affine is that of the three rows below, in scanner coordinates
    for row, place in enumerate((280, 296, 312)):
        struct.pack_into("<f", header, place + 4 * row, spacing[row])
    header[344:348] = b"n+1\0"
    return bytes(header) + bytes(4) + volume.astype(volume.dtype.newbyteorder("<")).tobytes()
