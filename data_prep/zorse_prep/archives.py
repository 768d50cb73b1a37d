"""Archives read in place: a .zip or an uncompressed .tar with the folders trainA, trainB, testA, testB in it.

Nothing is ever unpacked: a member's name orders it and picks its split, and reaches no file system.
"""

import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

from zorse.errors import UserError
from zorse_prep.format import SPLITS, TAR_BLOCK
from zorse_prep.items import (
    HEAD,
    LARGEST,
    Item,
    Source,
    Unreadable,
    is_hidden,
    is_system,
    looks_like_image,
    none_dropped,
)

INSIDE = "an archive with the folders trainA and trainB, and optionally testA and testB"
SPLIT_ZIP = b"PK\x07\x08"
# What packs a file so that nothing in it can be found without unpacking it, by its first bytes.
PACKED = {
    b"\x1f\x8b": "compressed by gzip; gunzip it first",
    b"\x1f\x9d": "compressed by compress; uncompress it first",
    b"BZh": "compressed by bzip2; bunzip2 it first",
    b"\xfd7zXZ\0": "compressed by xz; unxz it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unzstd it first",
    b"\x04\x22\x4d\x18": "compressed by lz4; unlz4 it first",
    b"LZIP": "compressed by lzip; lunzip it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive, which is not read; unpack it, and give the folder",
    b"Rar!\x1a\x07": "a RAR archive, which is not read; unpack it, and give the folder",
    b"07070": "a cpio archive, which is not read; unpack it, and give the folder",
    SPLIT_ZIP: "one part of a split zip; join them first: zip -s 0 NAME.zip --out WHOLE.zip",
}
DOS_SYSTEMS = (0, 10, 11, 14)  # makers of zips that may write \ for /, as zip numbers them


def archive_source(path: Path) -> Source:
    """The images of an archive. Raises UserError where it is none, or one that must be unpacked first."""
    refuse_packed(path, "--source ")
    with path.open("rb") as file:
        head = file.read(TAR_BLOCK)
    if _begins_tar(head):
        kind, members = "tar", _tar_members
    elif head.startswith(b"PK") or zipfile.is_zipfile(path):  # one that unpacks itself has a program at its front
        kind, members = "zip", _zip_members
    elif not any(head):
        raise UserError(f"--source {path} is empty, or contains zeros alone; copy it again")
    else:
        raise UserError(f"--source {path} is neither a folder nor a .zip or .tar; give {INSIDE}")
    dropped = {split: none_dropped() for split in SPLITS}
    uri = str(path.resolve())
    outside = Counter()
    return Source(path.stem, kind, uri, None, uri, _items(path, members, dropped, outside), dropped, outside)


def _items(path: Path, members: Callable, dropped: dict[str, Counter[str]], outside: Counter[str]) -> Iterator[Item]:
    """Yield the images below the four folders. Raises UserError where a folder is not there, or the archive holds two
    data sets."""
    mtime_ns, leading, seen, others = path.stat().st_mtime_ns, None, set(), set()
    for name, size, place, flaw, head in members(path):
        parts = [part for part in name.split("/") if part not in ("", ".")]
        split = next((part for part in parts if part in SPLITS), None)
        if split is None:
            others.update(parts[:-1])
            outside[f"in {parts[-2]}" if parts[1:] else "in no folder"] += 1
            continue
        at = parts.index(split)
        seen.add(split)
        if flaw or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
            dropped[split][flaw or "unsafe"] += 1
        elif is_hidden(parts[at + 1 :]) or any(map(is_system, parts[:at])):
            dropped[split]["hidden"] += 1
        elif size <= LARGEST and not looks_like_image(name, head):
            dropped[split]["not_image"] += 1
        else:
            if leading not in (None, parts[:at]):
                both = " and ".join(f"'{'/'.join([*folders, split])}'" for folders in (leading, parts[:at]))
                raise UserError(f"{path} holds two data sets, in {both}; give {INSIDE} once")
            leading = parts[:at]
            yield Item(split, "/".join(parts[at + 1 :]), size, "", place, mtime_ns)
    _check_folders(path, seen, others)


def _check_folders(path: Path, seen: set[str], others: set[str]) -> None:
    """Raise UserError where a training folder is missing, or one of the four is there by nearly its name."""
    for split in SPLITS:
        near = [name for name in sorted(others) if name.lower() == split.lower()]
        if split not in seen and near:
            raise UserError(
                f"{path} has no folder {split} but {near[0]}; rename {near[0]} to {split} and pack it again"
            )
        if split not in seen and split.startswith("train"):
            there = ", ".join([*sorted(seen), *sorted(others)][:8]) or "no folder"
            raise UserError(
                f"{path} has no folder {split}, so that {split} holds no images (it has: {there}); give {INSIDE}"
            )


def refuse_packed(path: Path, flag: str = "", only_tars: bool = False) -> None:
    """Raise UserError for a compressed tar, and for other archives that are not read where they lie."""
    with path.open("rb") as file:
        head = file.read(TAR_BLOCK)
    zips = {b"PK": "a zip, not a tar; make shards of it with shard.py --source"} if only_tars else {}
    for magic, what in (PACKED | zips).items():
        if head.startswith(magic) and not _begins_tar(head):  # whose first bytes are the name of its first member
            raise UserError(f"{flag}{path} is {what}")


def _begins_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a tar. By its checksum, as one of the old v7 format says no name."""
    with suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    return head[257:262] == b"ustar"  # reading it will say what is wrong with it


def tar_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an uncompressed tar, and of others appended to it, without a list of them. Raises UserError where
    it is none, or damaged."""
    refuse_packed(path)
    start = 0
    try:
        with path.open("rb") as file:
            while start is not None:
                file.seek(start)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    while (member := tar.next()) is not None:
                        tar.members.clear()  # tarfile would keep them all
                        yield member
                    start = _appended(file, tar.offset)
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter two of headers full of nonsense
        raise UserError(
            f"{path} is not an uncompressed tar, or is damaged ({error}); unpack it, or copy it again"
        ) from None


def _appended(file: BinaryIO, end: int) -> int | None:
    """The byte at which another tar follows the zeros that end one, or None. Raises tarfile.ReadError."""
    file.seek(end)
    if any(file.read(TAR_BLOCK)):  # tarfile takes a damaged header for the end
        raise tarfile.ReadError(f"no header at byte {end}")
    while chunk := file.read(1 << 20):
        if rest := chunk.lstrip(b"\0"):
            return (file.tell() - len(rest)) // TAR_BLOCK * TAR_BLOCK
    return None


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether its bytes lie in the tar in one piece."""
    return member.isreg() and not member.issparse() and member.size >= 0


def _tar_members(path: Path) -> Iterator[tuple]:
    """(name, size, place, why it is left out or "", its first bytes) of each member that is no folder."""
    for member in tar_members(path):
        if not member.isdir():
            at = member.offset_data
            flaw = "" if is_plain(member) else "unsafe"
            yield member.name, member.size, ["tar", at], flaw, partial(read_tar, str(path), at, HEAD)


def _zip_members(path: Path) -> Iterator[tuple]:
    for number, member in enumerate(_zip(str(path)).infolist()):
        mode = member.external_attr >> 16  # 0 where the archive was not made on Unix
        flaw = "" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "unsafe"
        if member.flag_bits & 1:
            flaw = "encrypted"
        name, place = member.orig_filename, ["zip", number]  # filename would end before a NUL
        if member.create_system in DOS_SYSTEMS:
            name = name.replace("\\", "/")
        if not name.endswith("/"):
            yield name, member.file_size, place, flaw, partial(_zip_head, str(path), number)


def _zip_head(path: str, number: int) -> bytes:
    try:
        return read_zip(path, number, HEAD)
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
    except NotImplementedError as error:  # Deflate64 of Windows, for one
        raise Unreadable(f"is packed in a way that is not supported ({error}); unpack the archive first") from None
    except Exception as error:  # a damaged member makes zipfile and its decompressors raise nearly anything
        raise Unreadable(f"cannot be extracted: {error or type(error).__name__}") from None


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
        if "multiple disks" in str(error):
            raise UserError(f"{path} is {PACKED[SPLIT_ZIP]}") from None
        raise UserError(f"{path} is damaged ({error}); copy it again") from None
