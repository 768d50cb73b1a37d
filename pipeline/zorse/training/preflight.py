"""What would fail in a training run: machines, data, a step, memory, disk, length."""

import math
import platform
import shutil
import tempfile
import time
from datetime import timedelta
from typing import NamedTuple

import accelerate
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.load import with_checkpoint
from zorse.config.resolve import resolve, run_directory
from zorse.config.schema import Config
from zorse.data.dataset import Shards
from zorse.data.order import RankSlice
from zorse.errors import UserError
from zorse.evaluation.evaluator import too_few
from zorse.evaluation.features import feature_network
from zorse.runs.directory import check_new
from zorse.runs.watchdog import Watchdog
from zorse.training.devices import check_cuda_graph, ddp_kwargs
from zorse.training.init_from import load_initial_weights
from zorse.training.launch import start_accelerator
from zorse.training.plan import number
from zorse.training.schedule import total_pairs
from zorse.training.state import build_model, open_dataset
from zorse.training.trial import try_steps
from zorse_prep.format import channels_of

OK, WARN, FAIL = "OK", "WARN", "FAIL"


class Finding(NamedTuple):
    verdict: str
    what: str
    found: str


def examine(config: Config, watchdog: Watchdog) -> list[Finding]:
    """Take a run's first steps and throw them away. Returns, on rank 0, what was found; all ranks take part.

    Nothing is left in the run directory.
    """
    # Set up as a run would, which refuses most mistakes by itself.
    accelerator = start_accelerator(
        mixed_precision=config.compute.mixed_precision, kwargs_handlers=[ddp_kwargs(config.compute)]
    )
    if config.compute.cuda_graph:
        check_cuda_graph(accelerator)
    shards = open_dataset(config, accelerator)
    config = resolve(config, accelerator.num_processes, accelerator.mixed_precision)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    rank_slice = RankSlice(rank, ranks, config.compute.grad_accum_steps, config.optimization.batch)
    findings = [*machines(accelerator), data(shards), *resumed(config, shards, accelerator), all_reduce(accelerator)]
    if source := config.checkpointing.init_from:
        model = build_model(config, shards.modes, torch.device("cpu"))
        findings.append(Finding(OK, "weights", load_initial_weights(source, model, config.networks, shards.modes)))
        del model

    watchdog.progress("first steps", 0)
    trial = try_steps(config, shards, rank_slice, accelerator)
    watchdog.progress("rest of the examination", 0)

    # What follows from the measurements. Without workers, loading and training take turns.
    workers, pairs = config.data.workers, total_pairs(config.optimization, shards.epoch)
    loaded, trained, finite = trial.loaded, trial.trained, trial.finite
    speed = min(loaded, trained) if workers else 1 / (1 / loaded + 1 / trained)
    left = timedelta(seconds=round(pairs / speed))
    losses = "finite" if finite else "not finite"
    findings.append(Finding(OK if finite else FAIL, "a step", f"{trained:.1f} pairs/s, losses are {losses}"))
    enough = speed > 0.95 * trained and (loaded > 1.2 * trained or not workers)
    slow = "" if enough else f"; training would wait for data, give more than --workers {workers}"
    findings.append(Finding(OK if enough else WARN, "data loading", f"{loaded:.1f} pairs/s{slow}"))
    if trial.unreadable:
        findings.append(Finding(WARN, "images", f"{trial.unreadable}; zorse shard verify OUT --deep names all of them"))
    if trial.warning:
        findings.append(Finding(WARN, "shared memory", trial.warning.removeprefix("warning: ")))
    verdict = OK if trial.used < 0.9 * trial.available else WARN
    memory = f"{trial.used / 1e9:.1f} of {trial.available / 1e9:.1f} GB a process, at its peak"
    findings.append(Finding(verdict, "memory", memory))
    length = f"{pairs} pairs = {-(-pairs // config.optimization.batch)} steps, {left} at this speed"
    findings.append(Finding(OK, "length", length))
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
            OK if len(names) == 1 else WARN,
            "devices",
            f"{' or '.join(names)}: {number(len(everywhere), 'process', 'es')} on {number(len(hosts), 'machine')}",
        ),
        Finding(OK if len(found) == 1 else WARN, "versions", " or ".join(found)),
    ]


def data(shards: Shards) -> Finding:
    """Its files are there at their sizes, or `open_dataset` would have raised."""
    tests = [len(split) if split else 0 for split in (shards.test_a, shards.test_b)]
    found = f"{len(shards.train_a)} + {len(shards.train_b)} training and {tests[0]} + {tests[1]} test images"
    reason = too_few(shards)
    return Finding(
        WARN if reason else OK, "data", f"{shards.root}: {found}" + (f"; no evaluation: {reason}" if reason else "")
    )


def resumed(config: Config, shards: Shards, accelerator: Accelerator) -> list[Finding]:
    """The checkpoint that a run would resume, and damaged ones. Raises UserError as a run would."""
    run, damaged = run_directory(config), []
    if not accelerator.is_main_process:
        return []
    if not checkpoint.list_checkpoints(run):
        check_new(run)
        return []
    same = checkpoint.data_identity(shards)
    path, state = with_checkpoint(
        run, lambda path: (path, checkpoint.read_state(path, config, same)[0]), warn=damaged.append
    )
    found = Finding(OK, "resume", f"resumes {path}, at {state['pairs_seen']} pairs")
    return [*(Finding(WARN, "checkpoint", line) for line in damaged), found]


def all_reduce(accelerator: Accelerator) -> Finding:
    """Do the processes reach each other, and how fast do they all-reduce the paper's gradients, 113 MB?"""
    ranks = accelerator.num_processes
    if ranks == 1:
        return Finding(OK, "all-reduce", "one process, nothing to reduce")
    gradients = torch.ones(28_286_000, device=accelerator.device)
    seconds = []
    for _ in range(4):
        accelerator.wait_for_everyone()
        began = time.perf_counter()
        total = accelerator.reduce(gradients.clone(), "sum")
        correct = bool((total == ranks).all())  # which waits for the device
        seconds.append(time.perf_counter() - began)
    found = f"113 MB over {ranks} processes in {1000 * min(seconds[1:]):.0f} ms"
    everywhere = all(gather_object([correct]))
    return Finding(OK if everywhere else FAIL, "all-reduce", found + ("" if everywhere else ", with a WRONG result"))


def disk(config: Config, shards: Shards) -> list[Finding]:
    """Can the run directory be written, and does it hold the checkpoints to come?"""
    out = run_directory(config).resolve()
    there = next(folder for folder in (out, *out.parents) if folder.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0")
    except OSError as error:
        return [Finding(FAIL, "run directory", f"{there} cannot be written ({error.strerror}); give another --out")]
    item = 8 if config.compute.dtype == "float64" else 4
    model = build_model(config, shards.modes, torch.device("meta"))
    weights, generators = (item * sum(p.numel() for p in part.parameters()) for part in (model, model.generators))
    pixels = sum(channels_of(mode) for mode in shards.modes.values()) * math.prod(config.images.crop)
    images = config.losses.image_pool_size * config.optimization.batch * pixels
    each = 3 * weights + (generators if config.optimization.ema_pairs else 0) + item * images
    pairs = total_pairs(config.optimization, shards.epoch)
    milestones = pairs // config.checkpointing.keep_every if config.checkpointing.keep_every else 0
    count = config.checkpointing.keep + milestones + 2  # the best, and the one that is being written
    total, _, free = shutil.disk_usage(there)
    needs = f"{count} checkpoints of {each / 1e6:.0f} MB, and {free / 1e9:.1f} GB free in {there}"
    verdict = OK if free > 1.1 * count * each or not total else WARN if free > 2.2 * each else FAIL
    return [Finding(verdict, "disk", needs + ("" if verdict == OK else "; give fewer --keep, or another --out"))]


def evaluation(config: Config) -> Finding:
    """Can the feature network be had?"""
    if config.evaluation.features == "none":
        return Finding(OK, "evaluation", "without a feature network")
    try:
        network = feature_network(config.evaluation.features, config.evaluation.feature_weights, torch.device("cpu"))
    except UserError as error:
        return Finding(FAIL, "evaluation", str(error))
    return Finding(OK, "evaluation", f"by {network.name}, weights {network.sha256[:12]}")
