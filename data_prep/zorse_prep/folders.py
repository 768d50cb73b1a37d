"""Folders of images: DIR/trainA, DIR/trainB, DIR/testA, DIR/testB and all that lies below them."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from zorse.errors import UserError
from zorse_prep.format import MANIFEST, PLAN, SPLITS
from zorse_prep.items import HEAD, LAYOUT, Item, Source, is_hidden, looks_like_image, none_dropped, zarr_folder


def folder_source(directory: Path) -> Source:
    """Images in the four folders; what is left out is counted. Raises UserError where a training folder is missing, or
    one of the four is there by nearly its name."""
    splits = [split for split in SPLITS if (directory / split).is_dir()]
    for split in (split for split in SPLITS if split not in splits):
        near = [path.name for path in directory.iterdir() if path.name.lower() == split.lower() and path.is_dir()]
        if near or split.startswith("train"):
            fix = f"rename {near[0]} to {split}" if near else f"give {LAYOUT}"
            raise UserError(f"{directory} has no folder {split}; {fix}")
    root = directory.resolve()
    dropped = {split: none_dropped() for split in splits}
    others = sorted(path.name for path in directory.iterdir() if path.is_dir() and path.name not in SPLITS)
    outside = Counter(f"folder {name}" for name in others if not is_hidden([name]) and not _is_ours(directory / name))
    return Source(root.name, "folder", str(root), None, str(root), _items(root, dropped), dropped, outside)


def _is_ours(folder: Path) -> bool:
    return any((folder / name).exists() for name in (MANIFEST, PLAN))


def _items(root: Path, dropped: dict[str, dict[str, int]]) -> Iterator[Item]:
    for split, counts in dropped.items():
        start = len(str(root / split)) + 1
        for entry in files_below(root / split):
            name = entry.path[start:]
            if is_hidden(name.split("/")):
                counts["hidden"] += 1
            elif line := zarr_folder(name.split("/")):
                raise UserError(f"{root / split}: {line}")
            elif entry.is_symlink() and not entry.is_file():
                raise UserError(f"{entry.path} is a broken link; restore its target, or remove it")
            elif not entry.is_file():  # a fifo would be waited on for ever, a device read without end
                counts["unsafe"] += 1
            elif not looks_like_image(entry.name, partial(read_file, entry.path, HEAD)):
                counts["not_image"] += 1
            else:
                status = entry.stat()
                yield Item(split, name, status.st_size, f"{split}/{name}", mtime_ns=status.st_mtime_ns)


def files_below(folder: Path) -> Iterator[os.DirEntry]:
    """All files, links to folders followed once, without a list of them: only folders are remembered."""
    # A link to a folder above would bring in the other splits.
    visited, folders = {_identity(above) for above in folder.resolve().parents}, [str(folder)]
    while folders:
        here = folders.pop()
        if _identity(here) in visited:
            continue
        visited.add(_identity(here))
        below, hidden = [], []
        try:
            entries = os.scandir(here)
        except PermissionError:
            if here != str(folder) and is_hidden([Path(here).name]):  # lost+found, another user's trash
                continue
            raise
        with entries:
            for entry in entries:
                if entry.is_dir():
                    (hidden if is_hidden([entry.name]) else below).append(entry.path)
                else:
                    yield entry
        # The same one of two ways to a folder, always, and one that is not hidden if there is one.
        folders += sorted(below, key=os.fsencode, reverse=True)
        folders[:0] = sorted(hidden, key=os.fsencode, reverse=True)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def read_file(path: str, size: int) -> bytes:
    """The first `size` bytes of a file, and one more where it has grown since it was measured."""
    with Path(path).open("rb") as file:
        return file.read(size + 1)
