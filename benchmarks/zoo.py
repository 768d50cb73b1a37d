"""Presets on data of many kinds: python benchmarks/zoo.py WORK [--sets maps ...] [--presets quick] [--seeds 0 1].

Draws each set (drawn_sets.py), shards it and trains on it by the plain commands, for --pairs pairs at the full learning
rate. Prints a line a run, and a table at the end:

dead at      the pair from which on more than half of what a generator gives has a tanh whose slope is exactly 0, so
             that it learns nothing there; mean over the steps since the line before, every 50 pairs
flat         the largest such share in any 50 pairs
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
EVERY = 50  # pairs over which the share of flat outputs is taken
DEAD = 0.5
AT_FULL_RATE = ("--decay-epochs", "0", "--features", "none", "--workers", "0", "--on-collapse", "warn")


def main() -> None:
    arguments, extra = _parted(sys.argv[1:])
    if arguments[:1] == ["--probe"]:
        probe(Path(arguments[1]), extra)
        return
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
    epoch = max(SETS[name].counts)
    options = [
        "--preset", preset, "--data", shards, "--out", out, "--seed", seed, "--epochs", pairs / epoch, *AT_FULL_RATE,
        *SETS[name].train, *extra,
    ]  # fmt: skip
    began = time.monotonic()
    command = [sys.executable, __file__, "--probe", out, "--", *options]
    done = _run(command)
    if done.returncode:
        result["problem"] = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
    else:
        windows = json.loads((out / "flat.json").read_text())
        result |= {"flat": max(max(window["flat"]) for window in windows), "seconds": time.monotonic() - began}
        result["dead_at"] = next((window["pairs"] for window in windows if max(window["flat"]) > DEAD), None)
        last = json.loads((out / "stats.jsonl").read_text().splitlines()[-1])
        result["response"] = [last[f"response_{direction}"] for direction in ("a_to_b", "b_to_a")]
        result |= errors(out, shards) if SETS[name].paired else {}
        (out / "zoo.json").write_text(json.dumps(result))
    with (work / "results.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(result, flush=True)
    return result


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


def probe(out: Path, options: list[str]) -> None:
    """Train in this process, and write how much of the generators' outputs has no slope to OUT/flat.json."""
    import torch
    from torch.nn.modules.module import register_module_forward_hook

    from zorse.config.command_line import parse
    from zorse.cyclegan.resnet import Generator
    from zorse.cyclegan.step import CycleGANStep
    from zorse.runs.watchdog import Watchdog
    from zorse.training.trainer import train

    windows, shares, pairs = [], {}, 0

    def watch(module, inputs, output) -> None:
        nonlocal pairs
        if isinstance(module, Generator) and torch.is_grad_enabled():
            shares.setdefault(id(module), []).append((output.detach().abs() >= 1).float().mean().item())
        if isinstance(module, CycleGANStep):
            pairs += len(inputs[0])
            if pairs % EVERY == 0:
                windows.append({"pairs": pairs, "flat": [sum(each) / len(each) for each in shares.values()]})
                shares.clear()

    register_module_forward_hook(watch)
    config = parse(options)
    code = train(config, Watchdog(0, config.compute.step_timeout))
    (out / "flat.json").write_text(json.dumps(windows))
    sys.exit(code)


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
