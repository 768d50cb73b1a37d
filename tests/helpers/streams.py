"""Reading streams of pairs, and comparing them."""

import torch

from zorse.config.schema import Images
from zorse.data.loader import pair_batches
from zorse.data.order import RankSlice

IMAGES = Images(load_size=36, crop_size=32)


def stream(shards, positions, *, images=IMAGES, world_size=1, accumulate=1, batch=1, workers=0, start=0):
    """{position: (a, b)} of the first `positions` positions from `start`, read by all ranks."""
    seen = {}
    for rank in range(world_size):
        share = RankSlice(rank, world_size, accumulate, batch)
        batches = pair_batches(shards, images, share, seed=1, lanes=batch, start=start, workers=workers, pin=False)
        for _ in range(-(-positions // batch) * accumulate):
            pairs = next(batches)
            assert pairs["a"].dtype == pairs["b"].dtype == torch.uint8
            for i, position in enumerate(pairs["positions"]):
                assert position not in seen
                seen[position] = (pairs["a"][i], pairs["b"][i])
        batches.close()
    return seen


def assert_same(one, other):
    assert sorted(one) == sorted(other)
    for position, (a, b) in one.items():
        assert torch.equal(a, other[position][0]) and torch.equal(b, other[position][1])
