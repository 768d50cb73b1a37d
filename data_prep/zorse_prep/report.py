"""What a person reads about a data set: tables of its plan and of its manifest."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from zorse.invocation import command_line
from zorse.terminal import one_line, plain_console
from zorse_prep.format import Arrays, in_range
from zorse_prep.items import Source, in_words
from zorse_prep.plan import Plan
from zorse_prep.planning import shared_images

DARK = 0.25  # the part of the range that a data set should use more than
MOST_OUTSIDE = 0.5  # of a split's values: air around a head may be a third
FEWEST_LEVELS = 64  # that images of whole numbers should have
DEFAULT_DATA = Path("shards/horse2zebra")  # what pipeline/train.py reads unless told otherwise


def show_plan(out: Path, plan: Plan) -> None:
    """The plan: what goes into how many shards, and what is left out of them."""
    table = _table(f"{plan.name}, planned for {out}", ("found", "images", "MB", "shards", "a shard"), ("left out",))
    for split, entry in plan.splits.items():
        counts = [shard.count for shard in plan.shards if shard.split == split]
        each = str(counts[0]) if counts else "-"
        cells = (entry["found"], entry["planned"], f"{entry['bytes'] / 1e6:.1f}", len(counts), each)
        table.add_row(split, *(str(cell) for cell in cells), in_words(entry["dropped"]))
    console = _console()
    console.print(table)
    _warn_of_overlaps(console, plan.overlaps)


def show_held_out(source: Source, plan: Plan, with_advice: bool = True) -> None:
    """How many of each domain's images became test images."""
    if source.held_out:
        held_out = " and ".join(
            f"{count} of {count + plan.splits[f'train{split[-1]}']['found']} images of {split[-1]}"
            for split, count in sorted(source.held_out.items())
        )
        advice = "; for others, give --test-share, or --test-a DIR --test-b DIR" if with_advice else ""
        _console().print(f"held out for testing: {held_out}{advice}")


def show_result(out: Path, manifest: dict, kept: int, seconds: float) -> None:
    """The finished shards, and what to do with them. kept: shards that existed already."""
    table = _table(f"{manifest['name']} in {out}", ("found", "images", "shards", "MB"), ("converted", "left out"))
    for split, entry in manifest["splits"].items():
        table.add_row(split, *_sizes(entry), in_words(entry["converted"]), in_words(_left_out(entry)))
    console = _console()
    console.print(table)
    _warn_of_overlaps(console, manifest["overlaps"])
    _tell_partners(console, manifest)
    for split, entry in manifest["splits"].items():
        if entry.get("unconverted"):
            console.print(f"warning: in {split} these are read as they are: {in_words(entry['unconverted'])}")
    _show_ranges(console, manifest)
    _warn_of_unused_range(console, manifest)
    bad = [bad for entry in manifest["splits"].values() for bad in entry["quarantined"]["first"]]
    count = sum(entry["quarantined"]["count"] for entry in manifest["splits"].values())
    for entry in bad[:5]:
        console.print(f"warning: left out {one_line(entry['file'])}: {one_line(entry['reason'])}")
    if count > 5:
        console.print(f"warning: {count - 5} more, listed in {out / 'quarantine.jsonl'}")
    if untested := [domain for domain in "AB" if not manifest["splits"].get(f"test{domain}", {}).get("samples")]:
        console.print(
            f"warning: no test images of {' and '.join(untested)}, so nothing will be evaluated; of 8 images or more, "
            "--test-share 0.05 with --restart holds some out"
        )
    shards = sum(len(entry["shards"]) for entry in manifest["splits"].values())
    console.print(f"done in {seconds:.1f} s" + (f"; {kept} of {shards} shards existed already" if kept else ""))


def show_training(out: Path) -> None:
    """The command that trains on the shards."""
    _console().print(f"next: {command_line('train', *([] if out == DEFAULT_DATA else ['--data', out]))}")


def show_statistics(out: Path, manifest: dict) -> None:
    """What the manifest says of the images: counts, sizes, colours, conversions, and what is not among them and why."""
    table = _table(f"{manifest['name']} in {out}", ("found", "images", "shards", "MB"), ())
    for heading in ("width", "height"):
        table.add_column(heading)
    for split, entry in manifest["splits"].items():
        sides = [_range(entry["statistics"][side]) if entry["samples"] else "-" for side in ("width", "height")]
        table.add_row(split, *_sizes(entry), *sides)
    console = _console()
    console.print(table)
    _show_ranges(console, manifest)
    for split, entry in manifest["splits"].items():
        if entry["samples"]:
            mean, std = (_levels(entry["statistics"][name]) for name in ("pixel_mean", "pixel_std"))
            console.print(f"{split} levels, 0 to 1: mean {mean}; standard deviation {std}")
    for split, entry in manifest["splits"].items():
        for what, counts in (("converted", entry["converted"]), ("left out", _left_out(entry))):
            if any(counts.values()):
                console.print(f"{split} {what}: {in_words(counts)}")
        for reason, count in entry["quarantined"]["reasons"].items():
            console.print(f"{split} unusable: {count} x {reason}")
    _warn_of_overlaps(console, manifest["overlaps"])
    _tell_partners(console, manifest)


def _console() -> Console:
    return plain_console(soft_wrap=True)


def _table(title: str, numbers: tuple[str, ...], words: tuple[str, ...]) -> Table:
    table = Table("split", title=title, title_justify="left")
    for heading in numbers:
        table.add_column(heading, justify="right")
    for heading in words:
        table.add_column(heading)
    return table


def _sizes(entry: dict) -> tuple[str, ...]:
    return str(entry["found"]), str(entry["samples"]), str(len(entry["shards"])), f"{entry['bytes'] / 1e6:.1f}"


def _left_out(entry: dict) -> dict[str, int]:
    return {**entry["dropped"], "unusable": entry["quarantined"]["count"]}


def _range(side: dict) -> str:
    if side["min"] == side["max"]:
        return str(side["min"])
    return f"{side['min']} to {side['max']}, mean {side['mean']:.0f}"


def _levels(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _warn_of_overlaps(console: Console, overlaps: dict[str, dict]) -> None:
    for sentence in shared_images(overlaps):
        console.print(f"warning: {one_line(sentence)}")


def _tell_partners(console: Console, manifest: dict) -> None:
    if count := len(manifest.get("partners", [])):
        console.print(
            f"{count} of the test images have a partner of the same name in the other domain, and evaluation holds "
            "translations against it; if they do not show the same, rename those of one domain"
        )


def _show_ranges(console: Console, manifest: dict) -> None:
    """What the networks will see of domains of arrays."""
    for domain, mode in manifest["modes"].items():
        if isinstance(mode, Arrays):
            console.print(f"{domain}: {one_line(in_range(mode))}")


def _warn_of_unused_range(console: Console, manifest: dict) -> None:
    """Tell of images that use little of the range that the networks see, or of what they are stored in."""
    for split, entry in manifest["splits"].items():
        domain, count = split[-1].lower(), entry["converted"].get("low_contrast", 0)
        mode = manifest["modes"][domain]
        keep = f"shard them again with --range-{domain} percentiles, which keeps their numbers, and --restart"
        if not entry["samples"]:
            continue
        if isinstance(mode, Arrays):
            _warn_of_array_range(console, split, entry["statistics"], mode)
            continue
        if count > entry["samples"] / 2:
            console.print(
                f"warning: {split}: {count} of {entry['samples']} images hold more than 8 bits and use less than a "
                f"quarter of their range, which leaves fewer than 64 grey levels; {keep}"
            )
            continue
        # At most 1 in 36 of any numbers lie further from their mean than 6 standard deviations (Chebyshev).
        means, deviations = (entry["statistics"][name][:3] for name in ("pixel_mean", "pixel_std"))  # without alpha
        highest = max(mean + 6 * deviation for mean, deviation in zip(means, deviations, strict=True))
        if highest < DARK:
            console.print(
                f"warning: {split} is dark: at least 97 % of its levels lie below {highest:.2f} of 1; if its files "
                f"hold fewer bits than there is room for, as 12 in 16, {keep}"
            )


def _warn_of_array_range(console: Console, split: str, statistics: dict, mode: Arrays) -> None:
    """Tell of channels of which nearly all values use less than a quarter of the range, or are few numbers."""
    bounds = zip(statistics["low"], statistics["high"], mode.low, mode.high, strict=True)
    used = [(high - low) / (top - bottom) for low, high, bottom, top in bounds]
    domain = split[-1].lower()
    outside = statistics["outside"]
    if outside > MOST_OUTSIDE:
        console.print(
            f"warning: {outside:.1%} of the values of {split} lie outside its range, and will be seen as its ends; "
            f"shard it again with a --range-{domain} that has them, or percentiles, and --restart"
        )
    elif outside:
        console.print(f"{split}: {outside:.1%} of the values lie outside the range, and will be seen as its ends")
    if max(used) <= 0:
        console.print(f"warning: nearly all values of {split} are the same; are these the right files?")
    elif max(used) < DARK and outside <= MOST_OUTSIDE:
        console.print(
            f"warning: {split} uses {max(used):.0%} of its range; shard it again with --range-{domain} percentiles and "
            "--restart"
        )
    levels = max(high - low for low, high in zip(statistics["low"], statistics["high"], strict=True)) + 1
    if mode.dtype != "float32" and 1 < levels < FEWEST_LEVELS:
        console.print(f"warning: nearly all values of {split} are of {levels:.0f} levels; are these the right files?")
