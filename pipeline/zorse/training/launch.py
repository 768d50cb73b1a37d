"""What the launcher asked for against what this process got: number of processes, precision, accelerate's settings.

accelerate takes settings from its environment and from a configuration that `accelerate config` left behind, and where
it cannot start what it was asked for, it starts less. Each of these is used and stated, or refused.
"""

import argparse
import io
import os
import platform
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, suppress
from pathlib import Path

import accelerate
import psutil
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from zorse.config.schema import Config
from zorse.errors import OneRankError, UserError, first_sentence
from zorse.invocation import by_zorse
from zorse.processes import TRUE
from zorse.version import __version__

# What accelerate would train with in a way that is not ours, by the variables in which its launcher passes it on.
PLUGINS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")  # of torchrun and MPI
LONG_WORK = 1e12  # pairs x pixels x channels squared; quick on horse2zebra has 4e10, the paper's default 1e13
# How accelerate launch is called, and after how many words its options begin.
LAUNCHERS = {
    "accelerate": 2, "accelerate-launch": 1, "accelerate.commands.launch": 1, "accelerate.commands.accelerate_cli": 2,
}  # fmt: skip


def start_accelerator(**options) -> Accelerator:
    """An Accelerator of all processes that were launched. options: for it.

    Raises UserError where there are others than were asked for, and for settings that are not ours to use.
    """
    check_settings()
    check_devices()
    try:
        accelerator = Accelerator(**options)
    except (ValueError, ImportError, NotImplementedError) as error:  # of other settings in its environment
        raise UserError(f"accelerate refuses its settings: {first_sentence(error)}") from None
    check_processes(accelerator)
    check_precision(accelerator)
    return accelerator


def check_settings() -> None:
    """Raise UserError for settings of accelerate's that would change how a run trains, without Zorse knowing."""

    def refuse(what: str, instead: str) -> None:
        given = f"accelerate's environment or configuration asks for {what}"
        raise UserError(f"{given}; {instead}, or start with launch/train.sh, which asks for nothing else")

    for name, plugin in PLUGINS.items():
        if os.environ.get(name, "").lower() in TRUE:
            refuse(plugin, "Zorse supports DDP alone: choose it in accelerate config")
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps == "1" and (options := launch_options()):
        steps = str(options.gradient_accumulation_steps or 1)  # which goes nowhere without DeepSpeed
    if steps != "1":
        refuse(
            f"gradient_accumulation_steps {steps}",
            f"leave it out and give pipeline/train.py --grad-accum-steps {steps}",
        )
    if (backend := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()) != "no":
        refuse(
            f"dynamo_backend {backend}", "give accelerate launch --dynamo_backend no, and pipeline/train.py --compile"
        )
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()) not in ("no", "bf16", "fp16"):
        raise UserError(f"mixed precision {precision} is not supported; use bf16, fp16 or no")


def check_devices() -> None:
    """Raise UserError where the launcher started more processes than there are GPUs for.

    accelerate would let several of them train, each as if alone, into the same run directory.
    """
    launched, local = (int(os.environ.get(name) or value) for name, value in (("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in TRUE
    gpus = torch.accelerator.device_count()
    if launched > 1 and not use_cpu and local >= gpus:
        fix = f"give accelerate launch --num_processes {gpus}" if gpus else "set ACCELERATE_USE_CPU=true to use the CPU"
        message = f"{launched} processes were launched, but this machine has {gpus} GPUs; {fix}"
        raise OneRankError(message) if local == gpus else UserError(message)


def check_processes(accelerator: Accelerator) -> None:
    """Raise UserError where a launcher was asked for another number of processes than train together."""
    count = accelerator.num_processes
    asked = next((int(os.environ[name]) for name in WORLD_SIZES if os.environ.get(name, "").isdecimal()), None)
    if asked is not None and asked != count:
        fix = "start them with accelerate launch --multi_gpu or torchrun"
        raise UserError(f"{asked} processes were launched, but only {count} of them found each other; {fix}")
    asked = asked or asked_of_accelerate() or count
    if asked != count:
        fix = f"for {asked} on CPUs: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {asked} ..."
        if torch.accelerator.device_count() > 1:
            fix = "add --multi_gpu"
        problem = f"accelerate launch was asked for {asked} processes and started {count}"
        raise UserError(f"{problem}; {fix}, or give --num_processes 1")


def asked_of_accelerate() -> int | None:
    """Number of processes that accelerate launch was asked for where it started this one alone; None if it did not.

    It tells no more than that there are several, by an address for them.
    """
    options = launch_options()
    if options is None or not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    with suppress(OSError, ValueError):
        return options.num_processes or load_config_from_file(options.config_file).num_processes
    return None


def launch_options() -> argparse.Namespace | None:
    """The options that accelerate launch was given, from its command line; None where something else started this."""
    with suppress(psutil.Error, OSError, ValueError, SystemExit), redirect_stderr(io.StringIO()):
        parts = psutil.Process(os.getppid()).cmdline()
        names = [Path(part).name for part in parts]
        for name, before in LAUNCHERS.items():
            if name in names:
                return launch_command_parser().parse_args(parts[names.index(name) + before :])
    return None


def check_precision(accelerator: Accelerator) -> None:
    """Raise UserError for a mixed precision that cannot be had here; accelerate would compute in float32 instead."""
    precision, device = accelerator.mixed_precision, accelerator.device
    if precision == "fp16" and accelerator.scaler is None:
        raise UserError("mixed precision fp16 needs a GPU, and there is none here; use bf16, or no")
    if precision == "bf16" and emulates_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"{name} only emulates bf16, slower than float32; use --mixed-precision fp16, or no")


def emulates_bf16(device: torch.device) -> bool:
    """Whether a GPU computes bf16 in float32, as those of NVIDIA do before compute capability 8.0."""
    return device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) < (8, 0)


def summary(config: Config, accelerator: Accelerator) -> str:
    """What a run computes with, in a line: processes, devices, global batch, precision.

    accelerate launch gives each process one thread unless it is told otherwise.
    """
    count, device, threads = accelerator.num_processes, accelerator.device, torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    if device.type == "cpu":
        name += f" ({threads} thread{'s' * (threads > 1)}{' each' * (count > 1)})"
    precision = config.compute.dtype
    if accelerator.mixed_precision != "no":
        precision = f"mixed precision {accelerator.mixed_precision}"
    elif device.type == "cuda" and precision == "float32" and config.compute.tf32 == "on":
        precision = "float32 with TF32"
    return f"{count} process{'es' * (count > 1)} on {name}, batch {config.optimization.batch}, {precision}"


def about_bf16(config: Config, accelerator: Accelerator) -> str | None:
    """What to know of bf16 on a GPU that has it, in a run that chose no precision; None elsewhere."""
    device, asked = accelerator.device, config.compute.mixed_precision
    if asked or accelerator.mixed_precision != "no" or device.type != "cuda" or emulates_bf16(device):
        return None
    return (
        "precision: float32, the default, as the paper's networks are trained; this GPU has bf16, too, in which "
        "activations take half the memory: --mixed-precision bf16"
    )


def about_cpu(config: Config, total_pairs: int, device: torch.device) -> str | None:
    """A warning that a run is long for a CPU, before it has a rate to say how long; None for all others."""
    work = total_pairs * config.images.crop[0] * config.images.crop[1] * config.networks.generator_channels**2
    if device.type != "cpu" or work < LONG_WORK:
        return None
    fix = "" if config.preset == "quick" else "; --preset quick is made for CPUs"
    return f"warning: there is no GPU, and a run of this size takes days to months on a CPU{fix}"


def made_with() -> str:
    """The command that runs, with its versions and its machine, for whoever asks later how a run was made."""
    program = ["zorse", "train"] if by_zorse() else [Path(sys.argv[0]).name]
    command = shlex.join([*program, *sys.argv[1:]])
    here = f" at commit {made_from}" if (made_from := commit()) else ""
    versions = f"zorse {__version__}{here}, Python {platform.python_version()}, torch {torch.__version__}"
    return f"{command} ({versions}, accelerate {accelerate.__version__}, on {platform.node()})"


def commit() -> str | None:
    """The commit of Zorse's own folder, with "-dirty" where files differ from it; None where it is no clone."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    git = ["git", "--no-optional-locks", "-C", folder, "describe", "--always", "--dirty", "--exclude", "*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return None


def alone_in_a_step() -> str | None:
    """A warning where srun started several tasks, and each of them trains by itself; None elsewhere."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks == "1" or any(name in os.environ for name in WORLD_SIZES):
        return None
    return (
        f"warning: srun started {tasks} tasks, and each trains on its own; for one run on all, use launch/train.sbatch"
    )
