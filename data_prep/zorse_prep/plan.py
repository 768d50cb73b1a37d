"""The plan: which image goes into which shard, fixed before any shard is written.

OUT/plan/SPLIT-PLAN.jsonl has a line for each image, in the order of the shards: name, size, sha256, and where its bytes
lie; PLAN are the first digits of plan_sha256. OUT/plan.json, written last, says which lines make which shard, so that a
writer reads its own lines and no others.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from zorse.errors import UserError
from zorse.files import fsync, write_json
from zorse.invocation import command_line
from zorse.typed_json import Count, Mismatch, convert, parse, read
from zorse_prep.format import FORMAT, MANIFEST, OURS, PLAN, PLAN_DIGITS, SPLITS, VERSION, PixelMode
from zorse_prep.images import ImagePolicy
from zorse_prep.items import Item
from zorse_prep.ranges import ArrayPolicy
from zorse_prep.records import Overlap, check_overlaps


@dataclass(frozen=True)
class Policy:
    """Every option which changes a byte of the shards."""

    max_side: int  # pixels
    min_side: int  # pixels
    shard_size: int  # samples; 0: a 64th of a split, within 64 and 10000
    keep_repeats: bool = False
    lossless: bool = False
    mode_a: PixelMode = "rgb"
    mode_b: PixelMode = "rgb"
    arrays_a: ArrayPolicy | None = None  # then the mode plays no part
    arrays_b: ArrayPolicy | None = None

    @property
    def images(self) -> ImagePolicy:
        return ImagePolicy(self.max_side, self.min_side, self.lossless)

    def mode(self, split: str) -> PixelMode:
        """Which pixels the images of a split have, unless they are arrays."""
        return self.mode_a if split.endswith("A") else self.mode_b

    def arrays(self, split: str) -> ArrayPolicy | None:
        """How the images of a split become arrays; None where they are stored as photographs."""
        return self.arrays_a if split.endswith("A") else self.arrays_b

    def record(self) -> dict:
        """What JSON says of it. A domain without arrays is left out, as before there were any."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Shard:
    """A run of a split's planned images; image i of the shard has the key SPLIT-(first + i)."""

    name: str
    split: str
    first: Count
    count: Count
    offset: Count  # bytes before its first line in `lines`

    @property
    def lines(self) -> str:
        """The file in OUT/plan that has its images."""
        return lines_of(self.split, self.name[-PLAN_DIGITS:])


def lines_of(split: str, plan_sha256: str) -> str:
    return f"{split}-{plan_sha256[:PLAN_DIGITS]}.jsonl"


class PlannedSplit(TypedDict):
    """found: images; planned: without repeats; bytes: of the planned; dropped: why, how many."""

    found: Count
    planned: Count
    bytes: Count
    dropped: dict[str, Count]


class Planned(TypedDict):
    """The source of a plan. root: what the places of its images are relative to."""

    kind: str
    uri: str
    revision: str | None
    root: str


@dataclass(frozen=True)
class Plan:
    """What plan.json holds. `plan_sha256` is a hash of the images' names, sizes and bytes, and for the policy."""

    name: str
    created: str  # UTC, ISO 8601
    plan_sha256: str
    listing_sha256: str  # of the source's listing and the policy: while it is the same, nothing is hashed again
    policy: Policy
    max_corrupt: float
    source: Planned
    splits: dict[str, PlannedSplit]
    overlaps: dict[str, Overlap]  # see listing.Repeats
    shards: list[Shard]
    paired_tests: bool = False  # see partners.py


def load_plan(out: Path) -> Plan:
    """The plan in `out`. Raises UserError where there is none."""
    path = out / PLAN
    if not path.exists():
        make = command_line("shard", "plan", "--source", "DIR", "--out", out)
        raise UserError(f"{out} holds no plan; make it with: {make}")
    fix = "remove it and plan again, or give another --out"
    record = read(path, dict, fix)
    if record.pop("format", None) != FORMAT:
        raise UserError(f"{path} is not a plan of shard.py; {fix}")
    if record.pop("version", None) != VERSION:
        raise UserError(f"{path} is of another version; add --restart to make all anew, or give another --out")
    try:
        plan = convert(record, Plan)
        check_overlaps(plan.overlaps)
        for number, shard in enumerate(plan.shards):
            if not OURS.fullmatch(f"{shard.name}.tar") or shard.split not in plan.splits:
                raise Mismatch(f"shards.{number} is no shard of these splits")
    except Mismatch as error:
        raise UserError(f"{path}: {error}; {fix}") from None
    return plan


def planned_items(out: Path, shard: Shard) -> Iterator[Item]:
    """The images of a shard, in order."""
    path = out / "plan" / shard.lines
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError
        with path.open("rb") as file:
            file.seek(shard.offset)
            for _ in range(shard.count):
                item = convert(convert(parse(file.readline()), dict[str, object]) | {"split": shard.split}, Item)
                if item.size < 0 or not _is_place(item.place):
                    raise ValueError
                yield item
    except (OSError, ValueError):
        raise UserError(f"{path} does not match plan.json; plan again and add --restart") from None


def _is_place(place: list | None) -> bool:
    """Whether a plan may say so where the bytes of an image lie, see Item."""
    if place is None:
        return True
    kind, *where = place or [None]
    types = {"tar": [int], "zip": [int], "cell": [str, int]}.get(kind) if isinstance(kind, str) else None
    return [type(part) for part in where] == types and all(part >= 0 for part in where if type(part) is int)


def commit(out: Path, plan: Plan, lines: Path | None, restart: bool) -> None:
    """Make a plan that of `out`, with the SPLIT.jsonl files in the folder `lines`, or those which `out` has.

    restart: the shards of whatever plan there was are removed.
    """
    if restart:
        remove_shards(out)
    for split in plan.splits if lines else ():
        (lines / f"{split}.jsonl").replace(out / "plan" / lines_of(split, plan.plan_sha256))
    fsync(out / "plan")
    record = {"format": FORMAT, "version": VERSION, **asdict(plan), "policy": plan.policy.record()}
    write_json(out / PLAN, record)


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
