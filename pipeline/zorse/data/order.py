"""The order of a run as pure functions of (seed, what, position): no generator state, no counters, no rank.

Position g = 0, 1, 2, ... counts the pairs of a run; the pair at g is sample `A(g)` beside sample `B(g)`. Each domain
is an infinite stream of passes over its N samples, and each pass is a new permutation. Small domains are permuted
outright. Large ones (N >= 2^17) are permuted by blocks of neighbouring samples, dealt to lanes and shuffled within
windows of a lane, so that 10^8 samples need megabytes and a rank reads a few blocks at a time.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from zorse.keyed_random import BLOCKS, WINDOW, key, permutation

VERSION = "splitmix64-1"  # recorded in checkpoints: another order function must get another name

WHOLE_PERMUTATION_BELOW = 1 << 17
BLOCK = 256  # samples read together
WINDOW_ROWS = 4096  # samples of one lane shuffled together


class DomainOrder:
    """Which sample of one domain is at a position.

    counts: samples per shard; `lanes`: the global batch, so that a slot of the batch always reads the same lane.
    """

    def __init__(self, counts: list[int], seed: int, domain: int, lanes: int):
        self.samples = sum(counts)
        if self.samples == 0:
            raise ValueError("a domain needs at least one sample")
        self.seed, self.domain = seed, domain
        self.blocked = self.samples >= WHOLE_PERMUTATION_BELOW
        block = BLOCK if self.blocked else 1
        self.lanes = min(lanes, self.samples)
        shard_starts = np.concatenate([[0], np.cumsum(counts)])
        # Blocks never cross the border of a shard.
        self.block_starts = np.concatenate([np.arange(first, end, block) for first, end in pairwise(shard_starts)])
        self.block_sizes = np.diff(np.append(self.block_starts, self.samples))
        self._pass = lru_cache(2)(self._make_pass)
        self._window = lru_cache(1024)(self._make_window)

    def _make_pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of a pass in their order, and where each ends when they are laid end to end."""
        blocks = permutation(len(self.block_starts), key(self.seed, self.domain, BLOCKS, number))
        return blocks, np.cumsum(self.block_sizes[blocks])

    def _make_window(self, number: int, lane: int, window: int, rows: int) -> np.ndarray:
        return permutation(rows, key(self.seed, self.domain, WINDOW, number, lane, window))

    def __call__(self, position: int) -> tuple[int, int]:
        """(pass, sample) at a position >= 0; sample counts through the shards in their order."""
        number, place = divmod(position, self.samples)
        if self.blocked:
            place = self._shuffled_in_lane(number, place)
        blocks, ends = self._pass(number)
        at = int(np.searchsorted(ends, place, side="right"))
        block = blocks[at]
        return number, int(self.block_starts[block] + place - (ends[at] - self.block_sizes[block]))

    def _shuffled_in_lane(self, number: int, place: int) -> int:
        row, lane = divmod(place, self.lanes)
        share, extra = divmod(self.samples, self.lanes)  # lanes differ by one sample at most
        first = lane * share + min(lane, extra)
        rows = share + (lane < extra)
        window = row // WINDOW_ROWS
        start = window * WINDOW_ROWS
        shuffled = self._window(number, lane, window, min(WINDOW_ROWS, rows - start))
        return first + start + int(shuffled[row - start])


@dataclass(frozen=True)
class RankSlice:
    """Which part of every global batch a rank takes, and when.

    A step takes `batch` positions in `accum_steps` micro-batches; each of them takes the next batch / accum_steps
    positions, and rank r of world_size the r-th of as many equal parts. A slot is a place in the global batch.
    """

    rank: int
    world_size: int
    accum_steps: int
    batch: int

    @property
    def micro_batch_size(self) -> int:
        """Pairs per rank and micro-batch."""
        return self.batch // (self.world_size * self.accum_steps)

    @property
    def slots(self) -> list[int]:
        """The slots that this rank owns, in the order in which it meets them."""
        return [slot for micro_step in range(self.accum_steps) for slot in self.positions(0, micro_step)]

    def positions(self, start: int, micro_step: int) -> list[int]:
        """The positions of this rank's micro-batch number `micro_step`, counted from position `start` on."""
        first = start + (micro_step * self.world_size + self.rank) * self.micro_batch_size
        return list(range(first, first + self.micro_batch_size))
