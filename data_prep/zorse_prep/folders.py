"""Folders of images: DIR/trainA, DIR/trainB, DIR/testA, DIR/testB and all that lies below them."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from zorse.errors import UserError
from zorse_prep.format import SPLITS
from zorse_prep.items import LAYOUT, Item, Source, looks_like_image, none_dropped


def folder_source(directory: Path) -> Source:
    """Images in the four folders; what is no image is counted. Raises UserError where a training folder is missing."""
    splits = [split for split in SPLITS if (directory / split).is_dir()]
    for split in ("trainA", "trainB"):
        if split not in splits:
            near = [path.name for path in directory.iterdir() if path.name.lower() == split.lower()]
            fix = f"rename {near[0]} to {split}" if near else f"give {LAYOUT}"
            raise UserError(f"{directory} has no folder {split}; {fix}")
    root = directory.resolve()
    dropped = {split: none_dropped() for split in splits}
    return Source(root.name, "folder", str(root), None, str(root), _items(root, dropped), dropped)


def _items(root: Path, dropped: dict[str, dict[str, int]]) -> Iterator[Item]:
    for split, counts in dropped.items():
        start = len(str(root / split)) + 1
        for entry in files_below(root / split):
            if entry.is_symlink() and not entry.is_file():
                raise UserError(f"{entry.path} is a link to nothing; restore what it names, or remove it")
            if not entry.is_file():  # a fifo would be waited on for ever, a device read without end
                counts["unsafe"] += 1
            elif not looks_like_image(entry.name, partial(read_file, entry.path, 12)):
                counts["not_image"] += 1
            else:
                status, name = entry.stat(), entry.path[start:]
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
        below = []
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir():
                    below.append(entry.path)
                else:
                    yield entry
        folders += sorted(below, key=os.fsencode, reverse=True)  # the same one of two ways to a folder, always


def _identity(folder: str | Path) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def read_file(path: str, size: int) -> bytes:
    """The first `size` bytes of a file, and one more where it has grown since it was measured."""
    with Path(path).open("rb") as file:
        return file.read(size + 1)
