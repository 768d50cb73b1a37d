"""Where translations go: the files that each image becomes, none of them another's, a source, or something else."""

import io
import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from zorse.errors import UserError
from zorse.inference.array_files import ARRAY_KINDS
from zorse.inference.image_files import (
    DEEP,
    KINDS,
    MARK,
    MARK_WITHIN,
    PLAIN,
    TRANSPARENT,
    ending,
    with_ending,
)
from zorse_prep.format import Arrays, Mode


def output_files(
    target: Path, also: Sequence[str], modes: Sequence[Mode] = PLAIN, alpha: bool = False, stack: bool = False
) -> dict[str, Path]:
    """The files that one image becomes: {"": the translation, "cycle": ..., "pair": ...}.

    modes: of the image and of its translation. alpha: whether transparency is put back. stack: whether it is of several
    slices, which only files of arrays hold, whatever their mode. A kind that cannot hold one of
    these, or that cannot be written, is replaced by .png, or by .npy for arrays.
    """
    kinds = {"": _kinds(modes[1], alpha, stack), "cycle": _kinds(modes[0], alpha, stack), "pair": tuple(KINDS)}
    end, instead = ending(target), {"": _instead(modes[1], stack), "cycle": _instead(modes[0], stack), "pair": ".png"}
    return {
        name: with_ending(target, None if end in kinds[name] else instead[name], name and f".{name}")
        for name in ("", *also)
    }


def _instead(mode: Mode, stack: bool) -> str:
    return ".npy" if stack or isinstance(mode, Arrays) else ".png"


def _kinds(mode: Mode, alpha: bool, stack: bool) -> Iterable[str]:
    if stack:
        return [kind for kind in ARRAY_KINDS if kind != ".png"]
    if isinstance(mode, Arrays):  # of whole numbers in one channel as PNG, too
        is_grey = len(mode.channels) == 1 and mode.dtype in ("uint8", "uint16")
        return [kind for kind in ARRAY_KINDS if kind != ".png" or is_grey]
    return DEEP if mode == "grey16" else TRANSPARENT if mode == "rgba" or alpha else KINDS


class Places:
    """Which image owns which file, so that no two are written to one place, and none over a source."""

    def __init__(self, sources: Iterable[Path] = ()):
        self.owners: dict[Path, str] = {}
        self.alike: dict[str, Path] = {}  # by a name that is the same for all that some file systems take for one
        self.sources = {_identity(path) for path in sources} - {None}

    def claim(self, where: str, paths: Iterable[Path]) -> None:
        """Raises UserError for a file that is another image's, or a source."""
        for path in paths:
            owner = self.owners.setdefault(path, where)
            if owner != where:
                raise UserError(
                    f"{owner} and {where} would both become {path}; rename one, or translate them separately"
                )
            alike = self.alike.setdefault(unicodedata.normalize("NFC", str(path)).casefold(), path)
            if alike != path and not _told_apart(alike, path):
                raise UserError(
                    f"{self.owners[alike]} and {where} would become {alike.name} and {path.name}, which are the same "
                    "file there; rename one, or translate them separately"
                )
            if self.sources and _identity(path) in self.sources:
                raise UserError(f"{path}: would overwrite a source; give another folder or file to write to")

    def there(self, where: str, target: Path, also: Sequence[str], modes: Sequence[Mode]) -> bool:
        """Whether all that an image becomes is there, under its own ending or as the .png that it may have become."""
        if any(isinstance(mode, Arrays) for mode in modes):
            may_be = (output_files(target, also, modes, stack=stack).values() for stack in (False, True))
            return any(all(map(_status, paths)) for paths in may_be)
        pairs = zip(
            output_files(target, also).values(), output_files(target, also, ("grey16", "grey16")).values(), strict=True
        )
        return all(
            _status(path) or (self.owners.get(instead, where) == where and _status(instead)) for path, instead in pairs
        )


def _told_apart(one: Path, other: Path) -> bool:
    """Whether two paths that differ in case, or in how their characters are composed, are two files there."""
    level = next(level for level, names in enumerate(zip(one.parts, other.parts, strict=True)) if len(set(names)) > 1)
    folder = next(folder for end in range(level, -1, -1) if (folder := Path(*one.parts[:end])).is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as probe:
            Path(probe, one.parts[level]).touch()
            return not Path(probe, other.parts[level]).exists()
    except OSError:
        return True  # nothing can be written there, which is told in its own words


def check_replaceable(paths: Iterable[Path]) -> None:
    """Raise UserError where a file is there that is no translation, and not empty; a folder cannot be replaced."""
    for path in paths:
        status = _status(path)
        if status and not stat.S_ISDIR(status.st_mode) and not (stat.S_ISREG(status.st_mode) and _is_marked(path)):
            raise UserError(f"{path}: already exists and is not a translation; remove it, or write elsewhere")


def _is_marked(path: Path) -> bool:
    """Whether a file is empty or names what made it; False also where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            begin = file.read(MARK_WITHIN)
            file.seek(max(0, size - MARK_WITHIN))
            return size == 0 or MARK in begin or MARK in file.read()
    except OSError:
        return False


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # not there, or what writing will tell of
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    status = _status(path)
    return (status.st_dev, status.st_ino) if status else None


def claim_all(pairs: list[tuple[Path, Path]], also: Sequence[str], modes: Sequence[Mode] = PLAIN) -> Places:
    """Raises UserError where two images would become one file, or one would overwrite a source."""
    places = Places(source for source, _ in pairs)
    for source, target in pairs:
        places.claim(str(source), output_files(target, also, modes).values())
    return places


def check_writable(folder: Path) -> None:
    """Raise UserError unless a folder can be written to, or be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{there}: is a file; give another folder to write to")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{there}: cannot be written to ({error.strerror}); give another folder to write to") from None
