"""Partners: test images of the two domains that show the same thing, told by their names.

Training is unpaired; where the truth is known for test images, evaluation can hold translations against it.
"""

from pathlib import Path, PurePosixPath

from zorse_prep.plan import Plan, Shard, planned_items
from zorse_prep.records import ShardRecord

TESTS = ("testA", "testB")


def find_partners(out: Path, plan: Plan, records: dict[Shard, ShardRecord]) -> list[list[int]]:
    """[sample of testA, sample of testB] of each two images of one name, in the order of the former.

    A name is an image's path in its split without its ending: x/1.png is the partner of x/1.jpg. One that several
    images of a split have is nobody's, and neither is one without a letter: most folders count their images from 1.
    """
    if not all(split in plan.splits for split in TESTS):
        return []
    a, b = (_samples_by_name(out, plan, records, split) for split in TESTS)
    return [[sample, b[name]] for name, sample in a.items() if name in b]


def _samples_by_name(out: Path, plan: Plan, records: dict[Shard, ShardRecord], split: str) -> dict[str, int]:
    """The number of each usable image of a split, as shards are read; of names that can tell partners."""
    samples, repeated, number = {}, set(), 0
    for shard in (shard for shard in plan.shards if shard.split == split):
        unusable = {bad["file"] for bad in records[shard]["quarantined"]}
        for item in planned_items(out, shard):
            if f"{split}/{item.name}" in unusable:
                continue
            name = str(PurePosixPath(item.name).with_suffix(""))
            if name in samples:
                repeated.add(name)
            if any(character.isalpha() for character in name):
                samples[name] = number
            number += 1
    return {name: sample for name, sample in samples.items() if name not in repeated}
