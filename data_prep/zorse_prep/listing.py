"""The images of a source, however many: listed, hashed, and freed of duplicates, in the memory of a 256th of them.

They lie in 256 buckets by the first byte of their key, a hash of SPLIT/NAME; one bucket at a time is sorted in memory.
Bucket after bucket, the keys are in order: that is the shuffled order of the shards. A line is KEY TAB item (JSON).
"""

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from zorse.files import write_quickly
from zorse.terminal import progress
from zorse_prep.items import Item, Source, Unreadable
from zorse_prep.sources import read

BUCKETS = 256
SPILL = 64 << 20  # characters kept in memory before they go to the disk
PAIRS = 20  # names shown for each two splits that share images


class Buckets:
    """Lines by their first two hex digits; in files of a folder once they are many."""

    def __init__(self, folder: Path):
        self.folder, self.waiting, self.size = folder, [[] for _ in range(BUCKETS)], 0

    def add(self, line: str) -> None:
        self.waiting[int(line[:2], 16)].append(line + "\n")
        self.size += len(line)
        if self.size > SPILL:
            self._spill()

    def lines(self, number: int) -> list[str]:
        """All lines of a bucket, in the order in which they came."""
        path = self._path(number)
        spilled = path.read_text(encoding="ascii") if path.exists() else ""
        return [*spilled.splitlines(), *(line[:-1] for line in self.waiting[number])]

    def _spill(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for number, lines in enumerate(self.waiting):
            with self._path(number).open("a", encoding="ascii") as file:  # one at a time: open files are few
                file.writelines(lines)
            lines.clear()
        self.size = 0

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:02x}"


@dataclass(frozen=True)
class Listing:
    """What a source holds: images by split, and a digest of their names, sizes, times of change and places."""

    buckets: Buckets
    found: dict[str, int]
    sha256: str

    def lines(self, number: int) -> list[str]:
        """The bucket's images in the order of their keys, the first alone where several have one name."""
        lines = sorted(self.buckets.lines(number), key=_key)  # stable
        return [next(same) for _, same in itertools.groupby(lines, _key)]


def list_source(source: Source, work: Path) -> Listing:
    """Go through a source. Images of one name, which an archive may hold, count as unsafe but for the first."""
    buckets, counts = Buckets(work / "listing"), Counter()
    with progress("listing", {}) as show:
        for item in source.items:
            key = hashlib.sha256(os.fsencode(f"{item.split}/{item.name}")).hexdigest()
            values = [item.split, item.name, item.size, item.path, item.place, item.mtime_ns]
            buckets.add(f"{key}\t{json.dumps(values)}")
            counts[item.split] += 1
            if counts.total() % 100 == 0:
                show(counts, 0)  # nothing but names and sizes is read
    listing, digest, found = Listing(buckets, {}, ""), hashlib.sha256(), Counter()
    for number in range(BUCKETS):
        for line in listing.lines(number):
            digest.update(line.encode() + b"\n")
            found[_item(line).split] += 1
    for split, dropped in source.dropped.items():
        dropped["unsafe"] += counts[split] - found[split]
    return Listing(buckets, {split: found[split] for split in source.dropped}, digest.hexdigest())


def _key(line: str) -> str:
    return line[:64]


def _item(line: str) -> Item:
    return Item(*json.loads(line[65:]))


class Hashed:
    """A listing with the SHA-256 of every image. What was hashed outlives a kill, in `cache`, a bucket at a time."""

    def __init__(self, listing: Listing, root: str, cache: Path, threads: Executor):
        self.listing, self.root, self.cache, self.threads = listing, root, cache, threads

    def run(self) -> None:
        """Hash everything."""
        done, n_bytes = Counter(), 0
        with progress("hashing", self.listing.found) as show:
            for number in range(BUCKETS):
                for _, item in self.items(number):
                    done[item.split] += 1
                    n_bytes += item.size
                show(done, n_bytes)

    def items(self, number: int) -> list[tuple[str, Item]]:
        """The keys and images of a bucket, in order."""
        lines = self.listing.lines(number)
        if not lines:
            return []
        path = self.cache / f"{number:02x}-{hashlib.sha256(''.join(lines).encode()).hexdigest()[:16]}.sha256"
        hashes = []
        with suppress(FileNotFoundError):
            hashes = path.read_text().split("\n")
        if len(hashes) != len(lines) or not all(len(found) in (0, 64) for found in hashes):
            parts = [lines[at : at + 16] for at in range(0, len(lines), 16)]
            hashes = list(itertools.chain(*self.threads.map(partial(_hash, self.root), parts)))
            write_quickly(path, "\n".join(hashes))  # what a power cut tears is hashed again
        return [(_key(line), replace(_item(line), sha256=found)) for line, found in zip(lines, hashes, strict=True)]


def _hash(root: str, lines: list[str]) -> list[str]:
    """The SHA-256 of images' bytes, "" where these cannot be read."""
    hashes = []
    for line in lines:
        try:
            hashes.append(hashlib.sha256(read(root, _item(line))).hexdigest())
        except Unreadable:
            hashes.append("")
    return hashes


@dataclass(frozen=True)
class Repeats:
    """Byte-identical images: the keys of those to be dropped, their number by split, and what splits share.

    overlaps["trainA/testA"] = {"count": different images, "names": the first pairs, in order}
    """

    keys: Buckets
    counts: dict[str, int]
    overlaps: dict[str, dict]


def find_repeats(hashed: Hashed, splits: list[str], keep: bool, work: Path) -> Repeats:
    """Of the byte-identical images of a split, all but the first by name (in byte order) are dropped, unless `keep`."""
    contents = Buckets(work / "contents")
    for number in range(BUCKETS):
        for key, item in hashed.items(number):
            if item.sha256:
                contents.add("\t".join((item.sha256, item.split, os.fsencode(item.name).hex(), key)))
    keys, counts, overlaps = Buckets(work / "repeats"), Counter(), {}
    for number in range(BUCKETS):
        for same in _groups(contents.lines(number)):
            first = {}
            for split, name, key in same:
                if split not in first:
                    first[split] = name
                elif not keep:
                    keys.add(key)
                    counts[split] += 1
            for a, b in itertools.combinations([split for split in splits if split in first], 2):
                shared = overlaps.setdefault(f"{a}/{b}", {"count": 0, "names": []})
                shared["count"] += 1
                shared["names"] = sorted([*shared["names"], [first[a], first[b]]])[:PAIRS]
    return Repeats(keys, {split: counts[split] for split in splits}, dict(sorted(overlaps.items())))


def _groups(lines: list[str]) -> Iterator[list[tuple[str, str, str]]]:
    """(split, name, key) of two or more images with the same bytes, by split and name."""
    for _, same in itertools.groupby(sorted(lines), _key):
        group = [line.split("\t")[1:] for line in same]
        if len(group) > 1:
            yield [(split, os.fsdecode(bytes.fromhex(name)), key) for split, name, key in group]
