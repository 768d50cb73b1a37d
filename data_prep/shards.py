"""Shards: the plan that fixes which image goes where, and the writing of one shard.

A shard NAME is three files: NAME.tar, one image per sample; NAME.tar.idx, N + 1 little-endian uint64, where entry i
is the offset of sample i's tar header (its payload 512 further on, its size in the header) and the last one the end
of the last sample; and NAME.json, written last: a shard without it does not exist. All three are a function of the
inputs and the options, so a shard written again is the same to the byte.
"""

import hashlib
import json
import os
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep import PrepError
from data_prep.atomic import load_json, remove_stale, sync, temporary_for, write_bytes, write_json
from data_prep.images import POLICY, BadImage, ImagePolicy, Prepared, prepare
from data_prep.pixels import Mode
from data_prep.sources import SPLITS, Item, Source, read

FORMAT = "zorse-shards"
VERSION = 1
OURS = re.compile(rf"\.?({'|'.join(SPLITS)})-\d{{6}}-[0-9a-f]{{6}}\.(tar|tar\.idx|json)(\..*\.tmp)?")


@dataclass(frozen=True)
class Policy:
    """Every option which changes a byte of the shards."""

    max_side: int  # pixels
    min_side: int  # pixels
    shard_size: int  # samples; 0: a 64th of a split, within 64 and 10000
    lossless: bool = False
    mode_a: Mode = "rgb"
    mode_b: Mode = "rgb"

    @property
    def images(self) -> ImagePolicy:
        return ImagePolicy(self.max_side, self.min_side, self.lossless)

    def mode(self, split: str) -> Mode:
        """Which pixels the images of a split have."""
        return self.mode_a if split.endswith("A") else self.mode_b


@dataclass(frozen=True)
class Shard:
    """A run of a split's items; sample i of the shard has the key SPLIT-(first + i)."""

    name: str
    split: str
    first: int
    items: list[Item]


@dataclass(frozen=True)
class Plan:
    """All shards of a source; `sha256` stands for the inputs and the policy."""

    sha256: str
    policy: Policy
    shards: list[Shard]


def make_plan(source: Source, policy: Policy) -> Plan:
    """Order each split by a keyed hash, so that neighbours are independent, and cut it into shards."""
    ordered = {split: sorted(items, key=_shuffle_key) for split, items in source.items.items()}
    digest = hashlib.sha256(json.dumps([FORMAT, VERSION, POLICY, asdict(policy)]).encode())
    for items in ordered.values():
        for item in items:
            digest.update(json.dumps([item.split, item.name, item.size]).encode() + b"\n")
    sha256 = digest.hexdigest()
    shards = []
    for split, items in ordered.items():
        size = policy.shard_size or min(max(-(-len(items) // 64), 64), 10000)
        for number, first in enumerate(range(0, len(items), size)):
            shards.append(Shard(f"{split}-{number:06d}-{sha256[:6]}", split, first, items[first : first + size]))
    return Plan(sha256, policy, shards)


def _shuffle_key(item: Item) -> bytes:
    return hashlib.sha256(os.fsencode(f"{item.split}/{item.name}")).digest()


def begin(out: Path, plan: Plan, source: Source, restart: bool) -> str:
    """Claim `out` for a plan, and return when this was first done (UTC, ISO 8601).

    Another plan there is refused (PrepError), or with `restart` all shards there are removed.
    """
    path = out / "plan.json"
    if restart:
        _remove_shards(out)
    elif path.exists():
        found = load_json(path) or {}
        if found.get("plan_sha256") == plan.sha256:
            return found["created"]
        raise PrepError(
            f"{out} holds shards of other images or options; add --restart to replace them, or give another --out"
        )
    elif (out / "manifest.json").exists():
        raise PrepError(f"{out} holds a manifest.json that is not of shards made here; give another --out")
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    record = {
        "format": FORMAT,
        "version": VERSION,
        "name": source.name,
        "created": created,
        "plan_sha256": plan.sha256,
        "policy": asdict(plan.policy),
        "shards": [shard.name for shard in plan.shards],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return created


def _remove_shards(out: Path) -> None:
    (out / "manifest.json").unlink(missing_ok=True)  # first: a manifest never names a missing shard
    for path in out.glob("*"):
        if OURS.fullmatch(path.name):
            path.unlink()


def committed(out: Path, shard: Shard) -> dict | None:
    """What NAME.json says, or None where the shard is to be written (again)."""
    record = load_json(out / f"{shard.name}.json")
    with suppress(OSError, KeyError, TypeError):
        same_size = (out / f"{shard.name}.tar").stat().st_size == record["bytes"]
        same_index = (out / f"{shard.name}.tar.idx").stat().st_size == 8 * (record["samples"] + 1)
        return record if same_size and same_index else None
    return None


def outdated(out: Path, shard: Shard) -> bool:
    """Whether an image was changed after its committed shard was written; the plan sees names and sizes alone."""
    written = (out / f"{shard.name}.json").stat().st_mtime
    return any(Path(path).stat().st_mtime > written for path in {item.path for item in shard.items})


def write_shard(out: Path, shard: Shard, policy: Policy, count=lambda n_bytes: None) -> dict:
    """Write and commit one shard; returns what its NAME.json holds. `count` is told each input's size when done."""
    tar = out / f"{shard.name}.tar"
    index_file = out / f"{tar.name}.idx"
    for path in (tar, index_file, out / f"{shard.name}.json"):
        remove_stale(path)
    temporary = temporary_for(tar)
    try:
        with temporary.open("wb") as file:
            hashing = _HashingFile(file)
            offsets, images, quarantined = _write_tar(hashing, shard, policy, count)
            sync(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(tar)
    index = np.array(offsets, dtype="<u8").tobytes()
    write_bytes(index_file, index)
    record = {
        "name": tar.name,
        "samples": len(offsets) - 1,
        "bytes": hashing.size,
        "sha256": hashing.digest.hexdigest(),
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "quarantined": quarantined,
        **_totals(images),
        "sources": [item.name for item in shard.items],
    }
    write_json(out / f"{shard.name}.json", record)
    return record


def _write_tar(file, shard: Shard, policy: Policy, count) -> tuple[list[int], list[Prepared], list[dict]]:
    """Write the samples; returns the index, what was written (without the bytes), and the unusable images."""
    import webdataset  # here, because it imports torch where there is one, which takes seconds

    offsets, images, quarantined = [], [], []
    writer = webdataset.TarWriter(file, mtime=0, user="zorse", group="zorse", encoder=False)
    for number, item in enumerate(shard.items, shard.first):
        try:
            image = prepare(read(item), policy.images, policy.mode(shard.split))
        except BadImage as bad:
            quarantined.append({"file": f"{item.split}/{item.name}", "reason": str(bad)})
        else:
            offsets.append(writer.tarstream.offset)
            writer.write({"__key__": f"{shard.split}-{number:08d}", image.extension: image.data})
            images.append(image._replace(data=b""))
        count(item.size)
    offsets.append(writer.tarstream.offset)
    writer.close()
    return offsets, images, quarantined


def _totals(images: list[Prepared]) -> dict:
    """`pixels` in stored levels per channel, `width` and `height` in pixels; the latter two only where images are."""
    record = {
        "converted": dict(sorted(Counter(name for image in images for name in image.conversions).items())),
        "pixels": {
            "count": sum(image.size[0] * image.size[1] for image in images),
            "sum": [sum(channel) for channel in zip(*(image.sums for image in images), strict=True)],
            "square_sum": [sum(channel) for channel in zip(*(image.square_sums for image in images), strict=True)],
        },
    }
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
