"""What a checkpoint costs a run: python benchmarks/save.py [--batch 1 16] [--folder DIR].

The paper's networks at 256 pixels on one process, histories full. For each batch: the size of a checkpoint; how long
the step after it waits when it is written behind training; how long when it is waited for; and how long reading and
checking it takes on resume. Seconds, median of the rounds.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.writer import CheckpointWriter
from zorse.config.schema import Losses, Networks
from zorse.cyclegan.image_pool import ImagePool
from zorse.cyclegan.step import CycleGANStep
from zorse.runs.lock import RunLock

SIZE = 256


def full_pools(batch: int, device: torch.device) -> dict[str, ImagePool]:
    pools = {
        name: ImagePool(range(batch), Losses().image_pool_size, (SIZE, SIZE), domain=number, seed=0, device=device)
        for number, name in enumerate("ab")
    }
    for images in pools.values():
        for slot in range(batch):
            images.load(slot, torch.rand(Losses().image_pool_size, 3, SIZE, SIZE))
    return pools


def timed(part) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; by default the folder for temporary files")
    options = parser.parse_args()
    # The paper's networks with an optimizer that has made a step, so that all tensors exist.
    accelerator = Accelerator()
    model = CycleGANStep(Networks(generator_blocks=9), Losses(), 0).to(accelerator.device)
    adam = torch.optim.Adam(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    adam.step()

    table = Table(title=f"a checkpoint of the paper's networks, {accelerator.device.type}, seconds")
    for name in ("batch", "MB", "the run waits", "until it is whole", "if waited for", "resume"):
        table.add_column(name, justify="right")
    for batch in options.batch:
        pools = full_pools(batch, accelerator.device)
        state = SimpleNamespace(model=model, optimizer=adam, pools=pools, ema=None)
        state.record = lambda: {"pairs_seen": state.pairs_seen}  # noqa: B023
        # Save behind training and by waiting, in turns; then resume.
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            out = Path(folder) / "run"
            saver = CheckpointWriter(out, accelerator, RunLock(out), print, keep=1, keep_every=None, resumed=None)
            behind, whole, waited, resume = [], [], [], []
            for number in range(2 * options.rounds):
                state.pairs_seen, wait = number, bool(number % 2)
                took = timed(lambda: saver.save(state, best=None, wait=wait))  # noqa: B023
                if wait:
                    waited.append(took)
                else:
                    behind.append(took)
                    whole.append(took + timed(lambda: saver.poll(wait=True)))  # noqa: B023
            for _ in range(options.rounds):
                resume.append(
                    timed(lambda: checkpoint.restore(checkpoint.latest_valid(out), state))  # noqa: B023
                )
            size = sum(file.stat().st_size for file in checkpoint.latest_valid(out).iterdir()) / 1e6
            shutil.rmtree(out)
        row = [f"{statistics.median(times):.2f}" for times in (behind, whole, waited, resume)]
        table.add_row(str(batch), f"{size:.0f}", *row)
    Console().print(table)


if __name__ == "__main__":
    main()
