"""What larger batches cost in quality: python benchmarks/batches.py runs/demo/shards [--seeds 0 1 2].

Trains the demo's networks on the same number of pairs with each batch and each rule for the learning rate, and prints
the distance of translated test images to real ones (zorse/evaluation/sliced_wasserstein.py), mean and range over the
seeds. The runs are kept in --out, and those that are finished are not done again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

RULES = ["none", "sqrt", "linear"]
TRAIN = Path(__file__).parents[1] / "pipeline" / "train.py"


def run_directory(options: argparse.Namespace, batch: int, rule: str, seed: int) -> Path:
    return options.out / f"batch{batch}-{rule}-warmup{options.warmup_pairs}-seed{seed}"


def train(options: argparse.Namespace, batch: int, rule: str, seed: int) -> float | None:
    """The distance after training, the mean of both directions; None where the run fails."""
    out = run_directory(options, batch, rule, seed)
    command = [sys.executable, TRAIN, "--preset", "demo", "--data", options.shards, "--out", out, "--batch", batch]
    command += ["--lr-scaling", rule, "--warmup-pairs", options.warmup_pairs, "--seed", seed]
    command += ["--features", "none", "--evaluate-every", 10**6, "--sample-every", 10**6, "--checkpoint-every", 10**6]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{out.name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    last = json.loads(max((out / "eval").glob("*.json")).read_text())
    ways = [last[way]["sliced_wasserstein"] for way in ("a_to_b", "b_to_a")]
    print(f"{out.name}: {ways[0]:.4f} {ways[1]:.4f}", flush=True)
    return sum(ways) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path, help="of `make demo`, or others of 64 pixels")
    parser.add_argument("--out", type=Path, default=Path("runs/batches"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--warmup-pairs", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1, help="runs at once")
    parser.add_argument("--threads", type=int, default=1, help="of each run, on a CPU")
    options = parser.parse_args()
    settings = [(batch, rule) for batch in options.batch for rule in (options.rules if batch > 1 else ["none"])]
    jobs = [(*setting, seed) for seed in options.seeds for setting in settings]
    with ThreadPoolExecutor(options.parallel) as pool:
        distances = dict(zip(jobs, pool.map(lambda job: train(options, *job), jobs), strict=True))

    table = Table(title=f"distance to real test images at equal pairs, {len(options.seeds)} seeds, lower is nearer")
    for name in ("batch", "learning rate", "mean", "lowest", "highest", "not finished"):
        table.add_column(name, justify="right")
    for batch, rule in settings:
        found = [distances[batch, rule, seed] for seed in options.seeds]
        ended = [value for value in found if value is not None]
        numbers = [statistics.mean(ended), min(ended), max(ended)] if ended else []
        row = [f"{value:.4f}" for value in numbers] or ["-"] * 3
        times = {"none": "x 1", "sqrt": f"x {batch**0.5:g}", "linear": f"x {batch}"}[rule]
        table.add_row(str(batch), times, *row, str(found.count(None)))
    Console().print(table)


if __name__ == "__main__":
    main()
