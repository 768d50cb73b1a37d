"""The manifest of a data set: what it says is held against sense, and the files that it names against what it says."""

from dataclasses import dataclass
from pathlib import Path

from zorse.data.local import FIX, File, Folder, Missing
from zorse.data.remote import Remote
from zorse.errors import UserError
from zorse.invocation import command_line
from zorse.typed_json import Count, Mismatch, convert, parse, shown
from zorse_prep.folders import options_for
from zorse_prep.format import (
    CHECKSUMS,
    FORMAT,
    INDEX,
    MANIFEST,
    PLAN,
    SPLITS,
    TAR_BLOCK,
    TAR_NAME,
    VERSION,
    Mode,
    channels_of,
    checksums_size,
    index_size,
)
from zorse_prep.records import check_pair

SMALLEST = 2 * TAR_BLOCK  # bytes that a sample takes in a tar: its header and a block of data
MOST = 1 << 40  # bytes of a shard
MOST_SAMPLES = 1 << 32  # of a split


@dataclass(frozen=True)
class Manifest:
    """splits: the tars and their samples, in order. modes: of the pixels of domains "a" and "b". means: of their
    training images, for each channel, in [-1, 1]."""

    fingerprint: str
    modes: dict[str, Mode]
    means: dict[str, list[float]]
    splits: dict[str, list[tuple[File, int]]]
    partners: list[tuple[int, int]]  # samples of testA and testB that show the same


def index_of(tar: File, samples: int) -> File:
    return File(f"{tar.name}{INDEX}", index_size(samples))


def checksums_of(tar: File, samples: int) -> File:
    return File(f"{tar.name}{CHECKSUMS}", checksums_size(samples))


def read_manifest(store: Folder | Remote) -> Manifest:
    """Read a manifest. Raises UserError where there is none, or where it contradicts itself."""
    where = store.where(MANIFEST)
    try:
        manifest = parse(store.read_all(MANIFEST))
    except Missing:
        raise UserError(f"{where}: {_absent(store)}") from None
    except ValueError as error:
        raise UserError(f"{where}: cannot be read ({error}); make the shards again") from None
    try:
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            known = f"{shown(manifest['format'])} {shown(manifest['version'])}"
            raise UserError(f"{where}: format {known} is unknown to this version; make the shards again")
        fingerprint = convert(manifest["fingerprint"], str)
        modes = {domain: _mode(where, manifest["modes"][domain]) for domain in ("a", "b")}
        if not set(manifest["splits"]) <= set(SPLITS):
            raise KeyError
        splits = {name: _split(where, name, split) for name, split in manifest["splits"].items()}
        means = {domain: _mean(manifest["splits"].get(f"train{domain.upper()}"), modes[domain]) for domain in modes}
        partners = _partners(manifest.get("partners", []), splits)
    except (Mismatch, KeyError, TypeError, AttributeError):
        raise UserError(f"{where}: is not a manifest of shards; make the shards again") from None
    return Manifest(fingerprint, modes, means, splits, partners)


def _absent(store: Folder | Remote) -> str:
    if isinstance(store, Remote):
        return "not found; give the URL of a folder of shards that zorse shard made"
    root = store.root
    if (root / PLAN).exists():
        return f"not finished; finish it with: {command_line('shard', 'write', root)}"
    if root == Path("shards/horse2zebra"):
        return f"not found; make it with: {command_line('shard', 'horse2zebra')}, or give --data, or --a and --b"
    if root.is_dir() and (options := options_for(root)):
        return f"not found; if {root} holds images, make shards of them with: {command_line('shard', *options)}"
    return f"not found; make it with: {command_line('shard', '--a', 'DIR', '--b', 'DIR', '--out', root)}"


def _split(where: str, name: str, split: dict) -> list[tuple[File, int]]:
    def insist(sensible: bool, what: str) -> None:
        if not sensible:
            raise UserError(f"{where}: {name} has {what}; copy it again, or make the shards again")

    shards = []
    for shard in split["shards"]:
        tar, samples, size = shard["name"], shard["samples"], shard["bytes"]
        insist(isinstance(tar, str) and TAR_NAME.fullmatch(tar) is not None, f"a shard named {tar!r:.100}")
        insist(_is_count(size, MOST), f"a shard of {size!r:.30} bytes")
        insist(_is_count(samples, size // SMALLEST), f"a shard of {samples!r:.30} samples in {size} bytes")
        shards.append((File(tar, size), samples))
    total = sum(samples for _, samples in shards)
    insist(total <= MOST_SAMPLES, f"{total} samples")
    insist(split.get("samples", total) == total, f"{split.get('samples')!r:.30} samples, but its shards {total}")
    return shards


def _mode(where: str, found: object) -> Mode:
    """What the images of a domain are. Raises UserError where this version does not know it."""
    try:
        return convert(found, Mode, "modes")
    except Mismatch as error:
        raise UserError(f"{where}: {error}; make the shards again") from None


def _mean(split: dict | None, mode: Mode) -> list[float]:
    """The mean of a split's images by channel, from 0 to 1 as the manifest has it to -1 to 1. Raises Mismatch."""
    if not split or not split["shards"]:
        return []
    mean = convert(split["statistics"]["pixel_mean"], list[float])
    if len(mean) != channels_of(mode) or not all(0 <= value <= 1 for value in mean):
        raise Mismatch("pixel_mean")
    return [2 * value - 1 for value in mean]


def _partners(pairs: object, splits: dict[str, list[tuple[File, int]]]) -> list[tuple[int, int]]:
    """Raises Mismatch for what names no test images of both domains."""
    tests = [sum(samples for _, samples in splits.get(split, [])) for split in ("testA", "testB")]
    pairs = convert(pairs, list[list[Count]])
    for number, pair in enumerate(pairs):
        check_pair(pair, tests, f"partners.{number}")
    return [(a, b) for a, b in pairs]


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def check_files(store: Folder | Remote, files: list[File]) -> None:
    """Check the size of every file against the manifest, where the store knows them all. Raises UserError."""
    sizes = store.sizes([file.name for file in files])
    if sizes is None:
        return  # each is checked when it is opened
    for file in files:
        found = sizes.get(file.name)
        if found is None:
            raise UserError(f"{store.where(file.name)}: is missing; copy it again, or run zorse shard again")
        if found != file.size:
            raise UserError(f"{store.where(file.name)}: has {found} bytes, the manifest says {file.size}; {FIX}")
