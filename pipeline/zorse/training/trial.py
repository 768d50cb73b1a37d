"""A run's first steps, taken to measure them and thrown away."""

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from zorse.config.schema import Config
from zorse.data.dataset import Shards
from zorse.data.loader import pair_batches
from zorse.data.order import RankSlice
from zorse.data.workers import workers_explained
from zorse.errors import OneRankError
from zorse.evaluation.evaluator import AT_ONCE, translation
from zorse.training.devices import peak_memory
from zorse.training.schedule import learning_rates
from zorse.training.state import TrainState
from zorse.training.update import Update
from zorse_prep.format import channels_of

SECONDS = 3.0  # of each measurement, about


class Trial(NamedTuple):
    """What was measured. loaded, trained: pairs per second of all processes. unreadable: the first such image, and
    warning: that of the data workers, None for none. used, available: bytes of memory at the peak and in all of the
    process that comes nearest to it. finite: whether all losses were."""

    loaded: float
    trained: float
    unreadable: str | None
    warning: str | None
    used: float
    available: float
    finite: bool


def try_steps(config: Config, shards: Shards, rank_slice: RankSlice, accelerator: Accelerator) -> Trial:
    """Measure how fast images come, and how fast steps go. All ranks take part, and get the same.

    Raises OneRankError for a step that does not fit into the memory, and for data that cannot be read.
    """
    warnings = []
    batches = pair_batches(
        shards, config.images, rank_slice, seed=config.optimization.seed, lanes=config.optimization.batch, start=0,
        workers=config.data.workers, pin=accelerator.device.type == "cuda", warn=warnings.append,
    )  # fmt: skip
    with workers_explained(), closing(batches):
        per_second, unreadable = loading(batches)
        loaded = min(gather_object([per_second])) * rank_slice.world_size * rank_slice.micro_batch_size
        try:
            trained, used, available, finite = steps(config, shards, rank_slice, accelerator, batches)
        except torch.OutOfMemoryError:
            fix = "give --activation-checkpointing, more --grad-accum-steps, a smaller --batch or --crop-size"
            tried = f"a step, or translating {AT_ONCE} test images,"
            raise OneRankError(f"{tried} does not fit into the memory of rank {rank_slice.rank}; {fix}") from None
    unreadable, warning = (
        next((line for line in gather_object([mine]) if line), None)
        for mine in (unreadable, next(iter(warnings), None))
    )
    return Trial(loaded, trained, unreadable, warning, used, available, finite)


def loading(batches: Iterator[dict]) -> tuple[float, str | None]:
    """Micro-batches a second of this process, while all read, and the first image that could not be read."""
    for _ in islice(batches, 4):  # until the workers run
        pass
    began, count, failed = time.perf_counter(), 0, []
    while time.perf_counter() - began < SECONDS:
        failed += next(batches)["failed"]
        count += 1
    first = (
        f"{failed[0]['shard']} sample {failed[0]['sample']} cannot be read ({failed[0]['reason']})" if failed else None
    )
    return count / (time.perf_counter() - began), first


def steps(
    config: Config, shards: Shards, rank_slice: RankSlice, accelerator: Accelerator, batches: Iterator[dict]
) -> tuple[float, float, float, bool]:
    """Take real training steps that are thrown away, and translate test images as for a sample grid.

    Returns pairs per second of all processes, bytes of memory at the peak and in all, and whether losses stayed finite.
    """
    device, optimization = accelerator.device, config.optimization
    state = TrainState.build(config, shards, rank_slice, accelerator)
    update = Update(accelerator, state)
    rates = learning_rates(0, optimization, shards.epoch)
    pairs = [next(batches) for _ in range(config.compute.grad_accum_steps)]

    # The first step is not counted, since it prepares what later ones use.
    count, finite, began = -1, True, 0.0
    while True:
        losses = update(pairs, rates)[-1]
        finite = finite and all(bool(loss.isfinite()) for loss in losses.values())  # which waits for the device
        count += 1
        began = began or time.perf_counter()
        seconds = time.perf_counter() - began
        if max(gather_object([seconds])) > SECONDS and count:  # all stop after the same step
            break

    # Sample grids and evaluations need memory, too.
    translate = translation(state.generators, accelerator, shards.modes)
    images = torch.zeros(AT_ONCE, channels_of(shards.modes["a"]), *config.eval_size, dtype=pairs[0]["a"].dtype)
    translate("b_to_a", translate("a_to_b", images))
    if device.type == "cuda":
        available = torch.cuda.get_device_properties(device).total_memory
    else:
        available = psutil.Process().memory_info().rss + psutil.virtual_memory().available
    peak = max(gather_object([peak_memory(device) / available]))
    return count * optimization.batch / seconds, peak * available, available, all(gather_object([finite]))
