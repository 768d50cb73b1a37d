"""Archives read in place: a .zip or an uncompressed .tar with the folders trainA, trainB, testA, testB in it.

Nothing is ever unpacked: a member's name orders it and picks its split, and reaches no file system.
"""

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

from zorse.errors import UserError
from zorse_prep.format import SPLITS, TAR_BLOCK
from zorse_prep.items import LARGEST, Item, Source, Unreadable, looks_like_image, none_dropped

INSIDE = "an archive with the folders trainA and trainB, and optionally testA and testB"
COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


def archive_source(path: Path) -> Source:
    """The images of an archive. Raises UserError where it is none, or a compressed tar."""
    with path.open("rb") as file:
        head = file.read(TAR_BLOCK)
    for magic, program in COMPRESSED.items():
        if head.startswith(magic):
            raise UserError(f"--source {path} is compressed, so that nothing in it can be found; {program} it first")
    if head.startswith(b"PK"):
        kind, members = "zip", _zip_members
    elif head[257:262] == b"ustar":
        kind, members = "tar", _tar_members
    else:
        raise UserError(f"--source {path} is neither a folder nor a .zip or .tar; give {INSIDE}")
    dropped = {split: none_dropped() for split in SPLITS}
    uri = str(path.resolve())
    return Source(path.stem, kind, uri, None, uri, _items(path, members, dropped), dropped)


def _items(path: Path, members: Callable, dropped: dict[str, dict[str, int]]) -> Iterator[Item]:
    """Yield the images below the four folders. Raises UserError where the archive holds two data sets."""
    mtime_ns, leading = path.stat().st_mtime_ns, None
    for name, size, place, is_safe, head in members(path):
        parts = name.split("/")
        split = next((part for part in parts if part in SPLITS), None)
        if split is None:
            continue
        at = parts.index(split)
        if not is_safe or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
            dropped[split]["unsafe"] += 1
        elif size <= LARGEST and not looks_like_image(name, head):
            dropped[split]["not_image"] += 1
        else:
            if leading not in (None, parts[:at]):
                both = " and ".join(f"'{'/'.join([*folders, split])}'" for folders in (leading, parts[:at]))
                raise UserError(f"{path} holds two data sets, in {both}; give {INSIDE} once")
            leading = parts[:at]
            yield Item(split, "/".join(parts[at + 1 :]), size, "", place, mtime_ns)


def tar_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an uncompressed tar, without a list of them. Raises UserError where it is none, or damaged."""
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # tarfile would keep them all
                yield member
            tar.fileobj.seek(tar.offset)
            if any(tar.fileobj.read(TAR_BLOCK)):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter two of headers full of nonsense
        raise UserError(
            f"{path} is no uncompressed tar, or is damaged ({error}); unpack it, or copy it again"
        ) from None


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether its bytes lie in the tar in one piece."""
    return member.isreg() and not member.issparse() and member.size >= 0


def _tar_members(path: Path) -> Iterator[tuple]:
    """(name, size, place, whether it is a plain file, its first bytes) of each member that is no folder."""
    for member in tar_members(path):
        if not member.isdir():
            at = member.offset_data
            yield member.name, member.size, ["tar", at], is_plain(member), partial(read_tar, str(path), at, 12)


def _zip_members(path: Path) -> Iterator[tuple]:
    for number, member in enumerate(_zip(str(path)).infolist()):
        mode = member.external_attr >> 16  # 0 where the archive was not made on Unix
        plain = not member.flag_bits & 1 and stat.S_IFMT(mode) in (0, stat.S_IFREG)  # bit 0: encrypted
        name, place = member.orig_filename, ["zip", number]  # filename would end before a NUL
        if not name.endswith("/"):
            yield name, member.file_size, place, plain, partial(_zip_head, str(path), number)


def _zip_head(path: str, number: int) -> bytes:
    try:
        return read_zip(path, number, 12)
    except Unreadable:
        return b""


def read_tar(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of a tar from `offset` on."""
    return os.pread(_opened(path), size, offset)


def read_zip(path: str, number: int, size: int) -> bytes:
    """The first `size` bytes of a member, and never more. Raises Unreadable."""
    try:
        archive = _zip(path)
        with archive.open(archive.infolist()[number]) as file:
            return file.read(size)
    except MemoryError:
        raise
    except Exception as error:  # a damaged member makes zipfile and its decompressors raise nearly anything
        raise Unreadable(f"cannot be taken out of the archive: {error or type(error).__name__}") from None


@lru_cache(16)
def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY)  # for the life of the process


@lru_cache(4)
def _zip(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        raise UserError(f"{path} is damaged ({error}); copy it again") from None
