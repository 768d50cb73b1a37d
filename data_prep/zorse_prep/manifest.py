"""The manifest: what a data set's shards hold, written last of all. A folder without it is not finished."""

import hashlib
import json
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zorse.errors import TooManyCorrupt, UserError
from zorse.files import remove_all_stale, replacing, write_json
from zorse.invocation import command_line
from zorse.version import __version__
from zorse_prep.format import FORMAT, MANIFEST, PLAN, SPLITS, VERSION, Arrays, Mode, full_level
from zorse_prep.images import POLICY
from zorse_prep.partners import find_partners
from zorse_prep.plan import Plan
from zorse_prep.ranges import arrays_of, statistics_of
from zorse_prep.shards import committed

QUARANTINE = "quarantine.jsonl"  # a line for each unusable image
# Packages that have a say in the bytes of shards, and in those of arrays.
DECIDING, DECIDING_ARRAYS = ("pillow", "tifffile", "imagecodecs", "webdataset"), ("nibabel", "pydicom", "SimpleITK")
FIRST = 100  # unusable images which the manifest itself lists, per split


def finalize(out: Path, plan: Plan) -> dict:
    """Write and return manifest.json from the committed shards. Raises UserError, TooManyCorrupt."""
    # Only a complete set of shards makes a data set.
    found = {shard: committed(out, plan, shard) for shard in plan.shards}
    if missing := [shard.name for shard, record in found.items() if record is None]:
        raise UserError(
            f"{len(missing)} of {len(plan.shards)} shards are missing or broken, first {missing[0]}; "
            f"make them with: {command_line('shard', 'write', out)}"
        )
    records = {split: [found[shard] for shard in plan.shards if shard.split == split] for split in plan.splits}
    # Sum the shards up by split, and refuse too many unusable images.
    modes, splits = {domain: _mode(plan, records, domain) for domain in ("a", "b")}, {}
    for split, of_split in records.items():
        planned, mode = plan.splits[split], modes[split[-1].lower()]
        entry = split_entry(of_split, mode)
        splits[split] = {"found": planned["found"], **entry, "dropped": planned["dropped"]}
        if more := entry["samples"] + entry["quarantined"]["count"] - planned["planned"]:
            splits[split]["slices"] = more  # of volumes, beyond the first of each
    inputs = sum(entry["planned"] for entry in plan.splits.values())
    check_usable(splits, inputs, plan.max_corrupt, "repair or remove them and add --restart")
    # Where the images are from and how they were converted is part of the manifest.
    source = {name: plan.source[name] for name in ("kind", "uri", "revision")}
    policy = {**plan.policy.record(), "images": POLICY}
    bad = [bad for record in found.values() for bad in record["quarantined"]]
    partners = find_partners(out, plan, found)
    return write_manifest(
        out,
        bad,
        name=plan.name,
        created=plan.created,
        source=source,
        policy=policy,
        modes=modes,
        plan_sha256=plan.plan_sha256,
        overlaps=plan.overlaps,
        **({"partners": partners} if partners else {}),
        splits=splits,
    )


def _mode(plan: Plan, records: dict[str, list[dict]], domain: str) -> Mode:
    """What the images of a domain are, of which arrays say much themselves. Raises UserError where they disagree."""
    train, test = (f"{kind}{domain.upper()}" for kind in ("train", "test"))
    policy = plan.policy.arrays(train)
    if policy is None:
        return plan.policy.mode(train)
    of = {
        split: [record["arrays"] for record in records.get(split, ()) if record["samples"]] for split in (train, test)
    }
    if not of[train]:
        bad = next(bad for record in records[train] for bad in record["quarantined"])
        raise TooManyCorrupt(
            f"no usable image in {train}, first {bad['file']}: {bad['reason']}; repair or remove them and add --restart"
        )
    try:
        return arrays_of(domain, of[train] + of[test], of[train], policy)
    except UserError as error:
        raise UserError(f"{error}, and add --restart") from None


def write_manifest(out: Path, quarantined: list[dict], *, splits: dict, **facts) -> dict:
    """Write quarantine.jsonl and then manifest.json, and return the latter."""
    for name in (PLAN, *(f"{split}-*" for split in SPLITS)):  # of those two files, writing them removes it
        remove_all_stale(out, name)
    with replacing(out / QUARANTINE) as file:
        file.writelines(json.dumps(bad).encode() + b"\n" for bad in quarantined)
    has_arrays = any(isinstance(mode, Arrays) for mode in facts["modes"].values())
    packages = DECIDING + (DECIDING_ARRAYS if has_arrays else ())
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **facts,
        "tool": {"zorse": __version__, **{package: _version(package) for package in packages}},
        "fingerprint": fingerprint([(split, entry["fingerprint"]) for split, entry in splits.items()]),
        "splits": splits,
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_unusable(out: Path) -> None:
    """Raise UserError where quarantine.jsonl is something else than a list of unusable images that was written here."""
    path = out / QUARANTINE
    try:
        with path.open("rb") as file:
            first = file.readline()
        ours = not first or {"file", "reason"} <= json.loads(first).keys()
    except FileNotFoundError:
        return
    except (ValueError, AttributeError):
        ours = False
    if not ours:
        raise UserError(f"{path} belongs to something else; move it away, or give another folder")


def split_entry(records: list[dict], mode: Mode) -> dict:
    """One split of the manifest from its shards' records, in order; empty shards do not appear."""
    records_kept = [record for record in records if record["samples"]]
    names = ("name", "samples", "bytes", "sha256", "index_sha256", "crc_sha256")
    shards = [{name: record[name] for name in names} for record in records_kept]
    bad = [bad for record in records for bad in record["quarantined"]]
    reasons = Counter(re.sub(r"\d+", "N", entry["reason"]) for entry in bad)
    return {
        "samples": sum(shard["samples"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "fingerprint": split_fingerprint(shards),
        "shards": shards,
        "converted": dict(sorted(sum((Counter(record["converted"]) for record in records), Counter()).items())),
        "quarantined": {"count": len(bad), "reasons": dict(reasons.most_common(FIRST)), "first": bad[:FIRST]},
        "statistics": _statistics(records_kept, mode),
    }


def split_fingerprint(shards: list[dict]) -> str:
    """A hash of the bytes of a split's shards, in order."""
    return fingerprint([(shard["sha256"], shard["samples"]) for shard in shards])


def fingerprint(rows: list[tuple]) -> str:
    return hashlib.sha256("".join(f"{a} {b}\n" for a, b in rows).encode()).hexdigest()


def _statistics(records: list[dict], mode: Mode) -> dict:
    """Widths and heights in pixels; mean and standard deviation per channel over all pixels, in [0, 1]."""
    if not records:
        return {}
    samples = sum(record["samples"] for record in records)
    statistics = {
        side: {
            "min": min(record[side]["min"] for record in records),
            "max": max(record[side]["max"] for record in records),
            "mean": round(sum(record[side]["sum"] for record in records) / samples, 3),
        }
        for side in ("width", "height")
    }
    pixels = sum(record["pixels"]["count"] for record in records)
    if isinstance(mode, Arrays):
        return statistics | statistics_of([record["arrays"] for record in records], pixels, mode)
    white, mean, std = full_level(mode), [], []
    for channel in range(len(records[0]["pixels"]["sum"])):
        first = sum(record["pixels"]["sum"][channel] for record in records)
        second = sum(record["pixels"]["square_sum"][channel] for record in records)
        mean.append(round(first / pixels / white, 6))
        std.append(round((pixels * second - first**2) ** 0.5 / pixels / white, 6))
    return {**statistics, "pixel_mean": mean, "pixel_std": std}


def check_usable(splits: dict, inputs: int, max_corrupt: float, fix: str) -> None:
    """Raise TooManyCorrupt, which names the fix, or UserError where a training domain has no image."""
    for split, entry in splits.items():
        if split.startswith("train") and not entry["samples"]:
            those = entry["quarantined"]["first"]
            if not those:
                raise UserError(f"no usable image in {split}: it holds none; {fix}")
            raise TooManyCorrupt(f"no usable image in {split}, first {those[0]['file']}: {those[0]['reason']}; {fix}")
    count = sum(entry["quarantined"]["count"] for entry in splits.values())
    if count > max_corrupt * inputs:
        bad = next(bad for entry in splits.values() for bad in entry["quarantined"]["first"])
        share = -(-count * 1000 // inputs) / 1000
        raise TooManyCorrupt(
            f"{count} of {inputs} images are unusable, first {bad['file']}: {bad['reason']}; {fix}, or go on without "
            f"them: --max-corrupt {share:g}"
        )
