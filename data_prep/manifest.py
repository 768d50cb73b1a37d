"""The manifest: what a data set's shards hold, written last of all. A folder without it is not finished."""

import hashlib
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from data_prep import PrepError, TooManyCorrupt
from data_prep.atomic import write_json
from data_prep.images import POLICY
from data_prep.pixels import full_level
from data_prep.shards import FORMAT, VERSION, Plan, committed
from data_prep.sources import Source


def finalize(out: Path, source: Source, plan: Plan, created: str, max_corrupt: float) -> dict:
    """Write and return manifest.json from the committed shards. Raises PrepError, TooManyCorrupt."""
    records = {split: [] for split in source.items}
    for shard in plan.shards:
        record = committed(out, shard)
        if record is None:
            raise PrepError(f"{out / shard.name}.tar is missing or broken; run the same command again")
        records[shard.split].append(record)
    splits = {
        split: _split_entry(found, source.dropped[split], full_level(plan.policy.mode(split)))
        for split, found in records.items()
    }
    _check(splits, sum(len(items) for items in source.items.values()), max_corrupt)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "name": source.name,
        "created": created,
        "tool": {package: version(package) for package in ("zorse", "pillow", "webdataset")},
        "source": {"kind": source.kind, "uri": source.uri, "revision": source.revision},
        "policy": {**asdict(plan.policy), "images": POLICY},
        "modes": {"a": plan.policy.mode_a, "b": plan.policy.mode_b},
        "plan_sha256": plan.sha256,
        "fingerprint": _fingerprint([(split, entry["fingerprint"]) for split, entry in splits.items()]),
        "splits": splits,
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def _split_entry(records: list[dict], dropped: dict, white: int) -> dict:
    """One split of the manifest from its shards' records, in order; empty shards do not appear. white: its level."""
    records_kept = [record for record in records if record["samples"]]
    names = ("name", "samples", "bytes", "sha256", "index_sha256")
    shards = [{name: record[name] for name in names} for record in records_kept]
    return {
        "samples": sum(shard["samples"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "fingerprint": _fingerprint([(shard["sha256"], shard["samples"]) for shard in shards]),
        "shards": shards,
        "converted": dict(sorted(sum((Counter(record["converted"]) for record in records), Counter()).items())),
        "dropped": dropped,
        "quarantined": [bad for record in records for bad in record["quarantined"]],
        "statistics": _statistics(records_kept, white),
    }


def _fingerprint(rows: list[tuple]) -> str:
    return hashlib.sha256("".join(f"{a} {b}\n" for a, b in rows).encode()).hexdigest()


def _statistics(records: list[dict], white: int) -> dict:
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
    mean, std = [], []
    for channel in range(len(records[0]["pixels"]["sum"])):
        first = sum(record["pixels"]["sum"][channel] for record in records)
        second = sum(record["pixels"]["square_sum"][channel] for record in records)
        mean.append(round(first / pixels / white, 6))
        std.append(round((pixels * second - first**2) ** 0.5 / pixels / white, 6))
    return {**statistics, "pixel_mean": mean, "pixel_std": std}


def _check(splits: dict, inputs: int, max_corrupt: float) -> None:
    bad = [entry for split in splits.values() for entry in split["quarantined"]]
    if bad:
        first = f"{len(bad)} of {inputs} images are unusable, first {bad[0]['file']}: {bad[0]['reason']}"
    if len(bad) > max_corrupt * inputs:
        share = -(-len(bad) * 1000 // inputs) / 1000
        raise TooManyCorrupt(
            f"{first}; repair or remove them and add --restart, or go on without them: --max-corrupt {share:g}"
        )
    for split, entry in splits.items():
        if split.startswith("train") and not entry["samples"]:
            raise PrepError(f"no usable image in {split}: {first}")
