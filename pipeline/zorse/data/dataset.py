"""A data set of shards: opening it, and reading whole images of it."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from zorse.data import order
from zorse.data.block_cache import BlockCache
from zorse.data.local import File, Folder
from zorse.data.manifest import check_files, checksums_of, index_of, read_manifest
from zorse.data.pixels import decode
from zorse.data.remote import Remote
from zorse.data.samples import CorruptSample, Split
from zorse.errors import OneRankError, UserError
from zorse_prep.format import Mode

log = logging.getLogger(__name__)

SUBSTITUTES = 8  # samples that may stand in for one that cannot be read, tried in turn


@dataclass(frozen=True)
class Shards:
    """A data set that data_prep/shard.py made. test_a and test_b are None where it has no test images."""

    root: str
    fingerprint: str
    modes: dict[str, Mode]  # of domains "a" and "b"
    means: dict[str, list[float]]  # of their training images, for each channel, in [-1, 1]
    files: list[File]
    train_a: Split
    train_b: Split
    test_a: Split | None
    test_b: Split | None
    partners: list[tuple[int, int]]  # images of test_a and test_b that show the same, by their numbers

    @property
    def epoch(self) -> int:
        """Pairs per epoch."""
        return max(len(self.train_a), len(self.train_b))

    @property
    def needs_cached(self) -> int:
        """Bytes of the training images that are read in no order of blocks, so that a cache should hold them all."""
        small = [split for split in (self.train_a, self.train_b) if len(split) < order.WHOLE_PERMUTATION_BELOW]
        return sum(tar.size for split in small for tar in split.tars)

    def check(self) -> None:
        """Check the size of every file against the manifest. Raises UserError in one line."""
        check_files(self.train_a.store, self.files)


def open_shards(
    data: str | Path, *, verify: bool = False, cache: BlockCache | None = None, timeout: float = 60.0
) -> Shards:
    """Read the manifest of a folder or a URL. Raises UserError in one line.

    verify: hold images against their checksums. cache, timeout: of a URL; seconds that an attempt may take.
    """
    remote = isinstance(data, str) and "://" in data
    store = Remote(data, cache or BlockCache(), timeout) if remote else Folder(Path(data))
    manifest = read_manifest(store)
    if remote:
        store = replace(store, generation=manifest.fingerprint)
    files = []
    for shards in manifest.splits.values():
        for tar, count in shards:
            files += [tar, index_of(tar, count), checksums_of(tar, count)]
    splits = {
        name: Split(name, store, shards, manifest.modes[name[-1].lower()], verify)
        for name, shards in manifest.splits.items()
        if shards
    }
    for name in ("trainA", "trainB"):
        if name not in splits:
            raise UserError(f"{data}: {name} has no images; both domains need at least one")
    of_tests = splits.get("testA"), splits.get("testB")
    return Shards(
        str(data),
        manifest.fingerprint,
        manifest.modes,
        manifest.means,
        files,
        splits["trainA"],
        splits["trainB"],
        *of_tests,
        manifest.partners,
    )


def first_readable(split: Split, samples: Iterable[int], size: tuple[int, int]) -> tuple[Tensor, list[dict]]:
    """The first of some samples that can be read, [C, *size], and what was wrong with those before it.

    Raises OneRankError where none can.
    """
    failed = []
    for sample in samples:
        try:
            return _decoded(split.read(sample), size, split.mode), failed
        except CorruptSample as error:
            shard, at = split.locate(sample)
            failed.append({"shard": split.tars[shard].name, "sample": at, "reason": str(error)})
    raise OneRankError(
        f"{split.name}: none of {len(failed)} samples can be read, the first of them sample {failed[0]['sample']} of "
        f"{failed[0]['shard']} ({failed[0]['reason']}); copy the shards again, or make them again"
    )


def _decoded(data: bytes, size: tuple[int, int], mode: Mode) -> Tensor:
    try:
        return decode(data, size, mode)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        reason = " ".join(str(error).partition(" <_io")[0].split())[:200]  # without the address of a buffer
        raise CorruptSample(f"{type(error).__name__}: {reason}") from None


def whole_images(split: Split, samples: Iterable[int], size: tuple[int, int]) -> Tensor:
    """Images of a split by their numbers, resized but not cropped: [n, C, *size].

    An unreadable image is replaced by the next readable one, with a warning on standard error.
    """
    return numbered_images(split, samples, size)[0]


def numbered_images(split: Split, samples: Iterable[int], size: tuple[int, int]) -> tuple[Tensor, list[int]]:
    """The same, and the numbers of the images that they are."""
    images, numbers = [], []
    for sample in samples:
        image, failed = first_readable(split, ((sample + i) % len(split) for i in range(1 + SUBSTITUTES)), size)
        for entry in failed:
            _warn_once(f"{entry['shard']} sample {entry['sample']} cannot be read ({entry['reason']})")
        images.append(image)
        numbers.append((sample + len(failed)) % len(split))
    return torch.stack(images), numbers


@cache
def _warn_once(what: str) -> None:
    log.warning(f"warning: {what}; replaced by the next one in evaluations and sample grids")
