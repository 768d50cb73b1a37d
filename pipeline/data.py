"""From shards to batches: opening a data set, reading its images, and the stream of a rank.

Batches are integers [n, C, H, W] on the host (pixels.py); the trainer moves them to its device and scales them there.
"""

import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pipeline import order
from pipeline.cache import BlockCache
from pipeline.config import Images
from pipeline.errors import OneRankError, TransientError, UserError
from pipeline.interrupt import ignore_signals
from pipeline.manifest import check_files, checksums_of, index_of, read_manifest
from pipeline.order import AUGMENT, BLOCK, DOMAIN_A, DOMAIN_B, SUBSTITUTE, DomainOrder, Share, key
from pipeline.pixels import augment, decode
from pipeline.reader import Ahead, File, Folder
from pipeline.remote import Remote
from pipeline.split import CorruptSample, Split

AHEAD = 128  # pairs that a worker asks for before it reads them
MESSAGE = 8  # pairs that a worker sends at once, or a micro-step if that has more
SUBSTITUTES = 8  # samples that may stand in for one that cannot be read, tried in turn


@dataclass(frozen=True)
class Shards:
    """A data set that data_prep/shard.py made. test_a and test_b are None where it has no test images."""

    root: str
    fingerprint: str
    modes: dict[str, str]  # of domains "a" and "b"
    files: list[File]
    train_a: Split
    train_b: Split
    test_a: Split | None
    test_b: Split | None

    @property
    def epoch(self) -> int:
        """pairs per epoch"""
        return max(len(self.train_a), len(self.train_b))

    @property
    def needs_cached(self) -> int:
        """Bytes of the training images that are read in no order of blocks, so that a cache should hold them all."""
        small = [split for split in (self.train_a, self.train_b) if len(split) < order.WHOLE_PERMUTATION_BELOW]
        return sum(tar.size for split in small for tar in split.tars)

    def check(self) -> None:
        """Hold every file against the manifest, by its size. Raises UserError in one line."""
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
    return Shards(str(data), manifest.fingerprint, manifest.modes, files, splits["trainA"], splits["trainB"], *of_tests)


class PairPositions(IterableDataset):
    """First stage of the stream: the positions of micro-steps 0, 1, 2, ... without end, dealt to the loader's workers.

    `steps` micro-steps go in one message; worker i of n yields messages i, i + n, ...; the loader takes from its
    workers in turn, which restores the order.
    """

    def __init__(self, share: Share, start: int, steps: int):
        self.share, self.start, self.steps = share, start, steps

    def __iter__(self) -> Iterator[list[int]]:
        worker = get_worker_info()
        message, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            first = message * self.steps
            yield [at for step in range(self.steps) for at in self.share.positions(self.start, first + step)]
            message += stride


class ReadPairs:
    """Second stage: a message's positions to {"positions": [n], "a": [n, C, H, W], "b": the same, "failed": [...]}.

    failed: of each sample that could not be read, {"pair", "domain", "shard", "sample" (of the shard), "reason"}. What
    stands in for it depends on the position alone.
    """

    def __init__(self, shards: Shards, images: Images, seed: int, lanes: int):
        self.images, self.seed, self.lanes = images, seed, lanes
        self.splits = (("a", DOMAIN_A, shards.train_a), ("b", DOMAIN_B, shards.train_b))

    def __call__(self, stream: Iterator[list[int]]) -> Iterator[dict]:
        # Made here, in the worker: its caches and threads cannot be sent to a process that is spawned.
        orders = {name: DomainOrder(split.counts, self.seed, number, self.lanes) for name, number, split in self.splits}
        ahead = Ahead()
        try:
            for positions, samples in self._expected(stream, orders, ahead):
                batch = {"positions": positions, "failed": []}
                for name, number, split in self.splits:
                    images = []
                    for position, sample in zip(positions, samples[name], strict=True):
                        image, failed = self._image(split, number, position, sample)
                        bits = key(self.seed, number, AUGMENT, position)
                        images.append(augment(image, self.images.crop, self.images.mirrored(name), bits))
                        batch["failed"] += [{"pair": position, "domain": name, **entry} for entry in failed]
                    batch[name] = torch.stack(images)
                yield batch
        finally:
            ahead.close()

    def _expected(self, stream: Iterator[list[int]], orders: dict[str, DomainOrder], ahead: Ahead) -> Iterator[tuple]:
        """Positions and their samples by domain, with those of the next AHEAD pairs already asked for."""
        coming = deque()
        for positions in stream:
            samples = {name: [order(position)[1] for position in positions] for name, order in orders.items()}
            for name, _, split in self.splits:
                blocked = orders[name].blocked
                for sample in samples[name]:
                    shard, at = split.place(sample)
                    ahead((name, shard, at // BLOCK if blocked else at), partial(split.expect, sample, blocked))
            coming.append((positions, samples))
            if (len(coming) - 1) * len(positions) >= AHEAD:
                yield coming.popleft()
        yield from coming

    def _image(self, split: Split, number: int, position: int, sample: int) -> tuple[Tensor, list[dict]]:
        others = (key(self.seed, number, SUBSTITUTE, position, attempt) % len(split) for attempt in range(SUBSTITUTES))
        return first_readable(split, chain([sample], others), self.images.load)


def first_readable(split: Split, samples: Iterable[int], size: tuple[int, int]) -> tuple[Tensor, list[dict]]:
    """The first of some samples that can be read, [C, *size], and what was wrong with those before it.

    Raises OneRankError where none can.
    """
    failed = []
    for sample in samples:
        try:
            return _decoded(split.read(sample), size, split.mode), failed
        except CorruptSample as error:
            shard, at = split.place(sample)
            failed.append({"shard": split.tars[shard].name, "sample": at, "reason": str(error)})
    raise OneRankError(
        f"{split.name}: none of {len(failed)} samples can be read, the first of them sample {failed[0]['sample']} of "
        f"{failed[0]['shard']} ({failed[0]['reason']}); copy the shards again, or make them again"
    )


def _decoded(data: bytes, size: tuple[int, int], mode: str) -> Tensor:
    try:
        return decode(data, size, mode)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        reason = " ".join(str(error).partition(" <_io")[0].split())[:200]  # without the address of a buffer
        raise CorruptSample(f"{type(error).__name__}: {reason}") from None


def pair_batches(
    shards: Shards, images: Images, share: Share, *, seed: int, lanes: int, start: int, workers: int, pin: bool
) -> Iterator[dict]:
    """The endless micro-batches of one rank from position `start` on, read ahead by `workers` processes."""
    # Taking a message over keeps the training process busy for milliseconds, however little is in it.
    steps = max(1, MESSAGE // share.each) if workers else 1
    pipeline = wds.DataPipeline(PairPositions(share, start, steps), ReadPairs(shards, images, seed, lanes))
    ahead = {"prefetch_factor": 3, "persistent_workers": True, "worker_init_fn": ignore_signals} if workers else {}
    try:
        for message in wds.WebLoader(pipeline, batch_size=None, num_workers=workers, pin_memory=pin, **ahead):
            yield from micro_batches(message, share.each)
    except OneRankError as error:
        # From a worker process the message comes wrapped in its traceback; the last line is ours.
        kind = TransientError if isinstance(error, TransientError) else OneRankError
        raise kind(re.sub(r"^pipeline\.\w+\.\w+: ", "", str(error).strip().splitlines()[-1])) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TransientError("a data worker was killed, perhaps for its memory; give fewer --workers") from None


def micro_batches(message: dict, each: int) -> Iterator[dict]:
    """What ReadPairs made of several micro-steps, one by one."""
    for first in range(0, len(message["positions"]), each):
        part = slice(first, first + each)
        positions = message["positions"][part]
        failed = [entry for entry in message["failed"] if entry["pair"] in positions]
        yield {"positions": positions, "failed": failed, "a": message["a"][part], "b": message["b"][part]}


def whole_images(split: Split, samples: Iterable[int], size: tuple[int, int]) -> Tensor:
    """Images of a split by their numbers, resized but not cropped: [n, C, *size].

    For one that cannot be read the next that can stands in, and says so on standard error.
    """
    images = []
    for sample in samples:
        image, failed = first_readable(split, ((sample + i) % len(split) for i in range(1 + SUBSTITUTES)), size)
        for entry in failed:
            _warn_once(f"{entry['shard']} sample {entry['sample']} cannot be read ({entry['reason']})")
        images.append(image)
    return torch.stack(images)


@cache
def _warn_once(what: str) -> None:
    print(f"warning: {what}; the next one stands in for it in evaluations and sample grids", file=sys.stderr)
