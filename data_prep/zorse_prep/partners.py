"""Partners: test images of the two domains that show the same thing, told by their names.

Training is unpaired; where the truth is known for test images, evaluation can hold translations against it.
"""

import re
from itertools import chain
from pathlib import Path

from zorse_prep.plan import Plan, Shard, planned_items
from zorse_prep.records import ShardRecord

TESTS = ("testA", "testB")


def find_partners(out: Path, plan: Plan, records: dict[Shard, ShardRecord]) -> list[list[int]]:
    """[sample of testA, sample of testB] of each two images of one name, in the order of the former; of volumes, which
    then have equally many, of each two slices.

    A name is an image's path in its split without its ending: x/1.png is the partner of x/1.jpg. One that several
    images of a split have is nobody's. Neither is one without a letter, since most folders count their images from 1,
    unless the user says that the test images are paired.
    """
    if not all(split in plan.splits for split in TESTS):
        return []
    a, b = (_samples_by_name(out, plan, records, split) for split in TESTS)
    alike = [(samples, b[name]) for name, samples in a.items() if name in b and len(samples) == len(b[name])]
    return [list(pair) for pair in chain.from_iterable(zip(*both, strict=True) for both in alike)]


def _samples_by_name(out: Path, plan: Plan, records: dict[Shard, ShardRecord], split: str) -> dict[str, range]:
    """The samples of each usable image of a split, as shards are read; of names that can tell partners."""
    samples, repeated, number = {}, set(), 0
    for shard in (shard for shard in plan.shards if shard.split == split):
        unusable = {bad["file"] for bad in records[shard]["quarantined"]}
        slices = iter(records[shard].get("slices", ()))
        for item in planned_items(out, shard):
            if f"{split}/{item.name}" in unusable:
                continue
            name, count = re.sub(r"(\.nii\.gz|\.[^./]*)$", "", item.name, flags=re.IGNORECASE), next(slices, 1)
            if name in samples:
                repeated.add(name)
            if plan.paired_tests or any(character.isalpha() for character in name):
                samples[name] = range(number, number + count)
            number += count
    return {name: those for name, those in samples.items() if name not in repeated}
