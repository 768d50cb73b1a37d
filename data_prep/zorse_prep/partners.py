"""Partners: test images of the two domains that show the same thing, told by their names.

Training is unpaired; where the truth is known for test images, evaluation can hold translations against it.
"""

import re
from pathlib import Path

from zorse_prep.plan import Plan, Shard, planned_items
from zorse_prep.records import ShardRecord

TESTS = ("testA", "testB")


def find_partners(out: Path, plan: Plan, records: dict[Shard, ShardRecord]) -> list[list[int]]:
    """[sample of testA, sample of testB] of each two images of one name, in the order of the former; of volumes, which
    must be cut along one axis into equally many, of each two slices.

    A name is an image's path in its split without its ending: x/1.png is the partner of x/1.jpg. One that several
    images of a split have is nobody's. Neither is one without a letter, since most folders count their images from 1,
    unless the user says that the test images are paired.
    """
    if not all(split in plan.splits for split in TESTS):
        return []
    a, b = (_samples_by_name(out, plan, records, split) for split in TESTS)
    one_axis = len({policy and policy.axis for policy in map(plan.policy.arrays, TESTS)}) == 1
    found = []
    for name, (those, ending) in a.items():
        others, other_ending = b.get(name, (range(0), ""))
        # Equal volumes of one kind, cut along unlike axes, show other slices.
        if len(those) == len(others) and (len(those) == 1 or one_axis or ending != other_ending):
            found += [list(pair) for pair in zip(those, others, strict=True)]
    return found


def _samples_by_name(
    out: Path, plan: Plan, records: dict[Shard, ShardRecord], split: str
) -> dict[str, tuple[range, str]]:
    """The samples of each usable image of a split, as shards are read, with its ending, by name."""
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
                samples[name] = range(number, number + count), item.name[len(name) :].lower()
            number += count
    return {name: those for name, those in samples.items() if name not in repeated}
