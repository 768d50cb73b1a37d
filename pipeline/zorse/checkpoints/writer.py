"""Writing checkpoints behind training: a step waits for a copy of the state in memory, not for the disk.

Every rank writes and sums its own files in a thread; when all of them are done, rank 0 writes the manifest and renames
the directory (format.py says what is in it). Whether they are is asked between two steps, by all ranks at once.
Memory: while a checkpoint is being written, each rank holds a copy of its image pools, and rank 0 of networks and
optimizer.
"""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch import Tensor

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.folder import link_best, path_of, prune, put_in_place, remove_left, rename_copied_best
from zorse.checkpoints.format import BEST, EMA, KEEP, MANIFEST, NETWORKS, OPTIMIZER, STATE, Checkpointed
from zorse.errors import UserError
from zorse.files import fsync, write_durably
from zorse.runs.lock import RunLock
from zorse.typed_json import plain


class CheckpointWriter:
    """The checkpoints of a run. All methods are called by all ranks, between the same two steps.

    keep: the newest so many are kept, and besides them the best and those with a file named `keep` in them, which
    the first one in every `keep_every` pairs gets. resumed: state.json of the newest checkpoint, None for none.
    best: what `improves` takes, of the checkpoint of the lowest distance, once that is on disk; None before.
    """

    def __init__(
        self,
        out: Path,
        accelerator: Accelerator,
        owner: RunLock | None,
        warn: Callable[[str], None],
        *,
        keep: int,
        keep_every: int | None,
        resumed: dict | None,
    ):
        self.folder, self.accelerator, self.owner, self.warn = out / "checkpoints", accelerator, owner, warn
        self.keep, self.keep_every = keep, keep_every
        self.newest, best = (resumed["pairs_seen"], resumed["best"]) if resumed else (-1, None)
        self._writing: Future[dict[str, dict]] | None = None
        if accelerator.is_main_process:
            remove_left(self.folder)
            if trouble := attempt(rename_copied_best, self.folder):
                warn(f"warning: {self.folder / BEST} stays as it is: {trouble}")
            named = best and path_of(self.folder, best["pairs"])
            if named and not named.is_dir():  # removed, or damaged and set aside
                best = None
            elif named and (trouble := attempt(link_best, named)):  # a kill may have come before it
                warn(f"warning: {self.folder / BEST} could not be written: {trouble}")
        token, self.best = broadcast_object_list([owner.me["token"] if owner else None, best])
        # Named after its owner, so that one that was taken for dead cannot write into the files of its successor.
        self._suffix = f".{token}.tmp"

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written, or waits for `poll`. The same on all ranks."""
        return self._writing is not None

    def save(self, state: Checkpointed, *, best: dict | None, wait: bool) -> None:
        """Write checkpoints/pairs-N, N = state.pairs_seen, once the one before is done.

        best: its distance, if that `improves`; `best` then names it.

        Raises UserError where the state is not finite, and, with `wait`, when the checkpoint cannot be written; without
        it, that is warned of, and the earlier checkpoints are as they were.
        """
        pairs = state.pairs_seen
        self.poll(wait=True)
        if self.newest != pairs:
            self._start(state, best)
        if wait and (problem := self._finish(wait=True)):
            raise UserError(f"no checkpoint could be written at pair {pairs}: {problem}")

    def improves(self, distance: dict) -> bool:
        """Whether {"pairs", "metric", "protocol", "value"} is the lowest so far, or the first that was so measured."""
        self.poll(wait=True)
        if self.best and any(self.best.get(name) != distance[name] for name in ("metric", "protocol")):
            self.warn(f"the best so far, at {self.best['pairs']} pairs, was measured differently; starting a new best")
            return True
        return not self.best or distance["value"] < self.best["value"]

    def poll(self, wait: bool = False) -> None:
        """Commit the checkpoint that is being written, if all ranks have written it; wait: when they have."""
        if problem := self._finish(wait):
            self.warn(f"warning: no checkpoint at pair {self._pairs}, training continues: {problem}")

    def _start(self, state: Checkpointed, best: dict | None) -> None:
        """Check that the state is worth saving, copy it to memory, and have a thread write it."""
        pairs, rank, pools = state.pairs_seen, self.accelerator.process_index, state.pools
        milestone = bool(self.keep_every) and pairs // self.keep_every > max(self.newest, 0) // self.keep_every
        self._pairs, self._best, self._milestone = pairs, best or self.best, milestone
        self._final = path_of(self.folder, pairs)
        self._temporary = self.folder / f".{self._final.name}{self._suffix}"
        self._writing = Future()

        # What rank 0 writes, and the image pools of this rank's slots; all of it must be finite, on all ranks.
        tensors = {
            NETWORKS: state.model.state_dict(), OPTIMIZER: checkpoint.adam_tensors(state.model, state.optimizer)
        }  # fmt: skip
        if state.ema:
            tensors[EMA] = state.ema.generators.state_dict()
        finite = all_finite([tensor for content in tensors.values() for tensor in content.values()])
        slots = {f"{domain}/{slot}": images for domain in pools for slot, images in pools[domain].state().items()}
        needed = size(slots) * self.accelerator.num_processes + sum(map(size, tensors.values()))
        problem = attempt(lambda: self._begin(needed)) if self.accelerator.is_main_process else None
        verdicts = gather_object([(finite, problem)])  # and nobody writes before the directory is there
        if not all(finite for finite, _ in verdicts):
            raise UserError(
                f"weights or Adam's moments are not finite after pair {pairs}; stopped before saving them. "
                "Lower --lr, or, if mixed precision is on, train without it"
            )
        if verdicts[0][1]:
            self._writing.set_exception(OSError(verdicts[0][1]))
            return

        # Training goes on as soon as this copy is made.
        mine = {f"history-{rank:05d}.safetensors": slots} | (tensors if self.accelerator.is_main_process else {})
        mine = {file: snapshot(content) for file, content in mine.items()}
        record = state.record() | {"best": self._best}
        text = json.dumps(record, indent=2, default=plain) if self.accelerator.is_main_process else None
        # A daemon: a process that ends at once does not wait for it.
        threading.Thread(target=write, args=(self._temporary, mine, text, self._writing), daemon=True).start()

    def _finish(self, wait: bool) -> str | None:
        """What went wrong on some rank, such as a full disk; None when nothing did, or all are not done yet."""
        if self._writing is None:
            return None
        if wait:
            self._writing.exception()
        if not all(gather_object([self._writing.done()])):
            return None
        answers = gather_object([attempt(self._writing.result)])
        problem = next((answer for answer in answers if isinstance(answer, str)), None)
        if self.accelerator.is_main_process:
            if not problem:
                problem = attempt(lambda: self._commit({name: file for part in answers for name, file in part.items()}))
            if problem:
                shutil.rmtree(self._temporary, ignore_errors=True)
            elif trouble := attempt(self._tidy):
                self.warn(f"warning: {self.folder} could not be tidied up: {trouble}")
        problem = broadcast_object_list([problem])[0]
        self._writing = None
        if not problem:
            self.newest, self.best = self._pairs, self._best
        return problem

    def _begin(self, needed: int) -> None:
        self.folder.mkdir(exist_ok=True)
        disk = shutil.disk_usage(self.folder)
        if disk.total and disk.free < needed:  # stores without an end have none
            raise OSError(f"it takes {needed / 1e6:.1f} MB, and {self.folder} has {disk.free / 1e6:.1f} MB free")
        self._temporary.mkdir()

    def _commit(self, files: dict[str, dict]) -> None:
        self.owner.check()
        write_durably(self._temporary / MANIFEST, json.dumps(files, indent=2))
        if self._milestone:
            (self._temporary / KEEP).touch()
        fsync(self._temporary)
        put_in_place(self._temporary, self._final)

    def _tidy(self) -> None:
        """Let `best` name the best checkpoint, and remove those that are not kept, but none that `best` still names."""
        best, named = self._best and path_of(self.folder, self._best["pairs"]), checkpoint.followed(self.folder / BEST)
        trouble = attempt(link_best, best) if best and named.name != best.name else None
        prune(self.folder.parent, self.keep, {path.name for path in (best, named if trouble else best) if path})
        if trouble:
            raise OSError(trouble)


def write(folder: Path, files: dict[str, dict[str, Tensor]], state: str | None, result: Future) -> None:
    """Write files of tensors and, if given, state.json; the result is {name: size and sha256}."""
    try:
        for name, tensors in files.items():
            checkpoint.save_tensors(tensors, folder / name)
        names = list(files)
        if state is not None:
            write_durably(folder / STATE, state)
            names.append(STATE)
        described = {name: checkpoint.describe(folder / name) for name in names}
        for name in files:
            if name.startswith("history-"):
                described[name]["history"] = list(files[name])
        result.set_result(described)
    except BaseException as error:
        result.set_exception(error)


def attempt(part: Callable, *arguments):
    """The result of part(*arguments), or the message of an error with files."""
    try:
        return part(*arguments)
    except (OSError, SafetensorError) as error:
        return str(error)


def snapshot(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def size(tensors: dict[str, Tensor]) -> int:
    """Their size in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def all_finite(tensors: list[Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
