"""What would fail in a training run: machines, data, a step, memory, disk, length."""

import math
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

import accelerate
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from zorse.checkpoints import format as checkpoint
from zorse.config.resolve import resolve, run_directory
from zorse.config.schema import Config
from zorse.cyclegan.ema import Average
from zorse.data.dataset import Shards
from zorse.data.loader import pair_batches
from zorse.data.order import Share
from zorse.errors import OneRankError, UserError
from zorse.evaluation.evaluator import AT_ONCE, too_few, translation
from zorse.evaluation.features import feature_network
from zorse.runs.directory import check_new
from zorse.training.devices import check_graph, check_launch, check_precision, exchange_of_gradients, use_hardware
from zorse.training.init_from import begin_with
from zorse.training.schedule import learning_rates, total_pairs
from zorse.training.state import build_adam, build_history, build_model, open_together
from zorse.training.update import Update
from zorse_prep.format import CHANNELS

SECONDS = 3.0  # of each measurement, about
FINE, DOUBT, BAD = "[green]fine[/]", "[yellow]doubt[/]", "[bold red]FAILS[/]"


class Finding(NamedTuple):
    verdict: str
    what: str
    found: str


def examine(config: Config) -> list[Finding]:
    """On rank 0 what was found; other ranks take part in it. Nothing is left in the run directory."""
    check_launch()
    accelerator = Accelerator(kwargs_handlers=[exchange_of_gradients(config.run)])
    check_precision(accelerator)
    if config.run.cuda_graph:
        check_graph(accelerator)
    shards = open_together(config.run, accelerator)
    config = resolve(config, accelerator.num_processes, accelerator.mixed_precision)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    share = Share(rank, ranks, config.run.accumulate, config.optimization.batch)
    findings = [*machines(accelerator), data(shards), *resumed(config, shards, accelerator), collective(accelerator)]
    if config.run.init_from:
        model = build_model(config, shards.modes, torch.device("cpu"))
        told = begin_with(config.run.init_from, model, config.networks, shards.modes)
        findings.append(Finding(FINE, "weights", told))
        del model
    batches = pair_batches(
        shards, config.images, share, seed=config.optimization.seed, lanes=config.optimization.batch, start=0,
        workers=config.run.workers, pin=accelerator.device.type == "cuda",
    )  # fmt: skip
    each, failed = reading(batches)
    read = min(gather_object([each])) * share.world_size * share.each
    failed = [entry for entry in gather_object([failed]) if entry]
    try:
        trained, used, available, finite = steps(config, shards, share, accelerator, batches)
    except torch.OutOfMemoryError:
        fix = "give --recompute, more --accumulate, a smaller --batch or --crop-size"
        what = f"a step, or translating {AT_ONCE} test images,"
        raise OneRankError(f"{what} does not fit into the memory of rank {rank}; {fix}") from None
    batches.close()
    # Without workers, reading and training take turns.
    speed = min(read, trained) if config.run.workers else 1 / (1 / read + 1 / trained)
    pairs, more = total_pairs(config.optimization, shards.epoch), f"give more than --workers {config.run.workers}"
    left = timedelta(seconds=round(pairs / speed))
    findings.append(Finding(FINE if finite else BAD, "a step", f"{trained:.1f} pairs/s, losses are finite: {finite}"))
    enough = speed > 0.95 * trained and (read > 1.2 * trained or not config.run.workers)
    found = f"{read:.1f} pairs/s" + ("" if enough else f"; training would wait for data, {more}")
    findings.append(Finding(FINE if enough else DOUBT, "reading", found))
    if failed:
        findings.append(Finding(DOUBT, "images", f"{failed[0]}; shard.py verify OUT --deep names all of them"))
    verdict = FINE if used < 0.9 * available else DOUBT
    findings.append(Finding(verdict, "memory", f"{used / 1e9:.1f} of {available / 1e9:.1f} GB a process, at its peak"))
    findings.append(
        Finding(FINE, "length", f"{pairs} pairs = {-(-pairs // config.optimization.batch)} steps, {left} at this speed")
    )
    return [*findings, *disk(config, shards), evaluation(config)]


def machines(accelerator: Accelerator) -> list[Finding]:
    """Versions and devices, which should be the same everywhere."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, accelerate {accelerate.__version__}"
    if device.type == "cuda":
        versions += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        versions += f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    everywhere = gather_object([(platform.node(), name, versions)])
    hosts, names, found = (sorted({each[i] for each in everywhere}) for i in range(3))
    return [
        Finding(
            FINE if len(names) == 1 else DOUBT,
            "devices",
            f"{' or '.join(names)}: processes {len(everywhere)}, machines {len(hosts)}",
        ),
        Finding(FINE if len(found) == 1 else DOUBT, "versions", " or ".join(found)),
    ]


def data(shards: Shards) -> Finding:
    """Its files are there at their sizes, or `open_together` would have said so."""
    tests = [len(split) if split else 0 for split in (shards.test_a, shards.test_b)]
    found = f"{len(shards.train_a)} + {len(shards.train_b)} training and {tests[0]} + {tests[1]} test images"
    reason = too_few(shards)
    return Finding(
        DOUBT if reason else FINE, "data", f"{shards.root}: {found}" + (f"; no evaluation: {reason}" if reason else "")
    )


def resumed(config: Config, shards: Shards, accelerator: Accelerator) -> list[Finding]:
    """What is there to go on from? Raises UserError as a run would."""
    newest = checkpoint.newest(run_directory(config)) if accelerator.is_main_process else None
    if newest is None:
        if accelerator.is_main_process:
            check_new(run_directory(config))
        return []
    state, _, _ = checkpoint.read_state(newest, config, checkpoint.constants(shards))
    return [Finding(FINE, "resume", f"goes on from {newest}, at {state['pairs_seen']} pairs")]


def collective(accelerator: Accelerator) -> Finding:
    """Do the processes reach each other, and how fast do they add up the paper's gradients, 113 MB?"""
    ranks = accelerator.num_processes
    if ranks == 1:
        return Finding(FINE, "exchange", "one process, nothing to exchange")
    gradients = torch.ones(28_286_000, device=accelerator.device)
    taken = []
    for _ in range(4):
        accelerator.wait_for_everyone()
        began = time.perf_counter()
        total = accelerator.reduce(gradients.clone(), "sum")
        correct = bool((total == ranks).all())  # which waits for the device
        taken.append(time.perf_counter() - began)
    speed = f"113 MB added up over {ranks} processes in {1000 * min(taken[1:]):.0f} ms"
    everywhere = all(gather_object([correct]))
    return Finding(FINE if everywhere else BAD, "exchange", speed + ("" if everywhere else ", with a WRONG result"))


def reading(batches: Iterator[dict]) -> tuple[float, str | None]:
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
    config: Config, shards: Shards, share: Share, accelerator: Accelerator, batches: Iterator[dict]
) -> tuple[float, float, float, bool]:
    """Real training steps that are thrown away, and translations as of a sample grid: steps' pairs per second of all
    processes, bytes at the peak, bytes there are, whether losses stayed finite."""
    device, optimization = accelerator.device, config.optimization
    model = build_model(config, shards.modes, device)
    use_hardware(model, device, config.run)
    average = Average(model.generators, optimization.ema_pairs) if optimization.ema_pairs else None
    history = build_history(config, shards.modes, share, device)
    adam = build_adam(config, model)
    prepared = accelerator.prepare(model, adam)
    update = Update(accelerator, model, *prepared, average, history, share, config.run.cuda_graph)
    rates = learning_rates(0, optimization, shards.epoch)
    pairs = [next(batches) for _ in range(config.run.accumulate)]
    count, finite, began = -1, True, 0.0  # the first step makes ready what later ones use
    while True:
        last = update(pairs, 0, rates)[-1]
        finite = finite and all(bool(loss.isfinite()) for loss in last.values())  # which waits for the device
        count += 1
        began = began or time.perf_counter()
        taken = time.perf_counter() - began
        if max(gather_object([taken])) > SECONDS and count:  # all stop after the same step
            break
    generators = average.generators if average else model.generators
    translate = translation(generators, accelerator, shards.modes)
    images = torch.zeros(AT_ONCE, CHANNELS[shards.modes["a"]], *config.tested, dtype=pairs[0]["a"].dtype)
    translate("b_to_a", translate("a_to_b", images))
    if device.type == "cuda":
        used, available = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        available = psutil.Process().memory_info().rss + psutil.virtual_memory().available
    most = max(gather_object([used / available]))
    return count * optimization.batch / taken, most * available, available, all(gather_object([finite]))


def disk(config: Config, shards: Shards) -> list[Finding]:
    """Can the run directory be written, and does it hold the checkpoints to come?"""
    out = run_directory(config).resolve()
    there = next(folder for folder in (out, *out.parents) if folder.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0")
    except OSError as error:
        return [Finding(BAD, "run directory", f"{there} cannot be written ({error.strerror}); give another --out")]
    item = 8 if config.run.dtype == "float64" else 4
    model = build_model(config, shards.modes, torch.device("meta"))
    weights, generators = (item * sum(p.numel() for p in part.parameters()) for part in (model, model.generators))
    pixels = sum(CHANNELS[mode] for mode in shards.modes.values()) * math.prod(config.images.crop)
    images = config.losses.history * config.optimization.batch * pixels
    each = 3 * weights + (generators if config.optimization.ema_pairs else 0) + item * images
    pairs = total_pairs(config.optimization, shards.epoch)
    milestones = pairs // config.run.keep_every if config.run.keep_every else 0
    count = config.run.keep + milestones + 2  # the best, and the one that is being written
    free = shutil.disk_usage(there).free
    told = f"{count} checkpoints of {each / 1e6:.0f} MB, and {free / 1e9:.1f} GB free in {there}"
    verdict = FINE if free > 1.1 * count * each else DOUBT if free > 2.2 * each else BAD
    return [Finding(verdict, "disk", told + ("" if verdict == FINE else "; give fewer --keep, or another --out"))]


def evaluation(config: Config) -> Finding:
    """Can the feature network be had?"""
    if config.run.features == "none":
        return Finding(FINE, "evaluation", "without a feature network")
    try:
        network = feature_network(config.run.features, config.run.feature_weights, torch.device("cpu"))
    except UserError as error:
        return Finding(BAD, "evaluation", str(error))
    return Finding(FINE, "evaluation", f"by {network.name}, weights {network.sha256[:12]}")
