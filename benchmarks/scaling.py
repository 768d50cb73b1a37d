"""What more processes bring: python benchmarks/scaling.py --ranks 1 2 [--each 1 | --batch 4] [options].

Starts the training step on so many processes of this machine, one GPU or one CPU thread each, and prints pairs/s, the
efficiency against the first number of processes, bytes and calls of the reduction of gradients per step, and how much
of it is hidden behind the backward pass: steps that reduce alternate with steps that do not (DDP's no_sync), and the
difference is what shows. --each keeps the pairs of a process (weak scaling), --batch those of all (strong scaling).
Several machines: start it by torchrun or `accelerate launch` on each; it then measures those processes alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from zorse.config.schema import Compute, Losses, Networks
from zorse.cyclegan.build import parameter_count
from zorse.cyclegan.image_pool import ImagePool
from zorse.cyclegan.step import CycleGANStep
from zorse.training.devices import configure_device

HOOKS = {"float32": allreduce_hook, "bfloat16": bf16_compress_hook}  # as ddp_kwargs has accelerate take


class Timeline:
    """The reductions of a step: [bytes, seconds from the start of the backward pass to launch, and to completion]."""

    def __init__(self, grad_comm_dtype: str):
        self.hook = HOOKS[grad_comm_dtype]
        self.reductions: list[list[float]] = []
        self.began = 0.0

    def now(self) -> float:
        return time.perf_counter() - self.began


def recorded(timeline: Timeline, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A communication hook of DDP that does what the chosen one does, and takes its times."""
    entry = [0, timeline.now(), 0.0]
    timeline.reductions.append(entry)

    def counted(tensor: torch.Tensor, *rest, **how):
        entry[0] += tensor.nbytes
        return all_reduce(tensor, *rest, **how)

    def done(future: torch.futures.Future) -> torch.Tensor:
        entry[2] = timeline.now()  # on a GPU: when it was queued
        return future.value()

    all_reduce, dist.all_reduce = dist.all_reduce, counted
    try:
        return timeline.hook(None, bucket).then(done)
    finally:
        dist.all_reduce = all_reduce


def measure(options: argparse.Namespace) -> dict:
    """This process's part; the same result on all."""
    # This rank's device, and the step under DDP as training builds it.
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(1)
    dist.init_process_group("nccl" if gpu else "gloo")
    ranks = dist.get_world_size()
    device = torch.device("cuda" if gpu else "cpu")
    pairs = options.each or options.batch // (ranks * options.grad_accum_steps)
    networks = Networks(
        generator_channels=options.channels, generator_blocks=options.blocks, discriminator_channels=options.channels
    )
    model = CycleGANStep(networks, Losses(), 0, fused=options.fused_norm).to(device)
    configure_device(model, device, Compute(compile=options.compile, fused_norm=options.fused_norm))
    adam = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    timeline = Timeline(options.grad_comm_dtype)
    parallel.register_comm_hook(timeline, recorded)
    # Image pools and inputs, the same in each step.
    slots = list(range(pairs))
    history = {
        name: ImagePool(slots, 50, (options.size, options.size), domain=number, seed=0, device=device)
        for number, name in enumerate("ab")
    }
    a, b = torch.rand(2, pairs, 3, options.size, options.size, device=device) * 2 - 1
    position = 0

    def step(reduce: bool) -> tuple[float, float]:
        """Seconds of the step, and of its last backward pass."""
        nonlocal position
        synchronize(gpu)
        began = time.perf_counter()
        for micro_step in range(options.grad_accum_steps):
            last = micro_step == options.grad_accum_steps - 1
            plans = {name: images.plan(slots, [position + slot for slot in slots]) for name, images in history.items()}
            position += pairs
            with nullcontext() if reduce and last else parallel.no_sync():
                with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                    loss, _ = parallel(a, b, history, plans)
                timeline.began = time.perf_counter()
                (loss / options.grad_accum_steps).backward()
        synchronize(gpu)
        backward = time.perf_counter() - timeline.began
        adam.step()
        adam.zero_grad()
        synchronize(gpu)
        return time.perf_counter() - began, backward

    # Steps that reduce and steps that do not, in turns.
    for _ in range(3):  # the first step decides the buckets, the second has them
        step(True)
    with_it, without = [], []
    for number in range(options.rounds):
        for reduce in (True, False) if number % 2 else (False, True):
            dist.barrier()
            timeline.reductions.clear()
            seconds, backward = step(reduce)
            (with_it if reduce else without).append(seconds)
            if reduce:
                last = [*timeline.reductions], backward
    # A step takes as long as on the slowest rank.
    times = torch.tensor([with_it, without], dtype=torch.float64, device=device)
    dist.all_reduce(times, dist.ReduceOp.MAX)  # a step is over when it is on all
    reductions, backward = last
    result = {
        "gpu": gpu,
        "ranks": ranks,
        "batch": pairs * ranks * options.grad_accum_steps,
        "seconds": times[0].tolist(),
        "seconds_without": times[1].tolist(),
        "parameters": parameter_count(model),
        "backward": backward,
        "reductions": [dict(zip(("bytes", "launched", "done"), entry, strict=True)) for entry in reductions],
    }
    dist.destroy_process_group()
    return result


def synchronize(gpu: bool) -> None:
    if gpu:
        torch.cuda.synchronize()


def start(ranks: int, arguments: list[str]) -> dict:
    """Measure on so many processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *launcher, __file__, *arguments, "--json", out], env=environment)
        if done.returncode:
            sys.exit(f"error: the measurement on {ranks} processes failed; its reason stands above")
        return json.loads(out.read_text())


def show(results: list[dict]) -> None:
    table = Table(title="the training step on several processes")
    columns = ["processes", "batch", "pairs/s", "efficiency", "MB", "reductions", "taking", "of a step", "launched at"]
    for name in columns:
        table.add_column(name, justify="right")
    base = None
    for result in results:
        rate = result["batch"] / statistics.median(result["seconds"])
        base = base or rate / result["ranks"]
        pairs = zip(result["seconds"], result["seconds_without"], strict=True)
        exposed = statistics.median(1 - without / seconds for seconds, without in pairs)
        reductions = result["reductions"]
        span = sum(entry["done"] - entry["launched"] for entry in reductions)
        launched = [f"{entry['launched'] / result['backward']:.0%}" for entry in reductions]
        table.add_row(
            str(result["ranks"]), str(result["batch"]), f"{rate:.3g}", f"{rate / result['ranks'] / base:.0%}",
            f"{sum(entry['bytes'] for entry in reductions) / 1e6:.1f}", str(len(reductions)),
            "-" if result["gpu"] else f"{span:.2f} s", f"{exposed:.1%}", " ".join(launched),
        )  # fmt: skip
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    console.print("of a step: how much longer than without reducing. launched at: shares of the last backward pass")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of processes, one after another")
    scaling = parser.add_mutually_exclusive_group()
    scaling.add_argument("--each", type=int, help="pairs of each process and micro-step; by default 1")
    scaling.add_argument("--batch", type=int, help="pairs of all processes together")
    parser.add_argument("--grad-accum-steps", type=int, default=1, help="micro-steps per step")
    parser.add_argument("--grad-comm-dtype", choices=HOOKS, default="float32")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused-norm", action="store_true")
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    # Refuse what cannot be measured before any process is started.
    options = parser.parse_args()
    if options.batch is None and options.each is None:
        options.each = 1
    counts = (options.batch, options.each, options.grad_accum_steps, options.rounds, *options.ranks)
    if any(count is not None and count < 1 for count in counts):
        sys.exit("error: numbers of processes, pairs, micro-steps and rounds must be greater than 0")
    if options.size % 4 or options.size < 24:
        sys.exit(f"error: --size {options.size}: must be a multiple of 4, and at least 24")
    launched = "RANK" in os.environ  # by another, or by `start`
    for ranks in [int(os.environ["WORLD_SIZE"])] if launched else options.ranks:
        if options.batch and options.batch % (ranks * options.grad_accum_steps):
            sys.exit(f"error: --batch {options.batch} cannot be divided by {ranks} x {options.grad_accum_steps}")
    # A rank of a launch measures its part and ends; the process that a person started launches one after another.
    if launched:
        measured = measure(options)
        if os.environ["RANK"] == "0" and options.json:
            options.json.write_text(json.dumps(measured, indent=2))
        elif os.environ["RANK"] == "0":
            show([measured])
        sys.stdout.flush()
        os._exit(0)  # gloo's threads hold what Python has to free, and abort if they come to it after Python has ended
    gpus = torch.cuda.device_count()
    for ranks in options.ranks:
        if gpus and ranks > gpus:
            sys.exit(f"error: --ranks {ranks}: this machine has {gpus} GPUs")
    arguments = sys.argv[1:]
    results = [start(ranks, arguments) for ranks in options.ranks]
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
