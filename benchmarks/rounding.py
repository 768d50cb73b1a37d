"""How far rounding carries a run: python benchmarks/rounding.py SHARDS [--steps 300] [--seeds 0 1 2] [--svg FILE].

For each seed tiny networks train in float64 on one process and on two; for the first one also on one process again,
from a checkpoint in the middle. Prints, and draws, the largest difference of any weight after each step.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
BATCH = 2
OPTIONS = [
    "--dtype", "float64", "--batch", str(BATCH), "--crop-size", "32", "--load-size", "36", "--generator-channels", "4",
    "--generator-blocks", "1", "--discriminator-channels", "4", "--discriminator-layers", "2", "--workers", "0",
    "--features", "none", "--tracker", "none", "--sample-images", "1", "--checkpoint-every", str(BATCH),
]  # fmt: skip
COLOURS = ("#1f6fb2", "#c8553d", "#7d5ba6", "#3d8b55")
LOWEST, HIGHEST = -17, 0  # powers of ten on the vertical axis
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 300, 56, 40  # pixels


def train(shards: Path, out: Path, steps: int, *options: str, ranks: int = 1) -> None:
    """Train so many steps, or what is left of them, and keep a checkpoint of each."""
    training = json.loads((shards / "manifest.json").read_text())["splits"]
    epoch = max(training["trainA"]["samples"], training["trainB"]["samples"])
    length = ["--epochs", repr(steps * BATCH / epoch), "--decay-epochs", "0", "--keep", str(steps + 2)]
    launch = [Path(sys.executable).with_name("accelerate"), "launch", "--quiet", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes", str(ranks)]
    launch += ["--multi_gpu"] if ranks > 1 else []
    line = [*launch, ROOT / "pipeline" / "train.py", "--data", shards, "--out", out, *length, *OPTIONS, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([str(part) for part in line], env=environment, stdout=sys.stderr, check=True)


def checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run by their step."""
    return {int(path.name.partition("-")[2]) // BATCH: path for path in (run / "checkpoints").glob("pairs-*")}


def difference(one: Path, other: Path) -> float:
    """The largest difference of a weight between two checkpoints."""
    weights, others = (load_file(path / "networks.safetensors") for path in (one, other))
    return max(float(abs(weights[name] - others[name]).max()) for name in weights)


def measure(shards: Path, steps: int, seeds: list[int], folder: Path) -> dict[str, list[float]]:
    """{what is compared with a run on one process: differences after step 0, 1, ... steps}."""
    found = {}
    for seed in seeds:
        options = "--seed", str(seed)
        one, two, resumed = (folder / f"{name}-{seed}" for name in ("one", "two", "resumed"))
        train(shards, one, steps, *options)
        train(shards, two, steps, *options, ranks=2)
        found[f"2 processes, seed {seed}"] = differences(one, two, steps)
        if seed == seeds[0]:
            shutil.copytree(one, resumed, symlinks=True)
            for step, path in checkpoints(resumed).items():
                if step > steps // 2:
                    shutil.rmtree(path)
            train(shards, resumed, steps, *options)
            found["1 process, resumed"] = differences(one, resumed, steps)
    return found


def differences(one: Path, other: Path, steps: int) -> list[float]:
    """The differences of two runs after step 0, 1, ... steps."""
    mine, theirs = checkpoints(one), checkpoints(other)
    return [difference(mine[step], theirs[step]) for step in range(steps + 1)]


def chart(found: dict[str, list[float]]) -> str:
    """An SVG of the differences by step, on a logarithmic scale whose lowest line stands for 0."""
    steps = len(next(iter(found.values()))) - 1

    def place(step: int, value: float) -> str:
        power = LOWEST if value == 0 else min(max(math.log10(value), LOWEST), HIGHEST)
        across = LEFT + (WIDTH - LEFT - 16) * step / steps
        return f"{across:.1f},{16 + (HEIGHT - BOTTOM - 16) * (HIGHEST - power) / (HIGHEST - LOWEST):.1f}"

    # Both scales.
    parts = []
    for power in (0, -4, -8, -12, -16, LOWEST):
        (left, y), right = place(0, 10.0**power if power > LOWEST else 0.0).split(","), WIDTH - 16
        name = f"1e{power}" if power > LOWEST else "0"
        parts.append(f'<path class="line" d="M{left},{y}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{name}</text>')
    for step in range(0, steps + 1, max(1, steps // 6)):
        across = place(step, 1).split(",")[0]
        parts.append(f'<text x="{across}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">steps</text>')
    # A curve and a line of the legend for each run.
    for number, (name, values) in enumerate(found.items()):
        points, colour = " ".join(place(step, value) for step, value in enumerate(values)), COLOURS[number % 4]
        parts.append(f'<polyline stroke="{colour}" points="{points}"/>')
        y = HEIGHT - BOTTOM - 24 - 18 * number
        parts.append(f'<path stroke="{colour}" d="M{WIDTH - 200},{y - 4}h24"/>')
        parts.append(f'<text x="{WIDTH - 168}" y="{y}">{name}</text>')
    style = (
        "text{font:12px system-ui,sans-serif;fill:#555}path,polyline{fill:none;stroke-width:1.6}.line{stroke:#ddd;"
        "stroke-width:1}"
    )
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n<rect width="100%" height="100%"'
    return "\n".join([f'{head} fill="#fff"/>', *parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--svg", type=Path, help="file to draw")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.shards.resolve(), options.steps, options.seeds, Path(folder))
    print(" | ".join(("step", *found)))
    for step, values in enumerate(zip(*found.values(), strict=True)):
        print(" | ".join(chain([f"{step:>4}"], (f"{value:.1e}" for value in values))))
    if options.svg:
        options.svg.write_text(chart(found))


if __name__ == "__main__":
    main()
