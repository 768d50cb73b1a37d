"""The image history: the paper's buffer for one slot, and the same whatever the split of the slots."""

import torch

from zorse.cyclegan.image_pool import ImagePool
from zorse.data.order import RankSlice
from zorse.keyed_random import HISTORY, key


def images(positions):
    """1x1 pictures that say from which position they come."""
    return torch.tensor(positions, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)


def replay(world_size, accumulate, batch, steps, size=3, start=0, histories=None):
    """What the discriminator is shown for positions 0, 1, 2, ... by all ranks together."""
    shown = {}
    shares = [RankSlice(rank, world_size, accumulate, batch) for rank in range(world_size)]
    histories = histories or [ImagePool(share.slots, size, (1, 1), domain=1, seed=9) for share in shares]
    for step in range(start, start + steps):
        for share, history in zip(shares, histories, strict=True):
            for micro_step in range(accumulate):
                positions = share.positions(step * batch, micro_step)
                plan = history.plan(share.positions(0, micro_step), positions)
                out = history.exchange(images(positions), plan)
                shown.update(zip(positions, out[:, 0, 0, 0].tolist(), strict=True))
    return [shown[position] for position in sorted(shown)], histories


def test_one_slot_is_the_papers_buffer():
    shown, _ = replay(1, 1, batch=1, steps=200)
    buffer, expected = [], []
    for position in range(200):
        bits = key(9, 1, HISTORY, position)
        if len(buffer) < 3:
            buffer.append(position)
            expected.append(position)
        elif bits & 1:
            place = (bits >> 1) % 3
            expected.append(buffer[place])
            buffer[place] = position
        else:
            expected.append(position)
    assert shown == expected
    used = sum(a != b for a, b in enumerate(shown))
    assert 60 < used < 140  # about half of the time


def test_any_split_of_the_slots_gives_the_same_images():
    whole, _ = replay(1, 1, batch=12, steps=30)
    for world_size, accumulate in ((2, 1), (1, 3), (3, 2), (12, 1)):
        assert replay(world_size, accumulate, batch=12, steps=30)[0] == whole


def test_state_moves_to_another_world_size():
    whole, _ = replay(1, 1, batch=6, steps=20)
    first, histories = replay(2, 1, batch=6, steps=9)
    stored = {slot: kept for history in histories for slot, kept in history.state().items()}
    moved = [ImagePool(RankSlice(rank, 3, 1, 6).slots, 3, (1, 1), domain=1, seed=9) for rank in range(3)]
    for history in moved:
        for slot in history.slots:
            history.load(slot, stored[slot])
    rest, _ = replay(3, 1, batch=6, steps=11, start=9, histories=moved)
    assert first + rest == whole


def test_no_history():
    shown, histories = replay(1, 1, batch=4, steps=3, size=0)
    assert shown == list(range(12))
    assert histories[0].images.numel() == 0
