"""Checkpoints: the whole state of a run, in files without pickles, that exist whole or not at all.

checkpoints/pairs-000000001200/
    networks.safetensors     every parameter and buffer, under its name in CycleGANStep
    ema.safetensors          with --ema-pairs: the averaged generators
    optimizer.safetensors    Adam's moments and step, under FIELD/PARAMETER
    history-00000.safetensors  of each rank: the stored images of its slots, under DOMAIN/SLOT
    state.json               pairs seen, configuration, data constants, losses not yet reported, fp16's loss scale
    manifest.json            size and sha256 of every file, and which slots it has; written last
    keep                     in those that are never removed: milestones, or any that a user wants
checkpoints/best -> pairs-N  the one of the lowest distance so far; where there are no links, a file with its name

A checkpoint is written (writer.py) to a hidden directory that rank 0 renames when all of it is on disk. Older ones are
removed only afterwards. Nothing random is stored, since everything random is a function of the position (order.py).
The directory must be on a file system that all nodes share.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors.torch import save_file
from torch import Tensor, nn

from zorse.checkpoints.records import MANIFEST, STATE, State, how_to_mend, read_manifest, read_record
from zorse.checkpoints.tensors import is_empty, read_tensors, shapes_in
from zorse.config.resolve import changes, differences
from zorse.config.schema import UNLEARNED, Config
from zorse.cyclegan.ema import GeneratorEMA
from zorse.cyclegan.image_pool import ImagePool
from zorse.data import order
from zorse.data.dataset import Shards
from zorse.errors import OneRankError, UserError
from zorse.files import fsync, sha256_of

NETWORKS, EMA, OPTIMIZER = "networks.safetensors", "ema.safetensors", "optimizer.safetensors"
KEEP, BEST = "keep", "best"
NAME, LONGEST_NAME = re.compile(r"pairs-[0-9]{12}"), 64  # of a checkpoint; bytes
ATTEMPTS = 20  # to read a checkpoint that is removed meanwhile, since its run trains on
TOO_FAST = "its checkpoints are removed faster than they can be read; stop the run, or copy a checkpoint"
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam
# Stated elsewhere, or nowhere.
PER_LAUNCH_OPTIONS = ("out", "init_from", "workers", "grad_accum_steps", "allow_change", "dry_run")


class Checkpointed(Protocol):
    """What a checkpoint is written from and restored into: training.state.TrainState.

    record: what state.json holds, but for the best checkpoint so far.
    """

    pairs_seen: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    pools: dict[str, ImagePool]
    ema: GeneratorEMA | None

    def record(self) -> dict: ...


def latest_valid(run: Path, warn: Callable[[str], None] = lambda line: None) -> Path | None:
    """The latest intact checkpoint of a run; None where there is none at all.

    Damaged ones are skipped, with a line to `warn`; one that a run which trains on has removed since it was listed is
    not damaged, but there is a newer one. Raises UserError when every one is damaged, so that no run starts from
    scratch over them.
    """
    told = set()

    def error_of(path: Path) -> str | None:
        problem = integrity_error(path)
        if problem and not path.exists():
            raise Removed
        return problem

    def warn_once(line: str) -> None:
        if line not in told:
            told.add(line)
            warn(line)

    for _ in range(ATTEMPTS):
        try:
            return _first_intact(run, list_checkpoints(run), error_of, warn_once)
        except Removed:
            continue
    raise UserError(f"{run}: {TOO_FAST}")


class Removed(Exception):
    """A checkpoint is gone that was there when it was listed."""


def latest_for_all_ranks(run: Path, accelerator: Accelerator, warn: Callable[[str], None]) -> Path | None:
    """latest_valid on every rank of a training run; each rank verifies its share of the files.

    Damaged checkpoints that are skipped are renamed to damaged-N, so that pruning does not count them as the latest.
    """
    rank, ranks = accelerator.process_index, accelerator.num_processes
    found = broadcast_object_list([list_checkpoints(run) if rank == 0 else None])[0]

    def error_on_any_rank(path: Path) -> str | None:
        return next(filter(None, gather_object([integrity_error(path, rank, ranks)])), None)

    whole = _first_intact(run, found, error_on_any_rank, warn)
    for path in found[: found.index(whole)] if whole and rank == 0 else []:
        try:
            set_aside(path)
        except OSError as error:
            warn(f"warning: {path} could not be set aside: {error}")
    return whole


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint. Raises OSError, also where folders cannot be renamed."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def followed(path: Path) -> Path:
    """The checkpoint that `best` or another link names, so that all that is read is of one while training goes on."""
    if path.name != BEST:
        return path.resolve() if path.is_symlink() and path.is_dir() else path
    named = path.with_name(name) if (name := name_in(path)) else path.resolve()
    return named if named.is_dir() else path


def name_in(best: Path) -> str | None:
    """The name of a checkpoint that a file holds; None where it is no file, or holds something else."""
    if not best.is_file():
        return None
    with best.open("rb") as file:
        name = file.read(LONGEST_NAME).decode(errors="replace").strip()
    return name if NAME.fullmatch(name) else None


def _first_intact(
    run: Path, found: list[Path], error_of: Callable[[Path], str | None], warn: Callable[[str], None]
) -> Path | None:
    for path in found:
        problem = error_of(path)
        if problem is None:
            return path
        warn(f"checkpoint {path} is damaged ({problem}); trying the one before")
    if found:
        fix = "restore one, or use another run directory"
        raise UserError(f"{run}: all {len(found)} checkpoints are damaged; {fix}")
    return None


def integrity_error(path: Path, first: int = 0, stride: int = 1) -> str | None:
    """What is wrong with a checkpoint, by its manifest, in every stride-th file from `first` on; None for nothing."""
    try:
        files = read_manifest(path)
        if missing := [name for name in (NETWORKS, OPTIMIZER, STATE) if name not in files]:
            return f"{MANIFEST} does not name {missing[0]}"
        if (path / EMA).exists() and EMA not in files:
            return f"{MANIFEST} does not name {EMA}"
        for name, expected in list(files.items())[first::stride]:
            size = (path / name).stat().st_size  # first, since what is no file, but a pipe, has none
            if size != expected["bytes"] or sha256_of(path / name) != expected["sha256"]:
                return f"{name} does not match its checksum"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except UserError:
        return f"{MANIFEST} cannot be read"
    return None


def data_identity(shards: Shards) -> dict:
    """What a checkpoint must agree with for its position in the data to mean the same images."""
    return {"order": order.VERSION, "data": shards.fingerprint, "modes": shards.modes}


def read_state(path: Path, config: Config, constants: dict) -> tuple[State, list[str], list[str]]:
    """state.json, and the options that have changed since: those that define what is learned, and the others.

    Raises UserError for changes that are not allowed.
    """
    state, before = read_record(path)
    changed, safe = changes(before, config), differences(before, config, UNLEARNED)
    if other := [name for name in constants if state["constants"].get(name) != constants[name]]:
        raise UserError(
            f"{path} was made with another {' and '.join(other)} than {config.data.path} has; "
            "give the same shards, or another --out"
        )
    return state, changed, [line for name, line in safe.items() if name not in PER_LAUNCH_OPTIONS]


def restore(path: Path, state: Checkpointed) -> None:
    """Load networks, optimizer, EMA and the image pools of this rank's slots. The world size may differ from before.

    An EMA starts from the networks where the checkpoint has none. Raises UserError where a file holds something else.
    """
    model, fix = state.model, how_to_mend(path)
    model.load_state_dict(read_tensors(path / NETWORKS, shapes_in(model), fix))
    if state.ema:
        stored = model.generators.state_dict()
        if EMA in read_manifest(path):
            stored = read_tensors(path / EMA, shapes_in(state.ema.generators), fix)
        state.ema.generators.load_state_dict(stored)
    if not is_empty(path / OPTIMIZER, fix):  # as it is before the first step
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        expected = {f"{field}/{name}": shape for field in MOMENTS for name, shape in shapes.items()}
        expected |= {f"step/{name}": () for name in shapes}
        _restore_adam(read_tensors(path / OPTIMIZER, expected, fix), model, state.optimizer)
    try:
        _restore_pools(path, state.pools)
    except UserError as error:  # of files that other ranks may not read
        raise OneRankError(str(error)) from None


def _restore_pools(path: Path, pools: dict[str, ImagePool]) -> None:
    """Load the images of the slots that this rank owns, from the files of the ranks that had them."""
    fix, before = how_to_mend(path), read_record(path)[1].optimization.batch
    wanted = {f"{domain}/{slot}" for domain in pools for slot in pools[domain].rows}
    files = read_manifest(path)
    written = {name for about in files.values() for name in about.get("history", [])}
    # A larger batch than before, as --allow-change permits, has slots without images.
    if missing := sorted(name for name in wanted - written if int(name.partition("/")[2]) < (before or 0)):
        raise UserError(f"{path / MANIFEST}: names no file with the images of slot {missing[0]}; {fix}")
    for file, about in files.items():
        mine = wanted.intersection(about.get("history", []))
        if not mine:
            continue  # not even opened: there may be thousands
        shapes = {name: (None, *pools[name.partition("/")[0]].images.shape[2:]) for name in mine}
        for name, images in read_tensors(path / file, shapes, fix, among_others=True).items():
            domain, _, slot = name.partition("/")
            if len(images) > pools[domain].size:
                raise UserError(
                    f"{path / file}: {name} has {len(images)} images, more than the image pool holds; {fix}"
                )
            pools[domain].load(int(slot), images)


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoints, latest first, intact or not."""
    return sorted((run / "checkpoints").glob("pairs-" + 12 * "[0-9]"), reverse=True)


def adam_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{field}/{name}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for field, value in optimizer.state[parameter].items()
    }


def _restore_adam(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(model.named_parameters())
    number = {name: i for i, name in enumerate(parameters)}  # also the order of the parameter groups
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        field, name = key.split("/")
        # Copied out of the mapped file, and Adam's moments into the memory format of their parameter.
        like = parameters[name] if tensor.ndim else tensor
        state.setdefault(number[name], {})[field] = torch.empty_like(like, device="cpu").copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode  # what the user's umask gives; safetensors would make it readable by its owner alone
    save_file(tensors, path)
    with suppress(OSError):  # of file systems without modes
        path.chmod(mode)
    fsync(path)


def describe(file: Path) -> dict:
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
