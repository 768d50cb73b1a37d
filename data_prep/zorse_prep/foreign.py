"""WebDataset tars of another program, made usable where they lie: an index, checksums and a manifest beside them.

A sample is its first image member; other members (.json, .txt, .cls, .pyd, ...) are never opened. The index points at
each image's own header, so that a reader skips all between them. No tar is changed, and no image converted.
"""

import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from zorse.errors import UserError
from zorse.files import load_json, sha256_of
from zorse_prep.archives import is_plain, refuse_packed, tar_members
from zorse_prep.format import (
    CHECKSUMS,
    FOREIGN,
    FORMAT,
    INDEX,
    INDEX_TYPE,
    MANIFEST,
    PLAN,
    TAR_BLOCK,
    TAR_NAME,
    is_index,
    member_size,
    padded,
)
from zorse_prep.images import POLICY, BadImage, ImagePolicy, Prepared, prepare
from zorse_prep.items import LARGEST, OF_NUMBERS, PHOTOGRAPHS, is_hidden, none_dropped
from zorse_prep.manifest import check_unusable, check_usable, split_entry, write_manifest
from zorse_prep.shards import totals, write_index
from zorse_prep.workers import Task, run_all

ANY_SIDE = 1 << 30  # pixels; nothing is reduced


def index_tars(
    folder: Path, globs: dict[str, tuple[str, ...]], min_side: int, max_corrupt: float, workers: int
) -> dict:
    """Index the tars of each split; returns the manifest. Raises UserError, TooManyCorrupt."""
    # Index every tar in parallel.
    tars, before = _find(folder, globs), load_json(folder / MANIFEST)
    check_unusable(folder)
    indexed = {}
    with suppress(KeyError, TypeError, AttributeError):  # of a manifest that is damaged, or not there
        for entry in before["splits"].values():
            indexed |= {shard["name"]: shard["index_sha256"] for shard in entry["shards"]}
    for name in chain(*tars.values()):
        _check_index(folder / name, indexed.get(name))
    policy = ImagePolicy(max_side=ANY_SIDE, min_side=min_side)
    tasks = [Task(split, 0, index_tar, (folder, name, policy)) for split, names in tars.items() for name in names]
    records = run_all("indexing", tasks, workers)
    # Sum the tars up by split, and refuse too many unusable images.
    splits = {}
    for split in tars:
        found = [record for task, record in zip(tasks, records, strict=True) if task.split == split]
        entry = split_entry(found, "rgb")
        unconverted = sum((Counter(record["unconverted"]) for record in found), Counter())
        dropped = none_dropped()
        for record in found:
            dropped.update(record["dropped"])
        splits[split] = {
            "found": entry["samples"] + entry["quarantined"]["count"],
            **entry,
            "unconverted": dict(sorted(unconverted.items())),
            "dropped": dropped,
        }
    inputs = sum(entry["found"] for entry in splits.values())
    check_usable(splits, inputs, max_corrupt, "repair them and run again")
    return write_manifest(
        folder,
        [bad for record in records for bad in record["quarantined"]],
        name=folder.resolve().name,
        created=None,
        source={"kind": FOREIGN, "uri": str(folder.resolve()), "revision": None},
        policy={"min_side": min_side, "images": f"not converted, judged by: {POLICY}"},
        modes={"a": "rgb", "b": "rgb"},
        plan_sha256=None,
        overlaps={},
        splits=splits,
    )


def _find(folder: Path, globs: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """{split: names of its tars in the folder, in order}; each tar is in one split."""
    # A folder of another program's tars, indexed before or not.
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the one that holds the tars")
    path = folder / MANIFEST
    manifest = (load_json(path) or {}) if path.exists() else {"format": FORMAT, "source": {"kind": FOREIGN}}
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} belongs to something else; move it away, or link the tars into a folder of their own")
    source = manifest.get("source")
    if (folder / PLAN).exists() or (isinstance(source, dict) and source.get("kind") != FOREIGN):
        raise UserError(f"{folder} holds shards of shard.py, which have an index already; give a folder of other tars")
    # Each pattern must match something, and no tar may be in two splits.
    found, owner = {}, {}
    for split, patterns in globs.items():
        flag = f"--{split[:-1]}-{split[-1].lower()}"
        if split.startswith("train") and not patterns:
            raise UserError(f"{flag} is missing; say which tars it has, e.g. {flag} 'horse-*.tar'")
        names = set()
        for pattern in patterns:
            if "/" in pattern:
                raise UserError(f"{flag} {pattern}: tars must lie in {folder} itself; give the folder that holds them")
            matched = {path.name for path in folder.glob(pattern) if path.is_file()}
            if not matched:
                raise UserError(f"{flag} {pattern} matches no file in {folder}; give another pattern")
            for name in sorted(matched):
                refuse_packed(folder / name, only_tars=True)
            if odd := sorted(name for name in matched if not TAR_NAME.fullmatch(name)):
                raise UserError(f"{odd[0]!r}: rename it to letters, digits, '.', '_', '-' and .tar at the end")
            names |= matched
        for name in sorted(names):
            if name in owner:
                raise UserError(f"{name} is in {owner[name]} and in {split}; give patterns that tell them apart")
            owner[name] = split
        if names:
            found[split] = sorted(names)
    return found


def _check_index(tar: Path, sha256: str | None) -> None:
    """Raise UserError where a tar has an index of another program. sha256: of the one by the manifest, if any."""
    index, sums = (tar.with_name(f"{tar.name}{end}") for end in (INDEX, CHECKSUMS))
    found = index if index.exists() else sums
    if not found.exists() or (found == index and sha256_of(index) == sha256):
        return
    offsets = np.fromfile(index, dtype=INDEX_TYPE) if found == index else []
    if len(offsets) == 0 or not is_index(offsets, len(offsets) - 1, tar.stat().st_size):
        raise UserError(f"{found} belongs to something else; move it away, or link the tars into a folder of their own")


def index_tar(folder: Path, name: str, policy: ImagePolicy, count) -> dict:
    """Write NAME.idx and NAME.crc for a tar; returns the same record as of a shard that was made here."""
    offsets, sums, images, quarantined, dropped, end = [], [], [], [], Counter(), 0
    with (folder / name).open("rb") as file:
        for member in _first_images(folder / name, dropped):
            try:
                data = _image_of(file.fileno(), member)
                images.append(prepare(data, policy)._replace(data=b""))
            except BadImage as bad:
                quarantined.append({"file": f"{name}/{member.name}", "reason": str(bad)})
            else:
                offsets.append(member.offset_data - TAR_BLOCK)
                sums.append(zlib.crc32(data))
                end = member.offset_data + padded(member.size)
            count(member.size)
    index_sha256, crc_sha256 = write_index(folder / name, [*offsets, end], sums)
    return {
        "name": name,
        "samples": len(sums),
        "bytes": (folder / name).stat().st_size,
        "sha256": sha256_of(folder / name),
        "index_sha256": index_sha256,
        "crc_sha256": crc_sha256,
        "quarantined": quarantined,
        "dropped": dropped,
        **_unconverted(images),
    }


def _unconverted(images: list[Prepared]) -> dict:
    record = totals(images)
    return {**record, "converted": {}, "unconverted": record["converted"]}


def _first_images(path: Path, dropped: Counter[str]) -> Iterator[tarfile.TarInfo]:
    """The first image member of each sample: of neighbours whose names agree up to the first dot of the last part.

    All other members are counted in `dropped`: those of a sample without an image as one `no_image`. Raises UserError
    for a sample that is an array, since its range must be in what is stored.
    """
    for _, sample in groupby(_members(path, dropped), lambda member: _key(member.name)):
        images, others, numbers = [], 0, ""
        for member in sample:
            if member.name.lower().endswith(PHOTOGRAPHS):
                images.append(member)
            else:
                others += 1
                numbers = numbers or (member.name if member.name.lower().endswith(OF_NUMBERS) else "")
        if numbers and not images:
            raise UserError(
                f"{path}: {numbers} is an array, which needs a range; unpack the tars into folders, and shard these "
                "with --range-a and --range-b"
            )
        dropped.update(further_image=len(images[1:]), not_image=others if images else 0, no_image=int(not images))
        yield from images[:1]


def _members(path: Path, dropped: Counter[str]) -> Iterator[tarfile.TarInfo]:
    """The members of a tar which are files and not hidden."""
    for member in tar_members(path):
        parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
        if is_hidden(parts) or not is_plain(member):
            if not member.isdir():
                dropped["hidden" if is_hidden(parts) else "unsafe"] += 1
        else:
            yield member


def _key(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.split('.')[0]}"


def _image_of(tar: int, member: tarfile.TarInfo) -> bytes:
    """A member's bytes, if its own header says where they lie, as the trainer reads them. Raises BadImage."""
    if member.size > LARGEST:
        raise BadImage(f"larger than {LARGEST >> 20} MiB")
    try:
        as_read = member_size(os.pread(tar, TAR_BLOCK, member.offset_data - TAR_BLOCK))
    except ValueError:
        as_read = None
    if as_read != member.size:
        raise BadImage("its tar header has an old format; make the tar again with --format=ustar")
    return os.pread(tar, member.size, member.offset_data)
