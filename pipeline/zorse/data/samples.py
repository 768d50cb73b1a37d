"""The images of one split by their numbers: which bytes of which tar they are, and whether they are the right ones."""

import tarfile
import zlib
from functools import lru_cache

import numpy as np

from zorse.data.local import File, Folder
from zorse.data.manifest import checksums_of, index_of
from zorse.data.order import BLOCK
from zorse.data.remote import Remote
from zorse.errors import OneRankError
from zorse_prep.format import CHECKSUM_TYPE, INDEX_TYPE, TAR_BLOCK, Mode, is_index, member_size


class CorruptSample(Exception):
    """An image that cannot be decoded, or is not the one that was written; another can stand in for it."""


class Split:
    """The images of one split, e.g. trainA, read by number from its tars.

    shards: tars and how many samples each has. mode: of its pixels. verify: hold each image against its checksum. A
    Split is cheap to pickle: files are opened when they are read, per process.
    """

    def __init__(
        self,
        name: str,
        store: Folder | Remote,
        shards: list[tuple[File, int]],
        mode: Mode = "rgb",
        verify: bool = False,
    ):
        self.name, self.store, self.mode, self.verify = name, store, mode, verify
        self.tars, self.counts = [tar for tar, _ in shards], [count for _, count in shards]
        self.starts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, sample: int) -> tuple[int, int]:
        """The number of the shard that holds a sample, and the sample's number there."""
        shard = int(np.searchsorted(self.starts, sample, side="right")) - 1
        return shard, int(sample - self.starts[shard])

    def read(self, sample: int) -> bytes:
        """The encoded image of a sample. Raises as `_member`."""
        return self._member(sample)[1]

    def read_with_name(self, sample: int) -> tuple[str, bytes]:
        """The name of a sample's image in its tar, key and ending, and the encoded image. Raises as `_member`."""
        header, data = self._member(sample)
        try:
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name, data
        except tarfile.HeaderError as error:
            raise CorruptSample(f"its tar header is damaged ({error})") from None

    def _member(self, sample: int) -> tuple[bytes, bytes]:
        """A sample's tar header and its image.

        Raises CorruptSample where its checksum is another, and OneRankError where tar and index disagree.
        """
        shard, at = self.locate(sample)
        tar = self.tars[shard]
        member = self.store.read(tar, *self._ranges(shard, at))
        try:
            size = member_size(member)
            if TAR_BLOCK + size > len(member):
                raise ValueError
        except ValueError:
            raise OneRankError(
                f"{self.store.where(tar.name)}: sample {at} is not where its index says; make the shards again"
            ) from None
        data = member[TAR_BLOCK : TAR_BLOCK + size]
        if self.verify and zlib.crc32(data) != _checksums(self.store, tar, self.counts[shard])[at]:
            raise CorruptSample("its checksum is not that of the image which was written")
        return member[:TAR_BLOCK], data

    def prefetch(self, sample: int, whole_block: bool) -> None:
        """Announce that a sample, or all of its block, will be read soon."""
        shard, at = self.locate(sample)
        start, end, block = self._ranges(shard, at)
        self.store.prefetch(self.tars[shard], *(block if whole_block else (start, end)), block)

    def _ranges(self, shard: int, at: int) -> tuple[int, int, tuple[int, int]]:
        """Start and end of a sample in its tar, and those of its block, the one that order.py reads together."""
        offsets = _offsets(self.store, self.tars[shard], self.counts[shard])
        first = at - at % BLOCK
        last = min(first + BLOCK, self.counts[shard])
        return int(offsets[at]), int(offsets[at + 1]), (int(offsets[first]), int(offsets[last]))


@lru_cache(256)
def _offsets(store: Folder | Remote, tar: File, samples: int) -> np.ndarray:
    """The index of a tar, uint64 [samples + 1]. Raises OneRankError where it cannot be one."""
    store.check(tar)
    index = index_of(tar, samples)
    offsets = np.frombuffer(store.read(index, 0, index.size, (0, index.size)), dtype=INDEX_TYPE)
    if not is_index(offsets, samples, tar.size):
        raise OneRankError(f"{store.where(index.name)}: is not the index of its tar; make the shards again")
    return offsets


@lru_cache(256)
def _checksums(store: Folder | Remote, tar: File, samples: int) -> np.ndarray:
    """The crc32 of each image of a tar, uint32 [samples]."""
    file = checksums_of(tar, samples)
    return np.frombuffer(store.read(file, 0, file.size, (0, file.size)), dtype=CHECKSUM_TYPE)
