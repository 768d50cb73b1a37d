"""Folders of images: DIR with trainA, trainB, testA and testB in it, or one folder a domain, wherever it lies."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from zorse.errors import UserError
from zorse_prep.format import MANIFEST, PLAN, SPLITS
from zorse_prep.items import HEAD, LAYOUT, Item, Source, is_hidden, looks_like_image, none_dropped, zarr_folder

TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")


def folder_source(directory: Path) -> Source:
    """Images in the four folders; what is left out is counted. Raises UserError where a training folder is missing, or
    one of the four is there by nearly its name."""
    splits = [split for split in SPLITS if (directory / split).is_dir()]
    for split in (split for split in SPLITS if split not in splits):
        near = [path.name for path in directory.iterdir() if path.name.lower() == split.lower() and path.is_dir()]
        if near or split.startswith("train"):
            fix = f"rename {near[0]} to {split}" if near else _other_layout(directory)
            raise UserError(f"{directory} has no folder {split}; {fix}")
    outside = Counter(f"folder {path.name}" for path in _folders_in(directory) if path.name not in SPLITS)
    root = directory.resolve()
    dropped = {split: none_dropped() for split in splits}
    items = _items({split: root / split for split in splits}, root, dropped)
    return Source(_name(directory), "folder", str(root), None, str(root), items, dropped, outside)


def domain_source(folders: dict[str, Path]) -> Source:
    """Images in one folder a split, {"trainA": DIR, "trainB": DIR, ...}. Raises UserError for a path that is none, or
    lies in another of them."""
    flags = {split: f"--{'' if split.startswith('train') else 'test-'}{split[-1].lower()}" for split in SPLITS}
    resolved = {split: path.resolve() for split, path in folders.items()}
    for split, path in folders.items():
        if not path.is_dir():
            what = "is a file; archives and tables go to --source" if path.exists() else "does not exist"
            raise UserError(f"{flags[split]} {path}: {what}; give a folder of images")
        for other, above in resolved.items():
            if other != split and resolved[split].is_relative_to(above):
                raise UserError(
                    f"{flags[split]} {path}: lies in {flags[other]} {folders[other]}; give separate folders"
                )
    root = Path(os.path.commonpath([path.parent for path in resolved.values()]))
    dropped = {split: none_dropped() for split in SPLITS if split in folders}
    uri = ", ".join(f"{flags[split]} {path}" for split, path in resolved.items())
    name = "2".join(_name(folders[split]) for split in ("trainA", "trainB"))
    return Source(name, "folders", uri, None, str(root), _items(resolved, root, dropped), dropped)


def _name(folder: Path) -> str:
    """The name that the user gave a folder, even one of a link."""
    return Path(os.path.abspath(folder)).name  # noqa: PTH100, resolve() would follow the link


def _folders_in(directory: Path) -> list[Path]:
    """Folders that may hold a user's images, by name."""
    found = (path for path in directory.iterdir() if path.is_dir() and not is_hidden([path.name]))
    return sorted(path for path in found if not any((path / name).exists() for name in (MANIFEST, PLAN)))


def options_for(directory: Path) -> list[str]:
    """The options that make shards of a folder of image folders, by their names: trainA and trainB, A and B, horse and
    zebra, train/A and train/B, A/train and B/train. [] where the two domains cannot be told."""
    if all((directory / split).is_dir() for split in ("trainA", "trainB")):
        return ["--source", str(directory)]
    found = _folders_in(directory)
    train, test = _of_names(found, TRAIN), _of_names(found, TEST)
    domains = _folders_in(train) if train else found
    if len(domains) != 2:
        return []
    chosen = dict(zip("ab", domains, strict=True))
    tests = {domain: test / path.name for domain, path in chosen.items()} if train and test else {}
    below = {domain: _folders_in(path) for domain, path in chosen.items()}
    inner = {domain: _of_names(folders, TRAIN) for domain, folders in below.items()}
    if all(inner.values()):
        chosen, tests = inner, {domain: _of_names(folders, TEST) for domain, folders in below.items()}
    options = {f"--{domain}": path for domain, path in chosen.items()}
    options |= {f"--test-{domain}": path for domain, path in tests.items() if path and path.is_dir()}
    return [word for name, path in options.items() for word in (name, str(path))]


def _other_layout(directory: Path) -> str:
    """What to give in place of --source, by the folders that are there."""
    if options := options_for(directory):
        return f"in place of --source, give {shlex.join(options)}"
    there = [path.name for path in _folders_in(directory)][:8]
    return f"it has {', '.join(there)}; give {LAYOUT}" if there else f"give {LAYOUT}"


def _of_names(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    return next((path for path in folders if path.name.lower() in names), None)


def _items(folders: dict[str, Path], root: Path, dropped: dict[str, dict[str, int]]) -> Iterator[Item]:
    """The images of each split's folder, their places relative to `root`."""
    for split, counts in dropped.items():
        folder = folders[split]
        start, place = len(str(folder)) + 1, os.path.relpath(folder, root)
        for entry in files_below(folder):
            name = entry.path[start:]
            if is_hidden(name.split("/")):
                counts["hidden"] += 1
            elif line := zarr_folder(name.split("/")):
                raise UserError(f"{folder}: {line}")
            elif entry.is_symlink() and not entry.is_file():
                raise UserError(f"{entry.path} is a broken link; restore its target, or remove it")
            elif not entry.is_file():  # a fifo would be waited on for ever, a device read without end
                counts["unsafe"] += 1
            elif not looks_like_image(entry.name, partial(read_file, entry.path, HEAD)):
                counts["not_image"] += 1
            else:
                status = entry.stat()
                yield Item(split, name, status.st_size, f"{place}/{name}", mtime_ns=status.st_mtime_ns)


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
