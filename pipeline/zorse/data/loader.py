"""The endless stream of a rank's batches, read and decoded by worker processes.

Batches are integers [n, C, H, W] on the host (pixels.py); the trainer moves them to its device and scales them there.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from zorse.config.schema import Images
from zorse.data.dataset import SUBSTITUTES, Shards, first_readable
from zorse.data.order import BLOCK, DomainOrder, RankSlice
from zorse.data.pixels import augment
from zorse.data.prefetch import Prefetcher
from zorse.data.samples import Split
from zorse.data.workers import SHARED_MEMORY, as_sent, end_workers, forget_unmade, handed_over, workers_explained
from zorse.errors import OneRankError, TransientError
from zorse.keyed_random import AUGMENT, DOMAIN_A, DOMAIN_B, SUBSTITUTE, key
from zorse.processes import become_data_worker

AHEAD = 128  # pairs that a worker requests before it reads them
MESSAGE = 8  # pairs that a worker sends at once, or a micro-batch if that has more


class PairPositions(IterableDataset):
    """First stage: the positions of micro-batches 0, 1, 2, ... without end, dealt to the loader's workers.

    `steps` micro-batches go in one message; worker i of n yields messages i, i + n, ...; the loader takes from its
    workers in turn, which restores the order.
    """

    def __init__(self, rank_slice: RankSlice, start: int, steps: int):
        self.rank_slice, self.start, self.steps = rank_slice, start, steps

    def __iter__(self) -> Iterator[list[int]]:
        worker = get_worker_info()
        message, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            first = message * self.steps
            yield [at for step in range(self.steps) for at in self.rank_slice.positions(self.start, first + step)]
            message += stride


class ReadPairs:
    """Second stage: read a message as {"positions": [n], "a": [n, C, H, W], "b": the same, "failed": [...]}.

    failed: for each unreadable sample, {"pair", "domain", "shard", "sample" (of the shard), "reason"}. What
    replaces it depends on the position alone. A worker sends arrays instead of tensors where shared memory is full.
    """

    def __init__(self, shards: Shards, images: Images, seed: int, lanes: int):
        self.images, self.seed, self.lanes = images, seed, lanes
        self.splits = (("a", DOMAIN_A, shards.train_a), ("b", DOMAIN_B, shards.train_b))

    def __call__(self, stream: Iterator[list[int]]) -> Iterator[dict]:
        # Made here, in the worker: its caches and threads cannot be sent to a process that is spawned.
        orders = {name: DomainOrder(split.counts, self.seed, number, self.lanes) for name, number, split in self.splits}
        ahead = Prefetcher()
        try:
            for positions, samples in self._prefetched(stream, orders, ahead):
                batch = {"positions": positions, "failed": []}
                for name, number, split in self.splits:
                    images, options = [], self.images
                    how = {"flip_vertical": options.flips_vertical(name), "rotate90": options.rotates90(name)}
                    for position, sample in zip(positions, samples[name], strict=True):
                        image, failed = self._image(split, number, position, sample)
                        bits = key(self.seed, number, AUGMENT, position)
                        images.append(augment(image, options.crop, options.flips(name), bits, **how))
                        batch["failed"] += [{"pair": position, "domain": name, **entry} for entry in failed]
                    batch[name] = torch.stack(images)
                yield handed_over(batch) if get_worker_info() else batch
        finally:
            ahead.close()

    def _prefetched(
        self, stream: Iterator[list[int]], orders: dict[str, DomainOrder], ahead: Prefetcher
    ) -> Iterator[tuple]:
        """Yield positions and their samples by domain, with those of the next AHEAD pairs already requested."""
        coming = deque()
        for positions in stream:
            samples = {name: [order(position)[1] for position in positions] for name, order in orders.items()}
            for name, _, split in self.splits:
                blocked = orders[name].blocked
                for sample in samples[name]:
                    shard, at = split.locate(sample)
                    ahead((name, shard, at // BLOCK if blocked else at), partial(split.prefetch, sample, blocked))
            coming.append((positions, samples))
            if (len(coming) - 1) * len(positions) >= AHEAD:
                yield coming.popleft()
        yield from coming

    def _image(self, split: Split, number: int, position: int, sample: int) -> tuple[Tensor, list[dict]]:
        others = (key(self.seed, number, SUBSTITUTE, position, attempt) % len(split) for attempt in range(SUBSTITUTES))
        return first_readable(split, chain([sample], others), self.images.load)


def pair_batches(
    shards: Shards,
    images: Images,
    rank_slice: RankSlice,
    *,
    seed: int,
    lanes: int,
    start: int,
    workers: int,
    pin: bool,
    warn: Callable[[str], None] = print,
) -> Iterator[dict]:
    """The endless micro-batches of one rank from position `start` on, read ahead by `workers` processes.

    Whoever reads it closes it, which ends the workers. warn: is told once where shared memory is too small for them.
    Raises OneRankError for data that cannot be read, and workers that cannot be started, TransientError for one that
    was killed.
    """
    # Taking a message over keeps the training process busy for milliseconds, however little is in it.
    steps = max(1, MESSAGE // rank_slice.micro_batch_size) if workers else 1
    pipeline = wds.DataPipeline(PairPositions(rank_slice, start, steps), ReadPairs(shards, images, seed, lanes))
    # Without a collate_fn, the loader would make tensors of arrays again.
    how = {"batch_size": None, "collate_fn": as_sent, "num_workers": workers, "pin_memory": pin}
    if workers:
        how |= {"prefetch_factor": 3, "persistent_workers": True, "worker_init_fn": become_data_worker}
    try:
        messages = iter(DataLoader(pipeline, **how))
    except OSError as error:  # of shared memory, which holds the workers' locks, too, or of a new process
        forget_unmade(error)
        reason = f"--workers {workers}: cannot be started ({error.strerror})"
        raise OneRankError(f"{reason}; if shared memory is full, {SHARED_MEMORY}, or give fewer --workers") from None
    warned = False
    try:
        with workers_explained():
            for number, message in enumerate(messages):
                expected = [at for step in range(steps) for at in rank_slice.positions(start, number * steps + step)]
                if message["positions"] != expected:
                    raise TransientError(f"the data workers lost the pairs from position {expected[0]} on")
                if workers and not isinstance(message["a"], Tensor):
                    message |= {name: torch.from_numpy(message[name]) for name in ("a", "b")}
                    if not warned:
                        warn(
                            f"warning: shared memory (/dev/shm) is too small for --workers {workers}, so images go "
                            f"through pipes, which is slower; {SHARED_MEMORY}, or give fewer --workers"
                        )
                    warned = True
                yield from micro_batches(message, rank_slice.micro_batch_size)
    except OneRankError as error:
        # From a worker process the message comes wrapped in its traceback; the last line is ours.
        kind = TransientError if isinstance(error, TransientError) else OneRankError
        raise kind(re.sub(r"^zorse(\.\w+)+: ", "", str(error).strip().splitlines()[-1])) from None
    finally:
        if workers:
            end_workers(messages)


def micro_batches(message: dict, each: int) -> Iterator[dict]:
    """Split a message of ReadPairs into its micro-batches."""
    for first in range(0, len(message["positions"]), each):
        part = slice(first, first + each)
        positions = message["positions"][part]
        failed = [entry for entry in message["failed"] if entry["pair"] in positions]
        yield {"positions": positions, "failed": failed, "a": message["a"][part], "b": message["b"][part]}
