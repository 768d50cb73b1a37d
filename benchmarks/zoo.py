"""Presets on data of many kinds: python benchmarks/zoo.py WORK [--sets maps ...] [--presets quick] [--seeds 0 1].

Draws each set (drawn_sets.py), shards it and trains on it by the plain commands, for --pairs pairs at the full learning
rate. Prints a line a run, and a table at the end:

dead at      the pair from which on, to the end, a generator ignores its input (response below 0.02), or more than half
             of what it gives is where tanh has no slope; by the lines of stats.jsonl
flat         the largest share of outputs where tanh has no slope in any line; nothing for networks without tanh
untranslated, after   mean absolute difference of test images to the same scenes in the other domain, as a share of the
             networks' range, before and after translation, a to b and b to a
constant     the same of one colour for all, the mean of the domain: blurred or equal images come near it
response     how much the outputs differ, as a multiple of how much their inputs do, at the end; 0 ignores its input
seconds      of training

Runs that are there already in WORK are not repeated; results.jsonl there has all of them. Options after -- are given to
pipeline/train.py as they are.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from drawn_sets import SETS, draw
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
FLAT, DEAF = 0.5, 0.02
DIRECTIONS = ("a_to_b", "b_to_a")
AT_FULL_RATE = ("--decay-epochs", "0", "--features", "none", "--workers", "0", "--on-collapse", "warn")


def main() -> None:
    arguments, extra = _parted(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for drawings, shards and runs")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--presets", nargs="+", default=["quick"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--pairs", type=int, default=600)
    options = parser.parse_args(arguments)
    results = [
        run_once(options.work, name, preset, seed, options.pairs, extra)
        for name in options.sets
        for preset in options.presets
        for seed in options.seeds
    ]
    Console(width=150).print(table(results))


def _parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is before and after the first --."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def run_once(work: Path, name: str, preset: str, seed: int, pairs: int, extra: list[str]) -> dict:
    """Train on a set, unless that was done. Returns the line of results.jsonl."""
    out = work / "runs" / "-".join([name, preset, str(seed), str(pairs), *extra]).replace("/", "_")
    if (out / "zoo.json").exists():
        return json.loads((out / "zoo.json").read_text())
    result = {"set": name, "preset": preset, "seed": seed, "pairs": pairs, "options": extra}
    shards, problem = shards_of(work, name)
    if problem:
        return result | {"problem": problem}
    # At the full rate to the end, since a run of the preset's own length would have it for most of its time.
    splits = json.loads((shards / "manifest.json").read_text())["splits"]
    epoch = max(splits[split]["samples"] for split in ("trainA", "trainB"))  # of volumes the slices
    options = [
        "--preset", preset, "--data", shards, "--out", out, "--seed", seed, "--epochs", pairs / epoch, *AT_FULL_RATE,
        *SETS[name].train, *extra,
    ]  # fmt: skip
    began = time.monotonic()
    done = _run([sys.executable, ROOT / "pipeline/train.py", *options])
    if done.returncode:
        result["problem"] = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
    else:
        lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
        result |= life(lines) | {"seconds": time.monotonic() - began}
        result |= errors(out, shards) if SETS[name].paired else {}
        (out / "zoo.json").write_text(json.dumps(result))
    with (work / "results.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(result, flush=True)
    return result


def life(lines: list[dict]) -> dict:
    """Whether the generators of a run learn to its end, by the lines of its stats.jsonl."""
    flat = [max(line.get(f"flat_{direction}", 0.0) for direction in DIRECTIONS) for line in lines]
    response = [[line[f"response_{direction}"] for direction in DIRECTIONS] for line in lines]
    sound = [one <= FLAT and min(two) >= DEAF for one, two in zip(flat, response, strict=True)]
    after = len(sound) - sound[::-1].index(True) if True in sound else 0  # lines up to the last sound one
    dead_at = lines[after]["pairs"] if after < len(lines) else None
    return {"dead_at": dead_at, "flat": max(flat), "response": response[-1]}


def shards_of(work: Path, name: str) -> tuple[Path, str | None]:
    """The shards of a set, drawn and made where they are missing, or what shard.py says against it."""
    images, shards = work / "images" / name, work / "shards" / name
    if not images.exists():
        draw(name, images)
    if not (shards / "manifest.json").exists():
        done = _run(
            [sys.executable, ROOT / "data_prep/shard.py", "--source", images, "--out", shards, *SETS[name].shard]
        )
        if done.returncode:
            return shards, done.stderr.strip().splitlines()[-1]
    return shards, None


def _run(command: list) -> subprocess.CompletedProcess:
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, check=False)


def errors(run: Path, shards: Path) -> dict:
    """Mean absolute differences of test images to their truth, as shares of [-1, 1], before and after translation."""
    import torch

    from zorse.checkpoints.load import load_trained
    from zorse.data.dataset import open_shards, whole_images
    from zorse.data.pixels import to_network

    trained, opened = load_trained(run), open_shards(shards)
    images = [
        to_network(whole_images(split, range(len(split)), trained.config.eval_size), torch.device("cpu"), torch.float32)
        for split in (opened.test_a, opened.test_b)
    ]
    before, after, constant = [], [], []
    for direction, (source, truth) in {"a_to_b": images, "b_to_a": images[::-1]}.items():
        with torch.no_grad():
            fake = torch.cat([trained.generators[direction](one[None]) for one in source])
        # Of unlike channels, the mean of the source's stands for what is not translated.
        same = source if source.shape[1] == truth.shape[1] else source.mean(1, keepdim=True)
        before.append((same - truth).abs().mean().item() / 2)
        after.append((fake - truth).abs().mean().item() / 2)
        constant.append((truth.mean((0, 2, 3), keepdim=True) - truth).abs().mean().item() / 2)
    return {"untranslated": before, "constant": constant, "after": after}


def table(results: list[dict]) -> Table:
    pairs = ("untranslated", "constant", "after", "response")
    columns = ("set", "preset", "seed", "dead at", "flat", *pairs, "seconds")
    shown = Table(*columns)
    for result in results:
        row = [result["set"], result["preset"], str(result["seed"])]
        if "problem" in result:
            shown.add_row(*row, *["-"] * 5, result["problem"][:60], "-")
            continue
        both = [" ".join(f"{value:.3f}" for value in result.get(name, [])) for name in pairs]
        shown.add_row(*row, str(result["dead_at"] or "-"), f"{result['flat']:.2f}", *both, f"{result['seconds']:.0f}")
    return shown


if __name__ == "__main__":
    main()
