"""Is a data set what its manifest says? Quickly, from sizes and counts, or deeply, from every byte and every image."""

import os
import tarfile
import warnings
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np

from zorse.errors import UserError
from zorse.files import sha256_of
from zorse.invocation import command_line
from zorse.typed_json import Mismatch, convert, read
from zorse_prep.format import (
    CHECKSUM_TYPE,
    CHECKSUMS,
    FOREIGN,
    FORMAT,
    INDEX,
    INDEX_TYPE,
    MANIFEST,
    PLAN,
    TAR_BLOCK,
    VERSION,
    Arrays,
    Mode,
    PixelMode,
    file_sizes,
    is_index,
    padded,
)
from zorse_prep.images import read_plain
from zorse_prep.manifest import fingerprint, split_fingerprint
from zorse_prep.pixels import BadImage
from zorse_prep.ranges import decode_npy
from zorse_prep.records import Manifest, check_manifest
from zorse_prep.workers import Task, run_all

# PIL's names of the pixels that each mode may have in a shard.
PIXELS: dict[PixelMode, tuple[str, ...]] = {
    "rgb": ("RGB", "L"),
    "grey": ("L",),
    "rgba": ("RGBA",),
    "grey16": ("I;16", "I"),
}


def load_manifest(out: Path) -> Manifest:
    """manifest.json. Raises UserError where there is none, or one of another version or with fields missing."""
    path = out / MANIFEST
    fix = f"write it again with: {command_line('shard', 'finalize', out)}"
    if not (out / PLAN).exists():
        fix = "copy it again, or make the shards again"
    try:
        manifest = read(path, dict, fix)
    except FileNotFoundError:
        make = fix if (out / PLAN).exists() else "give a folder of shards that zorse shard made"
        raise UserError(f"{path} is missing; {make}") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not of zorse shard; give a folder of shards that zorse shard made")
    if manifest.get("version") != VERSION:
        raise UserError(f"{path} is of another version; make the shards again")
    try:
        manifest = convert(manifest, Manifest)
        check_manifest(manifest)
    except Mismatch as error:
        raise UserError(f"{path}: {error}; {fix}") from None
    return manifest


def verify(out: Path, deep: bool, workers: int) -> list[str]:
    """Return every fault, in a line each. Raises UserError where there is no manifest to check against."""
    manifest = load_manifest(out)
    is_ours = manifest["source"].get("kind") != FOREIGN
    faults, tasks = _faults_of_sums(manifest), []
    for split, entry in manifest["splits"].items():
        for shard in entry["shards"]:
            found = _faults_of_files(out, shard)
            faults += found
            if deep and not found:
                mode = manifest["modes"][split[-1].lower()] if is_ours else None
                tasks.append(Task(split, shard["samples"], read_shard, (out, split, shard, mode)))
    last = {}
    for task, (found, first_key, last_key) in zip(tasks, run_all("reading", tasks, workers), strict=True):
        faults += found
        if is_ours and first_key <= last.get(task.split, ""):
            faults.append(f"{task.arguments[2]['name']}: its key {first_key} is in an earlier tar, too")
        last[task.split] = last_key
    return faults


def _faults_of_sums(manifest: dict) -> list[str]:
    """What in the manifest contradicts itself."""
    faults = []
    for split, entry in manifest["splits"].items():
        for name in ("samples", "bytes"):
            if entry[name] != sum(shard[name] for shard in entry["shards"]):
                faults.append(f"manifest.json: {name} of {split} is not the sum of its shards'")
        accounted = entry["samples"] + entry["dropped"].get("repeat", 0) + entry["quarantined"]["count"]
        if entry["found"] + entry.get("slices", 0) != accounted:
            faults.append(f"manifest.json: {split} found {entry['found']} images, and they are not all accounted for")
        if entry["fingerprint"] != split_fingerprint(entry["shards"]):
            faults.append(f"manifest.json: the fingerprint of {split} is not that of its shards")
    for domain, mode in manifest["modes"].items():
        if not isinstance(mode, Arrays) and manifest["policy"].get(f"mode_{domain}", mode) != mode:
            faults.append(f"manifest.json: the mode of {domain} is {mode}, but its policy has another")
    whole = fingerprint([(split, entry["fingerprint"]) for split, entry in manifest["splits"].items()])
    if manifest["fingerprint"] != whole:
        faults.append("manifest.json: the fingerprint is not that of the splits")
    return faults


def _faults_of_files(out: Path, shard: dict) -> list[str]:
    """Files that are missing, of a wrong size or changed, as far as sizes and small files tell; an index that lies."""
    faults, name = [], shard["name"]
    sums = {INDEX: shard["index_sha256"], CHECKSUMS: shard["crc_sha256"]}
    for end, size in file_sizes(shard).items():
        path = out / f"{name}{end}"
        try:
            found = path.stat().st_size
            if found != size:
                faults.append(f"{path.name}: has {found} bytes, the manifest says {size}")
            elif end:
                faults += _fault_of_sum(path, sums[end])
        except OSError as error:
            faults.append(f"{path.name}: {error.strerror}")
    if not faults:
        offsets = np.fromfile(out / f"{name}{INDEX}", dtype=INDEX_TYPE)
        if not is_index(offsets, shard["samples"], shard["bytes"]):
            faults.append(f"{name}{INDEX}: its offsets do not rise within the tar")
    return faults


def _fault_of_sum(path: Path, expected: str) -> list[str]:
    return [] if sha256_of(path) == expected else [f"{path.name}: its bytes are not those that were written (sha256)"]


def read_shard(out: Path, split: str, shard: dict, mode: Mode | None, count) -> tuple[list[str], str, str]:
    """Faults of a shard that show when all of it is read; its first and its last key.

    mode: of its pixels; None for a tar of another program, which may hold other pixels and files.
    """
    name, keys, is_ours = shard["name"], [], mode is not None
    faults = _fault_of_sum(out / name, shard["sha256"])
    offsets = np.fromfile(out / f"{name}{INDEX}", dtype=INDEX_TYPE).tolist()
    sums = np.fromfile(out / f"{name}{CHECKSUMS}", dtype=CHECKSUM_TYPE).tolist()
    with (out / name).open("rb") as file:
        for number, ((start, end), expected) in enumerate(zip(pairwise(offsets), sums, strict=True)):
            key, fault = _read_sample(file.fileno(), start, end, expected, mode)
            if fault is None and is_ours and (not key.startswith(f"{split}-") or (keys and key <= keys[-1])):
                fault = "its key is not in order"
            if fault:
                faults.append(f"{name}: sample {number}{f' ({key})' if key else ''}: {fault}")
            keys.append(key)
            count(end - start)
        if is_ours and (offsets[0] != 0 or any(os.pread(file.fileno(), shard["bytes"], offsets[-1]))):
            faults.append(f"{name}: it holds more than its index lists")
    return faults, keys[0], keys[-1]


def _read_sample(tar: int, start: int, end: int, expected: int, mode: Mode | None) -> tuple[str, str | None]:
    """(member's name, what is wrong or None) of the member at `start`. end: where the next one's header is to be."""
    is_ours = mode is not None
    header = os.pread(tar, TAR_BLOCK, start)
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return "", f"no intact tar header at byte {start}"
    data = os.pread(tar, member.size, start + TAR_BLOCK)
    if zlib.crc32(data) != expected:
        return member.name, "its image is not the one that was written (crc)"
    filled = padded(member.size)
    if is_ours and start + TAR_BLOCK + filled != end:
        return member.name, f"the index says that it ends at byte {end}, its header {start + TAR_BLOCK + filled}"
    padding = os.pread(tar, filled - member.size, start + TAR_BLOCK + member.size)
    if is_ours and (any(padding) or header != member.tobuf(tarfile.USTAR_FORMAT)):
        return member.name, "its header or the filling behind it is not as written"
    if isinstance(mode, Arrays):
        return member.name, _fault_of_array(data, mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = read_plain(data)
            image.load()
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        return member.name, f"its image does not decode: {error or type(error).__name__}"
    if is_ours and image.mode not in PIXELS[mode]:
        return member.name, f"its pixels are {image.mode}, and those of the mode {mode} are {' or '.join(PIXELS[mode])}"
    return member.name, None


def _fault_of_array(data: bytes, arrays: Arrays) -> str | None:
    try:
        array = decode_npy(data)
    except (BadImage, ValueError) as error:  # the latter of NumPy, for what is no header
        return f"its array does not decode: {error}"
    if len(array) != len(arrays.channels):
        return f"it has {len(array)} channels, and the arrays have {len(arrays.channels)}"
    return None
