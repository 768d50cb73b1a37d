"""How fast training steps are: python benchmarks/step.py [--reference DIR] [options].

Each contender is a process of its own: ours as it is (eager), ours with --compile, --fused-norm and --cuda-graph, and
with --reference a checkout of junyanz/pytorch-CycleGAN-and-pix2pix (contenders.py and reference.py say what each does).

First the gate: from the same weights and images, all must have the losses and gradients of the first contender, or
nothing is measured. Then rounds: in each one all take steps, one after another in random order, the others waiting. A
ratio is the median over rounds of the quotient within a round. A speed in FLOP/s is the paper's operations for so many
pairs, whatever was computed; its share is of a large matrix product measured right before and after the rounds.
"""

import argparse
import json
import random
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from contenders import Ours
from reference import Reference
from report import show, show_gate
from rich.console import Console
from workers import Worker, WorkerError, workers
from yardsticks import Ceiling, flop_of_a_pair

from zorse.config.schema import Networks
from zorse.errors import UserError
from zorse.ops.cuda_graph import WARM_UP

CONSOLE = Console()
if not CONSOLE.is_terminal:
    CONSOLE.width = 120
VARIANTS = ["eager", "compile", "fused", "compile-fused", "graph", "compile-graph", "compile-fused-graph"]
EXACT, EXACT_RATE = 1e-10, 1e-6  # how far off fp64 may be, and after steps whose learning rate is not fp64
TIMES = 5  # as far from the first contender's fp64 as its own fp32 is, another's fp32 may be; of TF32 and bf16, twice
# Or as this is: one rounding turns the sign of an L1 term or of a ReLU, or none does. With 8 pairs of images, fp32 was
# between 2e-6 and 9e-3 off, eager and compiled alike.
# That spreads in the steps that follow.
LUCK = {"losses": 1e-6, "next": 1e-2, "gradients": 5e-3}


class Case(NamedTuple):
    size: int
    batch: int
    precision: str


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, metavar="DIR", help="a checkout of pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["eager"], help="of ours")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256], help="of images, in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="pairs per step")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "tf32", "bf16"], default=["fp32"])
    parser.add_argument("--channels", type=int, default=64, help="of each network's first convolution")
    parser.add_argument("--blocks", type=int, default=9, help="of a generator; the reference knows 6 and 9")
    parser.add_argument("--rounds", type=int, default=7)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=2.0, help="that a contender runs in a round, about")
    length.add_argument("--steps", type=int, help="that a contender runs in a round, instead")
    parser.add_argument("--threads", type=int, help="of each process; by default 1, on a GPU as many as torch takes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write traces there, and show where the time goes")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    if options.reference and not (options.reference / "models" / "cycle_gan_model.py").is_file():
        raise UserError(f"{options.reference} has no models/cycle_gan_model.py; give the reference's folder")
    if "tf32" in options.precision and not gpu:
        raise UserError("tf32 needs an NVIDIA GPU; leave it out of --precision")
    if not gpu and any(name in variant for variant in options.variants for name in ("fused", "graph")):
        raise UserError("the fused norm and CUDA graphs need an NVIDIA GPU; leave them out of --variants")
    options.threads = options.threads or (None if gpu else 1)
    return options


def contenders(options: argparse.Namespace) -> dict[str, partial]:
    """What makes each one, in its process. The first is what the others are measured against."""
    networks = networks_of(options)
    ours = {f"ours {name}": partial(Ours, name, networks, options.threads) for name in options.variants}
    if not options.reference:
        return ours
    return {"reference": partial(Reference, options.reference.resolve(), networks, options.threads), **ours}


def networks_of(options: argparse.Namespace) -> Networks:
    return Networks(
        generator_channels=options.channels, generator_blocks=options.blocks, discriminator_channels=options.channels
    )


def check_equality(makers: dict[str, partial], precisions: list[str]) -> list[dict]:
    """The gate: how far each contender is, in each precision, from the first one in fp64."""
    rows = []
    with workers(makers) as running, CONSOLE.status("gate"):
        first, *others = running.values()
        exact = first.ask("gate", "fp64")
        for precision in ("fp64", *dict.fromkeys(["fp32", *precisions])):
            allowed = dict.fromkeys(("losses", "next", "gradients"), EXACT) if precision == "fp64" else {}
            for worker in others if precision == "fp64" else (first, *others):
                if precision == "fp64" and "fused" in worker.name:
                    continue  # whose kernels have no fp64
                off = distance(worker.ask("gate", precision), exact)
                # Of a recorded step the learning rate is fp32.
                recorded = "graph" in worker.name + first.name
                most = allowed | ({"next": EXACT_RATE} if precision == "fp64" and recorded else {})
                passed = all(off[what] <= most[what] for what in most) if allowed else None
                rows.append({"contender": worker.name, "precision": precision, **off, "allowed": most})
                rows[-1]["passed"] = passed
                if worker is first:
                    times = TIMES if precision == "fp32" else 2
                    allowed = {what: times * max(off[what], luck) for what, luck in LUCK.items()}
    return rows


def distance(found: tuple, exact: tuple) -> dict[str, float]:
    """Relative errors. losses: the largest in the first step; next: in the last. gradients: the largest of a tensor.
    all, cosine: of the gradients as one vector.
    """
    losses, following = (
        float(np.max([abs(a[name] / b[name] - 1) for name in b])) for a, b in zip(found[0], exact[0], strict=True)
    )
    pairs = [(found[1][name].ravel(), gradient.ravel()) for name, gradient in exact[1].items()]
    errors, sizes, others = np.array([[np.linalg.norm(x) for x in (a - b, b, a)] for a, b in pairs]).T
    size = np.linalg.norm(sizes)
    return {
        "losses": losses,
        "next": following,
        "gradients": float(np.max(errors / sizes)),
        "all": float(np.linalg.norm(errors) / size),
        "cosine": float(sum(a @ b for a, b in pairs) / size / np.linalg.norm(others)),
    }


def measure(running: dict[str, Worker], ceiling: Worker, case: Case, options: argparse.Namespace) -> dict:
    """All that is measured of one size, batch and precision."""
    # Warm up, and find how many steps fill the time of a round.
    steps = {}
    for name, worker in running.items():
        worker.ask("start", case.precision, case.size, case.batch)
        worker.ask("run", WARM_UP + 1)
        once = worker.ask("run", 1)["wall"]
        steps[name] = options.steps or max(1, round(options.seconds / once))
        worker.ask("run", steps[name])
        worker.ask("forget_peak")
    # Rounds: all contenders, in random order.
    rounds = {name: [] for name in running}
    products = [ceiling.ask("measure")]
    for _ in range(options.rounds):
        for name in random.sample(list(running), len(running)):
            rounds[name].append(running[name].ask("run", steps[name]))
    products.append(ceiling.ask("measure"))
    first = rates(rounds[next(iter(rounds))], case.batch)
    flop = flop_of_a_pair(networks_of(options), case.size)
    found = {}
    for name, worker in running.items():
        rate = rates(rounds[name], case.batch)
        ratio = rate / first
        speed = float(np.median(rate)) * flop
        found[name] = {
            "pairs_per_second": spread(rate),
            "images_per_second": spread(2 * rate),
            "ms_per_step": 1000 * case.batch / float(np.median(rate)),
            "ratio": {"median": float(np.median(ratio)), "least": float(ratio.min()), "most": float(ratio.max())},
            "flop_per_second": speed,
            "share_of_product": speed / float(np.mean(products)),
            "peak_memory_mb": worker.ask("peak_memory"),
            "cpu_seconds_per_step": median_of(rounds[name], "cpu", "steps"),
            "queueing_share": median_of(rounds[name], "queued", "wall"),
            "operations_per_step": worker.ask("count"),
            "rounds": rounds[name],
        }
        if options.profile:
            trace = options.profile / f"{name.replace(' ', '-')}-{case.size}px-batch{case.batch}-{case.precision}.json"
            found[name]["ms_by_class"] = worker.ask("profile", trace)
    return {**case._asdict(), "flop_per_pair": flop, "product_flop_per_second": products, "contenders": found}


def rates(rounds: list[dict], batch: int) -> np.ndarray:
    """Pairs per second of each round."""
    return np.array([batch * part["steps"] / part["wall"] for part in rounds])


def spread(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, [10, 50, 90])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


def median_of(rounds: list[dict], part: str, whole: str) -> float | None:
    return float(np.median([one[part] / one[whole] for one in rounds])) if part in rounds[0] else None


def benchmark(options: argparse.Namespace, result: dict) -> int:
    """Fills `result` on the way; the exit code."""
    makers = contenders(options)
    with workers({"matrix product": partial(Ceiling, options.threads)}) as other:
        ceiling = other["matrix product"]
        about = ceiling.ask("describe")
        result |= {"torch": torch.__version__, **about, "channels": options.channels, "blocks": options.blocks}
        CONSOLE.print(
            f"torch {result['torch']}, {about['device']}, threads: {about['threads']}; {options.channels} channels, "
            f"{options.blocks} blocks; matrix product: {about['product']}\n"
        )
        if len(makers) > 1:
            result["gate"] = check_equality(makers, options.precision)
            show_gate(result["gate"], next(iter(makers)), CONSOLE)
            if any(row["passed"] is False for row in result["gate"]):
                print("error: not the same step, see DIFFERS above; nothing was measured", file=sys.stderr)
                return 1
        else:
            CONSOLE.print("gate: one contender alone, so nothing to compare\n")
        if options.profile:
            options.profile.mkdir(parents=True, exist_ok=True)
        for case in map(Case._make, product(options.sizes, options.batch, options.precision)):
            with workers(makers) as running, CONSOLE.status(" ".join(map(str, case))):
                result["cases"].append(measure(running, ceiling, case, options))
            show(result["cases"][-1], about["gpu"], CONSOLE)
    return 0


def main() -> int:
    result = {"gate": [], "cases": []}
    try:
        options = read_options()
        try:
            return benchmark(options, result)
        finally:
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(result, indent=2) + "\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
