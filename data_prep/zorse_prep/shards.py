"""The writing of one shard.

A shard NAME is four files: NAME.tar, one image per sample; NAME.tar.idx and NAME.tar.crc, which format.py explains; and
NAME.json, written last: a shard without it does not exist. All four are a function of the inputs and the options, so a
shard written again is the same to the byte, and several processes may write the same one at once.
"""

import hashlib
import io
import tarfile
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from zorse.files import replacing, write_durably, write_json
from zorse.typed_json import convert, parse, read_bytes
from zorse_prep.format import CHANNELS, CHECKSUM_TYPE, CHECKSUMS, INDEX, INDEX_TYPE, file_sizes
from zorse_prep.images import BadImage, Prepared, prepare
from zorse_prep.items import Unreadable
from zorse_prep.plan import Plan, Policy, Shard, planned_items
from zorse_prep.ranges import array_totals, prepare_arrays
from zorse_prep.records import ShardRecord, check_shard_record
from zorse_prep.sources import read_planned


def committed(out: Path, plan: Plan, shard: Shard) -> ShardRecord | None:
    """What NAME.json says, or None where the shard is to be written (again)."""
    with suppress(OSError, ValueError):  # none there, or a damaged one
        record = convert(parse(read_bytes(out / f"{shard.name}.json")), ShardRecord)
        channels = None if plan.policy.arrays(shard.split) else CHANNELS[plan.policy.mode(shard.split)]
        check_shard_record(record, f"{shard.name}.tar", channels)
        sizes = file_sizes(record).items()
        if all((out / f"{shard.name}.tar{end}").stat().st_size == size for end, size in sizes):
            return record
    return None


def missing_shards(out: Path, plan: Plan, task: int = 0, tasks: int = 1) -> list[Shard]:
    """The shards of task 0 .. tasks - 1 that are still to be written."""
    return [shard for shard in plan.shards[task::tasks] if committed(out, plan, shard) is None]


def write_shard(out: Path, shard: Shard, policy: Policy, root: str, count=lambda n_bytes: None) -> dict:
    """Write and commit one shard, and return what its NAME.json holds. `count` is called with each input's size."""
    tar = out / f"{shard.name}.tar"
    with replacing(tar) as file:
        hashing = _HashingFile(file)
        offsets, sums, images, quarantined, slices = _write_tar(hashing, out, shard, policy, root, count)
    index, sums = write_index(tar, offsets, sums)
    record = {
        "name": tar.name,
        "samples": len(offsets) - 1,
        "bytes": hashing.size,
        "sha256": hashing.digest.hexdigest(),
        "index_sha256": index,
        "crc_sha256": sums,
        "quarantined": quarantined,
        **totals(images),
        **({"slices": slices} if len(slices) < len(images) else {}),
    }
    write_json(out / f"{shard.name}.json", record)
    return record


def prepare_samples(data: bytes, policy: Policy, split: str) -> list[Prepared]:
    """The samples of one file: one, or as many as a volume has slices. Raises BadImage."""
    if arrays := policy.arrays(split):
        return prepare_arrays(data, policy.images, arrays)
    return [prepare(data, policy.images, policy.mode(split))]


def write_index(tar: Path, offsets: list[int], sums: list[int]) -> tuple[str, str]:
    """Write TAR.idx and TAR.crc; returns the SHA-256 of each."""
    arrays = {INDEX: np.array(offsets, dtype=INDEX_TYPE), CHECKSUMS: np.array(sums, dtype=CHECKSUM_TYPE)}
    files = {end: array.tobytes() for end, array in arrays.items()}
    for end, data in files.items():
        write_durably(tar.with_name(tar.name + end), data)
    index, crc = (hashlib.sha256(data).hexdigest() for data in files.values())
    return index, crc


def _write_tar(
    file, out: Path, shard: Shard, policy: Policy, root: str, count
) -> tuple[list[int], list[int], list[Prepared], list[dict], list[int]]:
    """Write the samples; returns index, checksums, what was written (without the bytes), the unusable images, and how
    many samples each of the other files gave."""
    offsets, sums, images, quarantined, slices = [], [], [], [], []
    # The standard library's writer: webdataset's makes the same bytes, but imports torch into every worker.
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for number, item in enumerate(planned_items(out, shard), shard.first):
            try:
                made = prepare_samples(read_planned(root, item), policy, shard.split)
            except (BadImage, Unreadable) as bad:
                quarantined.append({"file": f"{item.split}/{item.name}", "reason": str(bad)})
            else:
                slices.append(len(made))
                for at, image in enumerate(made):
                    offsets.append(tar.offset)
                    sums.append(zlib.crc32(image.data))
                    key = f"{shard.split}-{number:08d}" + (f"-{at:05d}" if len(made) > 1 else "")
                    member = tarfile.TarInfo(f"{key}.{image.extension}")
                    member.size, member.mode, member.uname, member.gname = len(image.data), 0o444, "zorse", "zorse"
                    tar.addfile(member, io.BytesIO(image.data))
                    images.append(image._replace(data=b""))
            count(item.size)
        offsets.append(tar.offset)
    return offsets, sums, images, quarantined, slices


def totals(images: list[Prepared]) -> dict:
    """`pixels` in stored levels per channel, `width` and `height` in pixels; the latter two only where images are."""
    record = {
        "converted": dict(sorted(Counter(name for image in images for name in image.conversions).items())),
        "pixels": {
            "count": sum(image.size[0] * image.size[1] for image in images),
            "sum": [sum(channel) for channel in zip(*(image.sums for image in images), strict=True)],
            "square_sum": [sum(channel) for channel in zip(*(image.square_sums for image in images), strict=True)],
        },
    }
    if numbers := [image.numbers for image in images if image.numbers]:
        record["arrays"] = array_totals(numbers)
    for axis, name in enumerate(("width", "height")):
        if lengths := [image.size[axis] for image in images]:
            record[name] = {"min": min(lengths), "max": max(lengths), "sum": sum(lengths)}
    return record


class _HashingFile:
    """Passes writes on and takes their SHA-256 and size."""

    def __init__(self, file):
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        if self.file.closed:  # tarfile tries once more when an abandoned tar is collected
            return len(data)
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)
