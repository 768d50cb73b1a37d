"""Making the plan of a source: list it, hash it, drop duplicates, order what is left, and cut that into shards."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from zorse.errors import UserError
from zorse.files import fsync, held, load_json, remove_all_stale, remove_stale, temporary_for
from zorse_prep.format import FORMAT, MANIFEST, PLAN, VERSION, shard_name
from zorse_prep.images import POLICY, BadImage
from zorse_prep.items import LAYOUT, Item, Source, Unreadable, in_words
from zorse_prep.listing import BUCKETS, Hashed, Listing, Repeats, find_repeats, item_of, list_source
from zorse_prep.manifest import check_unusable
from zorse_prep.plan import Plan, Policy, Shard, commit, load_plan
from zorse_prep.ranges import array_totals, arrays_of
from zorse_prep.shards import prepare_samples
from zorse_prep.sources import read

LOOKED_AT = 4  # images of each domain of arrays, before anything is written
LEAKS = ("trainA/testA", "trainB/testB")
OTHER = "holds shards of other images or options; add --restart to replace them, or give another --out"


@dataclass(frozen=True)
class Choices:
    """How to plan, where that changes no shard."""

    max_corrupt: float  # share of unusable images above which nothing is finished
    threads: int  # for hashing
    refuse_leaks: bool = False  # images which are in train and test
    restart: bool = False  # replace what is there
    dry_run: bool = False  # write nothing
    paired_tests: bool = False  # test images of one name show the same, even if the name is a number


def make_plan(source: Source, policy: Policy, out: Path, choices: Choices) -> Plan:
    """Plan a source and commit the plan in `out`, unless it is there and the source unchanged. Raises UserError."""
    before = load_plan(out) if (out / PLAN).exists() and not choices.restart else None
    if before and before.policy != policy:
        raise UserError(f"{out} {OTHER}")
    with _work_folder(out, choices.dry_run) as work:
        listing = list_source(source, work)
        for split in ("trainA", "trainB"):
            if not listing.found.get(split):
                raise UserError(_without_images(source, split))
        sha256 = hashlib.sha256(json.dumps([_policy(policy), listing.sha256]).encode()).hexdigest()
        unchanged = before is not None and before.listing_sha256 == sha256
        if unchanged:
            plan = _renewed(before, source, choices)
        else:
            _check_array_options(source, policy, listing)
            plan = _drafted(source, policy, listing, sha256, work, work if choices.dry_run else out / "plan", choices)
            if before:
                plan = replace(plan, created=before.created)
            _refuse_other(out, plan, choices.restart)
        leaks = {pair: plan.overlaps[pair] for pair in LEAKS if pair in plan.overlaps}
        if leaks and choices.refuse_leaks:
            raise UserError(f"{'; '.join(shared_images(leaks))}; take them out of one, or go on with --leak warn")
        if plan != before and not choices.dry_run:
            commit(out, plan, None if unchanged else work, choices.restart)
    return plan


def _check_array_options(source: Source, policy: Policy, listing: Listing) -> None:
    """Raise UserError where some of a domain's images show that its options cannot hold; all are looked at in the end,
    but then the shards are made."""
    for split in ("trainA", "trainB"):
        if not (arrays := policy.arrays(split)):
            continue
        lines = (line for number in range(BUCKETS) for line in listing.lines(number))
        of_split = (item for item in map(item_of, lines) if item.split == split)
        numbers = []
        for item in islice(of_split, LOOKED_AT):
            with suppress(BadImage, Unreadable):
                numbers += [made.numbers for made in prepare_samples(read(source.root, item), policy, split)]
        if numbers:
            arrays_of(split[-1].lower(), [array_totals(numbers)], [array_totals(numbers)], arrays)


def _without_images(source: Source, split: str) -> str:
    """Why a split is empty, and what to do."""
    dropped = source.dropped.get(split, {})
    left_out = f" (left out: {in_words(dropped)})" if any(dropped.values()) else ""
    if source.kind == "folders":
        return f"--{split[-1].lower()}: the folder holds no images{left_out}; give a folder of images"
    fix = "unpack it with its password, and give the folder" if dropped.get("encrypted") else f"give {LAYOUT}"
    return f"{split} of {source.uri} holds no images{left_out}; {fix}"


def shared_images(overlaps: dict[str, dict]) -> list[str]:
    """Sentences about the images which splits share."""
    sentences = []
    for pair, shared in overlaps.items():
        a, b = pair.split("/")
        images = "1 image is" if shared["count"] == 1 else f"{shared['count']} images are"
        first, second = shared["names"][0]
        which = "" if shared["count"] == 1 else "first "
        sentences.append(f"{images} in both {a} and {b} ({which}{a}/{first} = {b}/{second})")
    return sentences


@contextmanager
def _work_folder(out: Path, dry_run: bool) -> Iterator[Path]:
    """A folder for what comes and goes, on the disk of `out`; afterwards `out` is there if something is in it."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="zorse-plan-") as folder:
            yield Path(folder)
        return
    existed = out.exists()
    (out / "plan").mkdir(parents=True, exist_ok=True)
    with held(out / "plan", f"{out} is being planned by another process; wait for it, or give another --out"):
        remove_stale(out / "plan" / "work")
        work = temporary_for(out / "plan" / "work")
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            with suppress(OSError):  # not empty
                (out / "plan").rmdir()
                if not existed:
                    out.rmdir()


def _renewed(before: Plan, source: Source, choices: Choices) -> Plan:
    """The plan of a source whose images are unchanged; it may have moved, or have other files beside them."""
    splits = {
        split: {**entry, "dropped": {**source.dropped[split], "repeat": entry["dropped"]["repeat"]}}
        for split, entry in before.splits.items()
    }
    changed = {"max_corrupt": choices.max_corrupt, "paired_tests": choices.paired_tests}
    return replace(before, source=_origin(source), splits=splits, **changed)


def _drafted(
    source: Source, policy: Policy, listing: Listing, listing_sha256: str, work: Path, cache: Path, choices: Choices
) -> Plan:
    """Draft the plan, with its SPLIT.jsonl files in `work`. cache: where hashes are kept until all are there."""
    # Hash every image, find duplicates by their hashes, and write down what is left in the order of the shards.
    found = {split: count for split, count in listing.found.items() if count or any(source.dropped[split].values())}
    with ThreadPoolExecutor(choices.threads) as threads:
        hashed = Hashed(listing, source.root, cache, threads)
        hashed.run()
        is_usable = partial(_is_usable, source.root, policy)
        repeats = find_repeats(hashed, list(found), policy.keep_repeats, work, is_usable)
        splits = {
            split: {
                "found": count,
                "planned": count - repeats.counts[split],
                "bytes": 0,
                "dropped": {**source.dropped[split], "repeat": repeats.counts[split]},
            }
            for split, count in found.items()
        }
        sha256, shards = _write_lines(hashed, repeats, policy, splits, work)
    # The hashes are in the plan now.
    remove_all_stale(cache, "*.sha256")
    for path in cache.glob("*.sha256"):
        path.unlink(missing_ok=True)
    return Plan(
        name=source.name,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        plan_sha256=sha256,
        listing_sha256=listing_sha256,
        policy=policy,
        max_corrupt=choices.max_corrupt,
        paired_tests=choices.paired_tests,
        source=_origin(source),
        splits=splits,
        overlaps=repeats.overlaps,
        shards=shards,
    )


def _is_usable(root: str, policy: Policy, item: Item) -> bool:
    """Whether the writer of the shards will take an image."""
    try:
        prepare_samples(read(root, item), policy, item.split)
    except (BadImage, Unreadable):
        return False
    return True


def _write_lines(
    hashed: Hashed, repeats: Repeats, policy: Policy, splits: dict[str, dict], work: Path
) -> tuple[str, list[Shard]]:
    """Write the SPLIT.jsonl files and sum up their bytes in `splits`; returns the plan's SHA-256 and its shards."""
    # A shard is a 64th of its split by default, so that work can be dealt out, but neither tiny nor huge.
    sizes = {
        split: policy.shard_size or min(max(-(-entry["planned"] // 64), 64), 10000) for split, entry in splits.items()
    }
    digests, counts = {split: hashlib.sha256() for split in splits}, dict.fromkeys(splits, 0)
    offsets = {split: [] for split in splits}
    # One bucket after the other is in memory; together they are in the shuffled order of the shards.
    with ExitStack() as stack:
        files = {split: stack.enter_context((work / f"{split}.jsonl").open("wb")) for split in splits}
        for number in range(BUCKETS):
            dropped = set(repeats.keys.lines(number))
            for key, item in hashed.items(number):
                if key in dropped:
                    continue
                split, file = item.split, files[item.split]
                if counts[split] % sizes[split] == 0:
                    offsets[split].append(file.tell())
                line = {name: getattr(item, name) for name in ("name", "size", "sha256", "path", "place")}
                file.write(json.dumps(line).encode() + b"\n")
                digests[split].update(json.dumps([item.name, item.size, item.sha256]).encode() + b"\n")
                counts[split] += 1
                splits[split]["bytes"] += item.size
    for split in files:
        fsync(work / f"{split}.jsonl")
    # The plan's hash covers images, order and policy, and is part of the shards' names.
    parts = [_policy(policy), {split: digest.hexdigest() for split, digest in digests.items()}]
    sha256 = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    shards = []
    for split, starts in offsets.items():
        for number, offset in enumerate(starts):
            first = number * sizes[split]
            count = min(sizes[split], counts[split] - first)
            shards.append(Shard(shard_name(split, number, sha256), split, first, count, offset))
    return sha256, shards


def _policy(policy: Policy) -> list:
    return [FORMAT, VERSION, POLICY, policy.record()]


def _origin(source: Source) -> dict:
    return {"kind": source.kind, "uri": source.uri, "revision": source.revision, "root": source.root}


def _refuse_other(out: Path, plan: Plan, restart: bool) -> None:
    """Raise UserError where `out` holds another plan that is not to be replaced, or what was not made here."""
    check_unusable(out)
    for name in (PLAN, MANIFEST):
        path = out / name
        found = (load_json(path) or {}) if path.exists() else None
        if found is not None and found.get("format") != FORMAT:
            raise UserError(f"{path} belongs to something else; move it away, or give another --out")
        if found is not None and not restart and found.get("plan_sha256") != plan.plan_sha256:
            raise UserError(f"{out} {OTHER}")
