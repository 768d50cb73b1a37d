"""The shard format: what its writer (zorse_prep) and its reader (zorse.data) must agree on, and nothing else.

A data set is a folder with manifest.json, written last, and the tars that it names. Beside each TAR lie TAR.idx, N + 1
little-endian uint64, where entry i is the offset of sample i's tar header and the last one the end of the last sample;
and TAR.crc, N little-endian uint32, the CRC-32 (zlib's) of each image's bytes.
"""

import math
import re
import tarfile
from dataclasses import dataclass
from typing import Literal

from zorse.typed_json import Mismatch

FORMAT, VERSION = "zorse-shards", 2
MANIFEST, PLAN = "manifest.json", "plan.json"
SPLITS = ("trainA", "trainB", "testA", "testB")
FOREIGN = "webdataset"  # the kind of source whose tars another program made, so that they may hold other members, too

# A name that leads out of no folder.
TAR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.tar")
PLAN_DIGITS = 6  # of the plan's SHA-256, in the name of each shard
# Every file that belongs to a shard made here, finished or in the making.
OURS = re.compile(rf"\.?({'|'.join(SPLITS)})-\d{{6}}-[0-9a-f]{{6}}\.(tar|tar\.idx|tar\.crc|json)(\..*\.tmp)?")

INDEX, CHECKSUMS = ".idx", ".crc"  # appended to the name of a tar
INDEX_TYPE, CHECKSUM_TYPE = "<u8", "<u4"  # as NumPy names them
TAR_BLOCK = 512  # bytes; a tar member is a header of one block, then the data filled up to whole blocks

PixelMode = Literal["rgb", "grey", "rgba", "grey16"]
CHANNELS: dict[PixelMode, int] = {"rgb": 3, "grey": 1, "rgba": 4, "grey16": 1}
MOST_CHANNELS = 4096
STORED = ("uint8", "uint16", "int16", "int32", "float32")  # types of the numbers in array members


@dataclass(frozen=True)
class Arrays:
    """What the numbers of a domain of arrays mean. Its members are .npy files, [C, H, W] or, of one channel, [H, W].

    dtype: one of STORED, which translations are rounded and clipped to. channels: their names. low, high: of each
    channel, in stored units, what the networks see as -1 and as 1. shown: one or three channels, by number from 0, that
    sample grids and feature networks see. axis: what volumes are cut along, where that is not their kind's own.
    """

    dtype: Literal["uint8", "uint16", "int16", "int32", "float32"]
    channels: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    shown: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self):
        """Raise Mismatch for a record that contradicts itself."""
        count = len(self.channels)
        if not 0 < count <= MOST_CHANNELS or not len(self.low) == len(self.high) == count:
            raise Mismatch(f"a mode has {count} channels, and a range for {len(self.low)} and {len(self.high)}")
        if not all(is_range(low, high) for low, high in zip(self.low, self.high, strict=True)):
            raise Mismatch("the range of a mode is empty")
        if len(self.shown) not in (1, 3) or not set(self.shown) <= set(range(count)):
            raise Mismatch("a mode shows channels that it does not have")


def is_range(low: float, high: float) -> bool:
    """Whether numbers can be scaled from these ends to [-1, 1]."""
    return low < high and math.isfinite(high - low) and 1 / (high - low) < 1e30


Mode = PixelMode | Arrays


def channels_of(mode: Mode) -> int:
    """How many channels the images of a mode have."""
    return len(mode.channels) if isinstance(mode, Arrays) else CHANNELS[mode]


def in_range(mode: Mode) -> str:
    """The images of a mode, in words."""
    if not isinstance(mode, Arrays):
        return mode
    count, ends = len(mode.channels), set(zip(mode.low, mode.high, strict=True))
    low, high = min(mode.low), max(mode.high)
    each = "" if len(ends) == 1 else ", each channel in its own range"
    return f"{count} channel{'s' * (count > 1)} of {mode.dtype}, {low:.10g} to {high:.10g}{each}"


def seen_alike(one: Mode, other: Mode) -> bool:
    """Whether the networks see the same in equal images of both modes."""
    if not (isinstance(one, Arrays) and isinstance(other, Arrays)):
        return one == other
    return (len(one.channels), one.low, one.high) == (len(other.channels), other.low, other.high)


def full_level(mode: PixelMode) -> int:
    """The level of white, as it is stored."""
    return 65535 if mode == "grey16" else 255


def shard_name(split: str, number: int, plan_sha256: str) -> str:
    """The name of a shard; that of its tar without its ending."""
    return f"{split}-{number:06d}-{plan_sha256[:PLAN_DIGITS]}"


def index_size(samples: int) -> int:
    """Bytes of an index."""
    return 8 * (samples + 1)


def checksums_size(samples: int) -> int:
    """Bytes of a file of checksums."""
    return 4 * samples


def file_sizes(shard: dict) -> dict[str, int]:
    """The size in bytes of a shard's files, by what is appended to the tar's name. shard: its entry in the manifest."""
    samples = shard["samples"]
    return {"": shard["bytes"], INDEX: index_size(samples), CHECKSUMS: checksums_size(samples)}


def is_index(offsets, samples: int, tar_bytes: int) -> bool:
    """Whether these offsets, a NumPy array, can be the index of a tar: each sample's and the end, rising within it."""
    return len(offsets) == samples + 1 and offsets[-1] <= tar_bytes and bool((offsets[1:] > offsets[:-1]).all())


def member_size(header: bytes) -> int:
    """Bytes of a member's data, by its tar header. Raises ValueError where there is no such header."""
    try:
        size = tarfile.nti(header[124:136])
    except tarfile.HeaderError as error:
        raise ValueError(str(error)) from None
    if header[257:262] != b"ustar" or size < 0:
        raise ValueError("no header of the ustar format")
    return size


def padded(size: int) -> int:
    """Bytes that a member's data takes in a tar, filled up to whole blocks."""
    return -(-size // TAR_BLOCK) * TAR_BLOCK
