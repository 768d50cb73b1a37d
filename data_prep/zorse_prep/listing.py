"""The images of a source, however many: listed, hashed, and freed of duplicates, in the memory of a 256th of them.

They lie in 256 buckets by the first byte of their key, a hash of SPLIT/NAME; one bucket at a time is sorted in memory.
Bucket after bucket, the keys are in order: that is the shuffled order of the shards. A line is KEY TAB item (JSON).
"""

import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from zorse.files import write_quickly
from zorse.progress_bars import progress
from zorse.terminal import one_line
from zorse.typed_json import read_bytes
from zorse_prep.format import SPLITS
from zorse_prep.items import Item, Source, Unreadable
from zorse_prep.sources import read

BUCKETS = 256
HASH = re.compile("([0-9a-f]{64})?")
SPILL = 64 << 20  # characters kept in memory before they go to the disk
PLACES = 8  # shown of those with files that belong to no split
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
        """The bucket's images in the order of their keys, the last alone where several have one name."""
        last = {_key(line): line for line in self.buckets.lines(number)}
        return [last[key] for key in sorted(last)]


def list_source(source: Source, work: Path) -> Listing:
    """Go through a source. Of images of one name, which an archive may hold, the last replaces the others, as it does
    where the archive is unpacked."""
    buckets, counts = Buckets(work / "listing"), Counter()
    with progress("listing", {}) as show:
        for item in source.items:
            key = hashlib.sha256(os.fsencode(f"{item.split}/{item.name}")).hexdigest()
            values = [item.split, item.name, item.size, item.path, item.place, item.mtime_ns]
            buckets.add(f"{key}\t{json.dumps(values)}")
            counts[item.split] += 1
            if counts.total() % 100 == 0:
                show(counts, 0)  # nothing but names and sizes is read
    if source.outside:
        where = ", ".join(f"{count} {place}" for place, count in source.outside.most_common(PLACES))
        more = ", ..." if len(source.outside) > PLACES else ""
        print(f"ignored, in none of {', '.join(SPLITS)}: {one_line(where)}{more}")
    listing, digest, found = Listing(buckets, {}, ""), hashlib.sha256(), Counter()
    for number in range(BUCKETS):
        for line in listing.lines(number):
            digest.update(line.encode() + b"\n")
            found[item_of(line).split] += 1
    for split, dropped in source.dropped.items():
        if replaced := counts[split] - found[split]:
            dropped["replaced"] = replaced
    return Listing(buckets, {split: found[split] for split in source.dropped}, digest.hexdigest())


def _key(line: str) -> str:
    return line[:64]


def item_of(line: str) -> Item:
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
            hashes = read_bytes(path).decode(errors="replace").split("\n")
        if len(hashes) != len(lines) or not all(HASH.fullmatch(found) for found in hashes):
            parts = [lines[at : at + 16] for at in range(0, len(lines), 16)]
            hashes = list(itertools.chain(*self.threads.map(partial(_hash, self.root), parts)))
            write_quickly(path, "\n".join(hashes))  # what a power cut tears is hashed again
        return [(_key(line), replace(item_of(line), sha256=found)) for line, found in zip(lines, hashes, strict=True)]


def _hash(root: str, lines: list[str]) -> list[str]:
    """The SHA-256 of images' bytes, "" where these cannot be read."""
    hashes = []
    for line in lines:
        try:
            hashes.append(hashlib.sha256(read(root, item_of(line))).hexdigest())
        except Unreadable:
            hashes.append("")
    return hashes


@dataclass(frozen=True)
class Repeats:
    """Byte-identical usable images: the keys of those to be dropped, their number by split, and what splits share.

    overlaps["trainA/testA"] = {"count": different images, "names": the first pairs, in order}
    """

    keys: Buckets
    counts: dict[str, int]
    overlaps: dict[str, dict]


def find_repeats(
    hashed: Hashed, splits: list[str], keep: bool, work: Path, is_usable: Callable[[Item], bool]
) -> Repeats:
    """Of the byte-identical images of a split, all but the first by name (in byte order) are dropped, unless `keep`.

    What is not usable is no repeat: each copy of it is left in, to be counted as unusable.
    """
    contents = Buckets(work / "contents")
    for number in range(BUCKETS):
        for key, item in hashed.items(number):
            if item.sha256:
                place = json.dumps([item.size, item.path, item.place])
                contents.add("\t".join((item.sha256, item.split, os.fsencode(item.name).hex(), key, place)))
    keys, counts, overlaps, judged = Buckets(work / "repeats"), Counter(), {}, Counter()
    with progress("checking repeats", {}) as show:
        for number in range(BUCKETS):
            for same in hashed.threads.map(partial(_usable, is_usable), _groups(contents.lines(number))):
                for split, copies in same.items():
                    for _, key in copies[1:] if not keep else ():
                        keys.add(key)
                        counts[split] += 1
                for a, b in itertools.combinations([split for split in splits if split in same], 2):
                    shared = overlaps.setdefault(f"{a}/{b}", {"count": 0, "names": []})
                    shared["count"] += 1
                    shared["names"] = sorted([*shared["names"], [same[a][0][0].name, same[b][0][0].name]])[:PAIRS]
                judged.update(same.keys())
                show(judged, 0)
    return Repeats(keys, {split: counts[split] for split in splits}, dict(sorted(overlaps.items())))


def _groups(lines: list[str]) -> Iterator[dict[str, list[tuple[Item, str]]]]:
    """Two or more images with the same bytes: {split: [(image, its key), ...] by name}."""
    for _, same in itertools.groupby(sorted(lines), _key):
        group = {}
        for line in same:
            sha256, split, name, key, place = line.split("\t")
            size, path, at = json.loads(place)
            item = Item(split, os.fsdecode(bytes.fromhex(name)), size, path, at, sha256=sha256)
            group.setdefault(split, []).append((item, key))
        if sum(map(len, group.values())) > 1:
            yield group


def _usable(is_usable: Callable[[Item], bool], group: dict[str, list[tuple[Item, str]]]) -> dict:
    """The splits of a group whose images are usable: judged by split, since each may have a mode of its own."""
    return {split: copies for split, copies in group.items() if is_usable(copies[0][0])}
