"""Checkpoints: the whole state of a run, in files without pickles, that exist whole or not at all.

checkpoints/pairs-000000001200/
    networks.safetensors     every parameter, under its name in CycleGANStep
    optimizer.safetensors    Adam's moments and step, under FIELD/PARAMETER
    history-00000.safetensors  of each rank: the stored images of its slots, under DOMAIN/SLOT
    state.json               pairs seen, configuration, data constants, losses not yet reported
    manifest.json            size and sha256 of every file; written last

A checkpoint is written to a hidden directory that rank 0 renames when all of it is on disk. Older ones are removed
only afterwards. Nothing random is stored, since everything random is a function of the position (order.py). The
directory must be on a file system that all nodes share.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.config import Config, UserError
from pipeline.history import ImageHistory
from pipeline.rundir import changes, from_dict, fsync, write_durably

NETWORKS, OPTIMIZER, STATE, MANIFEST = "networks.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


def save(
    run: Path,
    state: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: dict[str, ImageHistory],
    accelerator: Accelerator,
    keep: int,
) -> str | None:
    """Write checkpoints/pairs-N, N = state["pairs_seen"], and remove all but the newest `keep`. Called by all ranks.

    Returns what went wrong on some rank, such as a full disk; then the earlier checkpoints are as they were.
    """
    final = run / "checkpoints" / f"pairs-{state['pairs_seen']:012d}"
    temporary = final.with_name(f".{final.name}.tmp")
    ranks = accelerator.num_processes

    def write() -> None:
        slots = {f"{domain}/{slot}": images for domain in history for slot, images in history[domain].state().items()}
        _save_tensors(slots, temporary / f"history-{accelerator.process_index:05d}.safetensors")
        if accelerator.is_main_process:
            _save_tensors(dict(model.named_parameters()), temporary / NETWORKS)
            _save_tensors(_optimizer_tensors(model, optimizer), temporary / OPTIMIZER)
            write_durably(temporary / STATE, json.dumps(state, indent=2, default=str))

    def commit() -> None:
        # Names that must be there, not a listing, which a network file system may give late.
        names = [NETWORKS, OPTIMIZER, STATE, *[f"history-{rank:05d}.safetensors" for rank in range(ranks)]]
        files = {name: _describe(temporary / name) for name in names}
        write_durably(temporary / MANIFEST, json.dumps(files, indent=2))
        fsync(temporary)
        temporary.rename(final)
        fsync(final.parent)
        for old in _all(run)[keep:]:
            shutil.rmtree(old)

    def begin() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    alone = accelerator.is_main_process
    for part, mine in ((begin, alone), (write, True), (commit, alone)):
        problem = _problem(part) if mine else None
        problem = next(filter(None, gather_object([problem])), None)  # and nobody goes on before all are done
        if problem:
            if alone:
                shutil.rmtree(temporary, ignore_errors=True)
            return problem
    return None


def _problem(part: Callable[[], None]) -> str | None:
    try:
        part()
    except (OSError, SafetensorError) as error:
        return str(error)
    return None


def newest(run: Path, warn: Callable[[str], None] = lambda line: None) -> Path | None:
    """The newest whole checkpoint of a run; None where there is none at all.

    Passes over damaged ones, telling `warn`. Raises UserError when every one is damaged, so that no run starts afresh
    over them.
    """
    found = _all(run)
    for path in found:
        problem = damage(path)
        if problem is None:
            return path
        warn(f"checkpoint {path} is damaged ({problem}); trying the one before")
    if found:
        raise UserError(f"{run}: all {len(found)} checkpoints are damaged; restore one, or give another --out")
    return None


def newest_for_all(run: Path, accelerator: Accelerator, warn: Callable[[str], None]) -> Path | None:
    """What `newest` says on rank 0, on every rank: files are read and judged once.

    Damaged ones that it passes over are set aside as damaged-N, so that no pruning counts them as the newest.
    """
    answer = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = newest(run, warn)
            for path in _all(run):
                if path == answer[0]:
                    break
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
        except UserError as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1]:
        raise UserError(answer[1])
    return answer[0]


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest; None when it is whole."""
    try:
        files = json.loads((path / MANIFEST).read_text())
        for name, expected in files.items():
            if _describe(path / name) != expected:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{Path(error.filename).name} cannot be read"
    except (ValueError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def read_state(path: Path, config: Config, constants: dict) -> tuple[dict, list[str]]:
    """state.json, and the options that have changed since. Raises UserError for changes that are not allowed."""
    state = json.loads((path / STATE).read_text())
    changed_options = changes(from_dict(state["config"]), config)
    if changed := [name for name in constants if state["constants"].get(name) != constants[name]]:
        raise UserError(
            f"{path} was made with another {' and '.join(changed)} than {config.run.data} has; "
            "give the same shards, or another --out"
        )
    return state, changed_options


def read_networks(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Parameters whose names start with `prefix`, named without it."""
    with safe_open(path / NETWORKS, framework="pt") as file:
        return {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: dict[str, ImageHistory]) -> None:
    """Put networks, optimizer and the history of this rank's slots back. The world size may be another than before."""
    model.load_state_dict(read_networks(path))
    _restore_optimizer(load_file(path / OPTIMIZER), model, optimizer)
    for file in json.loads((path / MANIFEST).read_text()):
        if not file.startswith("history-"):
            continue
        with safe_open(path / file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                domain, slot = name.split("/")
                if int(slot) in history[domain].rows:
                    history[domain].load(int(slot), stored.get_tensor(name))


def _all(run: Path) -> list[Path]:
    """Checkpoints, newest first, whole or not."""
    return sorted((run / "checkpoints").glob("pairs-*"), reverse=True)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{field}/{name}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for field, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    number = {name: i for i, (name, _) in enumerate(model.named_parameters())}  # the order of the one parameter group
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        field, name = key.split("/")
        state.setdefault(number[name], {})[field] = tensor.clone()  # off the mapped file
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode  # what the user's umask gives; safetensors would make it readable by its owner alone
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(mode)
    fsync(path)


def _describe(file: Path) -> dict:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
