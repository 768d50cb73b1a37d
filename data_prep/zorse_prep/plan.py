"""The plan: which image goes into which shard, fixed before any shard is written.

OUT/plan/SPLIT-PLAN.jsonl has a line for each image, in the order of the shards: name, size, sha256, and where its bytes
lie; PLAN are the first digits of plan_sha256. OUT/plan.json, written last, says which lines make which shard, so that a
writer reads its own lines and no others.
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from zorse.errors import UserError
from zorse.files import fsync, load_json, write_json
from zorse_prep.format import FORMAT, MANIFEST, OURS, PLAN, PLAN_DIGITS, SPLITS, VERSION, Mode
from zorse_prep.images import ImagePolicy
from zorse_prep.items import Item


@dataclass(frozen=True)
class Policy:
    """Every option which changes a byte of the shards."""

    max_side: int  # pixels
    min_side: int  # pixels
    shard_size: int  # samples; 0: a 64th of a split, within 64 and 10000
    keep_repeats: bool = False
    lossless: bool = False
    mode_a: Mode = "rgb"
    mode_b: Mode = "rgb"

    @property
    def images(self) -> ImagePolicy:
        return ImagePolicy(self.max_side, self.min_side, self.lossless)

    def mode(self, split: str) -> Mode:
        """Which pixels the images of a split have."""
        return self.mode_a if split.endswith("A") else self.mode_b


@dataclass(frozen=True)
class Shard:
    """A run of a split's planned images; image i of the shard has the key SPLIT-(first + i)."""

    name: str
    split: str
    first: int
    count: int
    offset: int  # bytes before its first line in `lines`

    @property
    def lines(self) -> str:
        """The file in OUT/plan that has its images."""
        return lines_of(self.split, self.name[-PLAN_DIGITS:])


def lines_of(split: str, plan_sha256: str) -> str:
    return f"{split}-{plan_sha256[:PLAN_DIGITS]}.jsonl"


@dataclass(frozen=True)
class Plan:
    """What plan.json holds. `plan_sha256` is a hash of the images' names, sizes and bytes, and for the policy."""

    name: str
    created: str  # UTC, ISO 8601
    plan_sha256: str
    listing_sha256: str  # of the source's listing and the policy: while it is the same, nothing is hashed again
    policy: Policy
    max_corrupt: float
    source: dict  # kind, uri, revision, root
    splits: dict[str, dict]  # found: images; planned: without repeats; bytes: of the planned; dropped: why, how many
    overlaps: dict[str, dict]  # see listing.Repeats
    shards: list[Shard]


def load_plan(out: Path) -> Plan:
    """The plan in `out`. Raises UserError where there is none."""
    path = out / PLAN
    if not path.exists():
        make = f"python data_prep/shard.py plan --source DIR --out {shlex.quote(str(out))}"
        raise UserError(f"{out} holds no plan; make it with: {make}")
    record = load_json(path)
    if record is None or record.get("format") != FORMAT:
        raise UserError(f"{path} is no plan that was made here; remove it, or give another --out")
    try:
        if (record.pop("format"), record.pop("version")) != (FORMAT, VERSION):
            raise TypeError
        shards = [Shard(**shard) for shard in record.pop("shards")]
        return Plan(policy=Policy(**record.pop("policy")), shards=shards, **record)
    except (KeyError, TypeError):
        raise UserError(
            f"{path} is of another version; add --restart to make all anew, or give another --out"
        ) from None


def planned_items(out: Path, shard: Shard) -> Iterator[Item]:
    """The images of a shard, in order."""
    path = out / "plan" / shard.lines
    try:
        with path.open("rb") as file:
            file.seek(shard.offset)
            for _ in range(shard.count):
                yield Item(split=shard.split, **json.loads(file.readline()))
    except (ValueError, TypeError):
        raise UserError(f"{path} is not what plan.json says; plan again and add --restart") from None


def commit(out: Path, plan: Plan, lines: Path | None, restart: bool) -> None:
    """Make a plan that of `out`, with the SPLIT.jsonl files in the folder `lines`, or those which `out` has.

    restart: the shards of whatever plan there was are removed.
    """
    if restart:
        remove_shards(out)
    for split in plan.splits if lines else ():
        (lines / f"{split}.jsonl").replace(out / "plan" / lines_of(split, plan.plan_sha256))
    fsync(out / "plan")
    write_json(out / PLAN, {"format": FORMAT, "version": VERSION, **asdict(plan)})


def remove_shards(out: Path) -> None:
    """Remove what this package wrote into `out`, and nothing else."""
    for name in (MANIFEST, PLAN, "quarantine.jsonl"):  # first: they never name a missing shard
        (out / name).unlink(missing_ok=True)
    for split in SPLITS:
        for path in (out / "plan").glob(lines_of(split, PLAN_DIGITS * "?")):
            path.unlink()
    for path in out.glob("*"):
        if OURS.fullmatch(path.name):
            path.unlink()
