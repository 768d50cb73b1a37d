"""Holding out a share of the training images for testing, where a data set has no test images of its own.

Which ones is a function of their names. Where the share is more than FEWEST images, the choice stays as it is when
images are added, and images of both domains that have one name are held out together.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from zorse.errors import UserError
from zorse_prep.format import SPLITS
from zorse_prep.items import OF_NUMBERS, Item, Source, none_dropped

TEST_SHARE = 0.05
FEWEST = 8  # test images of a domain
SPACE = 2**64  # of the hashes
SALT = b"held out for testing\0"  # a user's images may themselves be chosen by a hash of their names


def hold_out(source: Source, share: float, domains: str = "ab") -> Source:
    """The source with a share of the training images of `domains` as test images.

    Of few images more are held out: FEWEST, or a quarter where that is less, and none where a quarter is less than the
    two that an evaluation needs. What was held out is counted in held_out while the items are listed, which raises
    UserError where a domain has test images already.
    """
    trains = {f"train{domain.upper()}" for domain in domains}
    dropped = {
        split: source.dropped.get(split) or none_dropped()
        for split in SPLITS
        if split in source.dropped or split.replace("test", "train") in trains
    }
    return replace(source, items=_items(source, share, trains), dropped=dropped)


def _items(source: Source, share: float, trains: set[str]) -> Iterator[Item]:
    # By split: how many images there are, and those of the lowest hashes, which wait for what the others come to.
    seen, waiting = Counter(), {split: {} for split in trains}
    for item in source.items:
        if item.split not in trains:
            if item.split.replace("test", "train") in trains:
                raise UserError(f"{item.split} holds images, so that none need be held out; leave out --test-share")
            yield item
            continue
        seen[item.split] += 1
        number, lowest = _number(item), waiting[item.split]
        if number < share * SPACE:
            yield _held_out(source, item)
            continue
        lowest.setdefault(number, []).append(item)
        if len(lowest) > FEWEST:
            yield from lowest.pop(max(lowest))
    for split, lowest in waiting.items():
        wanted = min(FEWEST, seen[split] // 4)
        for number in sorted(lowest):
            held_out = source.held_out[split.replace("train", "test")]
            if wanted > 1 and held_out < wanted and held_out + len(lowest[number]) < seen[split]:
                yield from (_held_out(source, item) for item in lowest[number])
            else:
                yield from lowest[number]


def _held_out(source: Source, item: Item) -> Item:
    split = item.split.replace("train", "test")
    source.held_out[split] += 1
    return replace(item, split=split)


def _number(item: Item) -> int:
    """A hash of the image's name; of volumes and slices in folders, of the first folder's, which may be a patient's."""
    folder, inside, _ = item.name.partition("/")
    group = folder if inside and item.name.lower().endswith(OF_NUMBERS) else item.name
    return int.from_bytes(hashlib.sha256(SALT + group.encode(errors="surrogateescape")).digest()[:8])
