"""The folder of a run's checkpoints: a new one takes its place, `best` names one, and those that are not kept go.

Where a file system cannot do what is usual, something else is done that keeps the promise: moving files where folders
cannot be renamed, a file with a name in it where there are no links.
"""

import json
import shutil
import threading
from pathlib import Path

from zorse.checkpoints.format import BEST, KEEP, MANIFEST, STATE, integrity_error, list_checkpoints, name_in
from zorse.files import fsync, remove_stale, temporary_for, unsupported, write_durably


def path_of(folder: Path, pairs: int) -> Path:
    return folder / f"pairs-{pairs:012d}"


def remove_left(folder: Path) -> None:
    """Remove what a killed trainer left of checkpoints in the making, and of those that it was removing."""
    for pattern in (".pairs-*.tmp", ".pairs-*.removed"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
    remove_stale(folder / BEST)


def put_in_place(temporary: Path, final: Path) -> None:
    """Let a checkpoint that is on disk have its name, whole or not at all. Raises OSError."""
    if final.exists() and integrity_error(final):  # it could not be set aside
        shutil.rmtree(final)
    try:
        temporary.rename(final)
    except OSError as error:
        if not unsupported(error):
            raise
        # Folders cannot be renamed there. Without its last file it is no whole checkpoint.
        final.mkdir()
        for file in sorted(temporary.iterdir(), key=lambda file: file.name == MANIFEST):
            file.rename(final / file.name)
        fsync(final)
        temporary.rmdir()
    fsync(final.parent)


def prune(run: Path, keep: int, best: set[str]) -> None:
    """Remove all checkpoints but the newest so many, those of these names, and those with a file named `keep`."""
    for old in list_checkpoints(run)[keep:]:
        if old.name not in best and not (old / KEEP).exists():
            # Renamed at once, and removed while training goes on.
            removed = old.with_name(f".{old.name}.removed")
            try:
                old.rename(removed)
            except OSError as error:
                if not unsupported(error):
                    raise
                removed = old
            threading.Thread(target=shutil.rmtree, args=(removed, True), daemon=True).start()


def link_best(checkpoint: Path) -> None:
    """Let `best` name a checkpoint: a link to it, or where there are none a file with its name. Raises OSError."""
    best = checkpoint.with_name(BEST)
    if best.is_file() and best.stat().st_size and not name_in(best):
        raise OSError(f"{best} already exists and holds something else")
    link = temporary_for(best)
    try:
        link.symlink_to(checkpoint.name)
        link.rename(best)
    except OSError as error:
        link.unlink(missing_ok=True)
        if not unsupported(error):
            raise
        write_durably(best, checkpoint.name + "\n")


def rename_copied_best(folder: Path) -> None:
    """Where a run was copied without its links, `best` is a folder, and may be the only copy of that checkpoint: let it
    have its own name again, or remove it where that one is there and whole. Raises OSError for one that is damaged."""
    best = folder / BEST
    if not best.is_dir() or best.is_symlink():
        return
    if problem := integrity_error(best):
        raise OSError(f"it is a folder, and damaged ({problem})")
    own = path_of(folder, json.loads((best / STATE).read_text())["pairs_seen"])
    if not own.exists():
        best.rename(own)
    elif not integrity_error(own):
        shutil.rmtree(best)
