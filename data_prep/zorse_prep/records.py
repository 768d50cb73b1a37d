"""What the JSON files of a data set hold: the manifest, and the record that lies beside each shard.

What is read is held against these types, so that a damaged record is one line that names the file.
"""

from typing import Annotated, NotRequired, TypedDict

from zorse.typed_json import Count, Mismatch
from zorse_prep.format import SPLITS, TAR_NAME, Mode, channels_of
from zorse_prep.ranges import ArrayTotals

Samples = Annotated[int, range(2**32 + 1)]


class Unusable(TypedDict):
    """An image that is in no shard."""

    file: str
    reason: str


class Side(TypedDict):
    """Widths or heights in pixels: in a shard's record their sum, in the manifest their mean."""

    min: Count
    max: Count
    sum: NotRequired[Count]
    mean: NotRequired[float]


class Pixels(TypedDict):
    """Sums over all pixels, by channel."""

    count: Count
    sum: list[int]
    square_sum: list[int]


class ShardEntry(TypedDict):
    """A shard in the manifest. name: of its tar."""

    name: str
    samples: Samples
    bytes: Count
    sha256: str
    index_sha256: str
    crc_sha256: str


class ShardRecord(ShardEntry):
    """The record of a shard, NAME.json. slices: samples of each usable file, where a volume gives several."""

    quarantined: list[Unusable]
    converted: dict[str, Count]
    pixels: Pixels
    arrays: NotRequired[ArrayTotals]
    slices: NotRequired[list[Count]]
    width: NotRequired[Side]
    height: NotRequired[Side]


class Quarantined(TypedDict):
    """The images of a split that are in no shard. first: some of them."""

    count: Count
    reasons: dict[str, Count]
    first: list[Unusable]


class Statistics(TypedDict, total=False):
    """What the images of a split are like; empty where it has none. low, high, outside: of arrays, see ranges.py."""

    width: Side
    height: Side
    pixel_mean: list[float]
    pixel_std: list[float]
    low: list[float]
    high: list[float]
    outside: float


class SplitEntry(TypedDict):
    """A split in the manifest. found: files. slices: samples that volumes give beyond one each."""

    found: Count
    slices: NotRequired[Count]
    samples: Samples
    bytes: Count
    fingerprint: str
    shards: list[ShardEntry]
    converted: dict[str, Count]
    unconverted: NotRequired[dict[str, Count]]
    dropped: dict[str, Count]
    quarantined: Quarantined
    statistics: Statistics


class Overlap(TypedDict):
    """Images that two splits share; the names of the first pairs."""

    count: Count
    names: list[list[str]]


class Origin(TypedDict):
    """Where the images are from."""

    kind: str
    uri: str
    revision: str | None
    root: NotRequired[str]


class ByDomain(TypedDict):
    """The modes of both domains."""

    a: Mode
    b: Mode


class Manifest(TypedDict):
    """manifest.json."""

    name: str
    source: Origin
    policy: dict
    modes: ByDomain
    overlaps: dict[str, Overlap]
    partners: NotRequired[list[list[Count]]]  # see find_partners; left out where there are none
    fingerprint: str
    splits: dict[str, SplitEntry]


def check_manifest(manifest: Manifest) -> None:
    """Raise Mismatch for what types do not tell."""
    for split, entry in manifest["splits"].items():
        if split not in SPLITS:
            raise Mismatch(f"splits.{split} is unknown to this version")
        for number, shard in enumerate(entry["shards"]):
            check_name(shard["name"], f"splits.{split}.shards.{number}.name")
        channels = channels_of(manifest["modes"][split[-1].lower()])
        statistics, names = entry["statistics"], ("width", "height", "pixel_mean", "pixel_std")
        for name in names if entry["samples"] else ():
            if name not in statistics:
                raise Mismatch(f"splits.{split}.statistics.{name} is missing")
        for name in names[2:] if entry["samples"] else ():
            if len(statistics[name]) != channels:
                raise Mismatch(f"splits.{split}.statistics.{name} is not of the {channels} channels of the mode")
        for side in names[:2] if entry["samples"] else ():
            if "mean" not in statistics[side]:
                raise Mismatch(f"splits.{split}.statistics.{side}.mean is missing")
    check_overlaps(manifest["overlaps"])
    tests = [manifest["splits"][split]["samples"] if split in manifest["splits"] else 0 for split in ("testA", "testB")]
    for number, pair in enumerate(manifest.get("partners", [])):
        check_pair(pair, tests, f"partners.{number}")


def check_overlaps(overlaps: dict[str, Overlap]) -> None:
    """Raise Mismatch for overlaps that name no two images of two splits."""
    for pair, shared in overlaps.items():
        if pair.count("/") != 1 or not shared["names"] or any(len(names) != 2 for names in shared["names"]):
            raise Mismatch(f"overlaps.{pair} names no images of two splits")


def check_pair(pair: list[int], tests: list[int], where: str) -> None:
    """Raise Mismatch for partners that are not one test image of each domain. tests: how many there are."""
    if len(pair) != 2 or any(sample >= count for sample, count in zip(pair, tests, strict=True)):
        raise Mismatch(f"{where} names no test images of both domains")


def check_name(name: str, where: str) -> None:
    """Raise Mismatch for a name of a tar that may lead out of its folder."""
    if not TAR_NAME.fullmatch(name):
        raise Mismatch(f"{where} is no name of a tar")


def check_shard_record(record: ShardRecord, tar: str, channels: int | None) -> None:
    """Raise Mismatch for a record of another shard, or one that contradicts itself. channels: None for arrays."""
    if record["name"] != tar:
        raise Mismatch(f"name is {record['name']}")
    pixels = record["pixels"]
    if not record["samples"]:
        return
    for side in ("width", "height"):
        if side not in record or "sum" not in record[side]:
            raise Mismatch(f"{side} is missing")
    if channels is None:
        arrays = record.get("arrays")
        if not arrays or not arrays["dtypes"] or not len(arrays["low"]) == len(arrays["high"]) == record["samples"]:
            raise Mismatch("arrays are not those of the samples")
        return
    if not pixels["count"] or not len(pixels["sum"]) == len(pixels["square_sum"]) == channels:
        raise Mismatch(f"pixels are not of {channels} channels")
    for first, second in zip(pixels["sum"], pixels["square_sum"], strict=True):
        if first < 0 or first * first > pixels["count"] * second:
            raise Mismatch("pixels.square_sum is too small")
