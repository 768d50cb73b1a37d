"""Archives as sources: read in place, whatever they hold."""

import contextlib
import io
import pickle
import random
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from pictures import PHOTO, encode
from prep_tools import (
    assert_refused,
    contents,
    counts_of,
    done,
    make_folder,
    manifest_of,
    noisy_jpeg,
    shard,
    without_created,
)

from zorse.errors import UserError
from zorse_prep import archives, items
from zorse_prep.items import Unreadable
from zorse_prep.sources import read


def pack(folder: Path, archive: Path, leading: str = "") -> Path:
    """The files below a folder in a .zip or .tar, in an order of its own."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, f"{leading}{path.relative_to(folder)}")
    else:
        with tarfile.open(archive, "w") as packed:
            packed.add(folder, leading or ".", recursive=False)
            for path in files:
                packed.add(path, f"{leading or './'}{path.relative_to(folder)}")
    return archive


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar"])
def test_archive_gives_the_shards_of_its_folder(name, tmp_path):
    source = make_folder(tmp_path / "pets", {"trainA": 12, "trainB": 9, "testB": 2})
    (source / "trainA" / "deeper" / f"{'long' * 60}").mkdir(parents=True)
    (source / "trainA" / "deeper" / f"{'long' * 60}" / "without_extension").write_bytes(encode(PHOTO, "PNG"))
    (source / "trainA" / "readme.txt").write_text("see the licence")
    done(shard("--source", source, "--out", tmp_path / "whole", "--shard-size", "5"))
    archive = pack(source, tmp_path / name, "some/where/")
    shutil.rmtree(source)
    out = tmp_path / "out"
    done(shard("--source", archive, "--out", out, "--shard-size", "5", workers=2))
    plain, mine = (without_created(contents(folder)) for folder in (tmp_path / "whole", out))
    assert manifest_of(out)["source"] == {"kind": name[-3:], "uri": str(archive), "revision": None}
    for each in (plain, mine):
        for file in ("manifest.json", "plan.json"):
            del each[file]["source"]
            each[file].pop("listing_sha256", None)
            each[file]["shards"] = [{**part, "offset": 0} for part in each[file].get("shards", [])]
        for file in [file for file in each if file.startswith("plan/")]:
            del each[file]  # says where the bytes lie
    assert plain == mine
    before = contents(out)
    assert "hashing" not in done(shard("--source", archive, "--out", out, "--shard-size", "5"))
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out", "whole"])  # nothing was unpacked


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


EVIL_NAMES = ("../trainA/up.jpg", "/trainA/root.jpg", "trainA/../../up.jpg", "trainA/..\\up.jpg", "trainA/../x/y.jpg")


def evil_tar(path: Path) -> dict[str, int]:
    """Good images among what no archive should hold; returns how many members of trainA are left out, by reason."""
    jpeg = noisy_jpeg(1)
    with tarfile.open(path, "w") as tar:

        def add(name: str, data: bytes = b"", **fields) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(data))

        for number in range(3):
            add(f"trainA/{number}.jpg", noisy_jpeg(number))
            add(f"trainB/{number}.jpg", noisy_jpeg(100 + number))
        for name in EVIL_NAMES:
            add(name, jpeg)
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "trainA/0.jpg")):
            add(f"trainA/link{kind.decode()}.jpg", type=kind, linkname=target)
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            add(f"trainA/device{kind.decode()}.jpg", type=kind)
        add("trainA/0.jpg", noisy_jpeg(50))  # again, with other bytes
        add("trainA/labels.pkl", pickle.dumps(Evil()))
        add("trainA/readme.txt", b"see the licence")
        add("outside.jpg", jpeg)
        add("other/outside.pkl", pickle.dumps(Evil()))
    return {"unsafe": len(EVIL_NAMES) + 2 + 3 + 1, "not_image": 2}


def evil_zip(path: Path) -> dict[str, int]:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(3):
            packed.writestr(f"trainA/{number}.jpg", noisy_jpeg(number))
            packed.writestr(f"trainB/{number}.jpg", noisy_jpeg(100 + number))
        for name in EVIL_NAMES:
            packed.writestr(name, noisy_jpeg(1))
        link = zipfile.ZipInfo("trainA/link.jpg")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
        secret = zipfile.ZipInfo("trainA/secret.jpg")
        packed.writestr(secret, b"enciphered")
        packed.writestr("trainA/labels.pkl", pickle.dumps(Evil()))
        packed.writestr("__MACOSX/trainA/._0.jpg", b"resource fork")
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("trainA/0.jpg", noisy_jpeg(50))
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # mark the secret as encrypted
        at = data.index(b"trainA/secret.jpg", 0 if flags == 6 else data.index(b"PK\x01\x02"))
        data[data.rindex(signature, 0, at) + flags] |= 1
    path.write_bytes(data)
    return {"unsafe": len(EVIL_NAMES) + 3, "not_image": 2}


@pytest.mark.fault(16, 17)
@pytest.mark.parametrize("name", ["evil.tar", "evil.zip"])
def test_evil_members_are_left_out_and_counted(name, tmp_path):
    (tmp_path / "here").mkdir()
    archive, out = tmp_path / "here" / name, tmp_path / "here" / "out"
    expected = (evil_tar if name.endswith("tar") else evil_zip)(archive)
    done(shard("--source", archive, "--out", out))
    assert counts_of(out) == {"trainA": 3, "trainB": 3}
    assert manifest_of(out)["splits"]["trainA"]["dropped"] == {"null": 0, "repeat": 0, **expected}
    assert not any(manifest_of(out)["splits"]["trainB"]["dropped"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted([name, "out"])
    assert not Path("unpickled").exists()


@pytest.mark.fault(18)
def test_bombs_are_not_expanded(tmp_path, monkeypatch):
    """A member that says how large it is, one that lies, and one that is damaged."""
    archive, out = tmp_path / "bombs.zip", tmp_path / "out"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(3):
            packed.writestr(f"trainA/{number}.jpg", noisy_jpeg(number))
            packed.writestr(f"trainB/{number}.jpg", noisy_jpeg(100 + number))
        with packed.open("trainA/bomb.bmp", "w") as bomb:
            for _ in range(items.LARGEST // 2**20 + 1):
                bomb.write(bytes(2**20))
        packed.writestr("trainA/lies.bmp", bytes(2**24))
        packed.writestr("trainA/torn.jpg", noisy_jpeg(9))
    data = bytearray(archive.read_bytes())
    directory = data.index(b"PK\x01\x02")
    lies = data.rindex(b"PK\x01\x02", 0, data.index(b"trainA/lies.bmp", directory))
    data[lies + 24 : lies + 28] = (1000).to_bytes(4, "little")  # its size
    torn = data.index(b"trainA/torn.jpg") + 200
    data[torn : torn + 100] = bytes(100)
    archive.write_bytes(data)
    assert len(data) < 400_000
    output = done(
        subprocess.run(
            ["bash", "-c", 'ulimit -v 4000000; exec "$@"', "-", *shard_command(archive, out)],
            capture_output=True,
            text=True,
            timeout=120,
        )
    )
    assert counts_of(out) == {"trainA": 3, "trainB": 3} and "warning: left out" in output
    bad = {entry["file"]: entry["reason"] for entry in manifest_of(out)["splits"]["trainA"]["quarantined"]["first"]}
    assert bad.keys() == {"trainA/bomb.bmp", "trainA/lies.bmp", "trainA/torn.jpg"}
    assert bad["trainA/bomb.bmp"] == "larger than 256 MiB"
    assert all("cannot be taken out of the archive" in bad[f"trainA/{name}"] for name in ("lies.bmp", "torn.jpg"))


def shard_command(archive: Path, out: Path) -> list:
    from prep_tools import COMMAND

    return [*COMMAND, "--source", archive, "--out", out, "--workers", "1", "--max-corrupt", "0.5"]


def test_reading_a_member_takes_no_more_than_was_asked_for(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("trainA/a.bmp", bytes(2**24))
    assert len(archives.read_zip(str(archive), 0, 1000)) == 1000


def small_archives(folder: Path) -> list[Path]:
    """Of each format one, with names that need its extensions."""
    images = {f"train{domain}/{'é' * 70}{number}.jpg": bytes(300) for domain in "AB" for number in range(2)}
    archives = []
    for name, tar_format in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("ustar", tarfile.USTAR_FORMAT)):
        archives.append(folder / f"{name}.tar")
        with tarfile.open(archives[-1], "w", format=tar_format) as tar:
            for path, data in images.items():
                member = tarfile.TarInfo(path if name != "ustar" else path.replace("é", "e"))
                member.size, member.mtime = len(data), 1.5
                tar.addfile(member, io.BytesIO(data))
    archives.append(folder / "deflated.zip")
    with zipfile.ZipFile(archives[-1], "w", zipfile.ZIP_DEFLATED) as packed:
        for path, data in images.items():
            packed.writestr(path, data)
    return archives


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed; the checksums of changed tar headers are right again, so that their nonsense is believed."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(len(data))] = rng.choice((0, 255, 48, rng.randrange(256)))
    for block in range(0, len(data) - 511, 512):
        if data[block + 257 : block + 262] == b"ustar":
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)


@pytest.mark.fault(16)
def test_damaged_archives_raise_nothing_but_our_own_errors(tmp_path, record_property):
    rng, refused, tries = random.Random(0), 0, 300
    for archive in small_archives(tmp_path):
        whole = archive.read_bytes()
        for number in range(tries):
            path = tmp_path / f"{number}{archive.suffix}"
            path.write_bytes(damaged(whole, rng))
            try:
                source = archives.archive_source(path)
                for item in source.items:
                    with contextlib.suppress(Unreadable):
                        read(source.root, item)
            except UserError as error:
                refused += 1
                assert str(path) in str(error) or "no longer what the plan saw" in str(error)
            archives._opened.cache_clear()
            archives._zip.cache_clear()
    record_property("tries", 4 * tries)
    assert 50 < refused < 4 * tries


@pytest.mark.parametrize(("kind", "program"), [("gz", "gunzip"), ("bz2", "bunzip2"), ("xz", "unxz")])
def test_compressed_tar_is_refused_with_the_way_to_unpack_it(kind, program, tmp_path):
    archive = tmp_path / f"pets.tar.{kind}"
    with tarfile.open(archive, f"w:{kind}") as packed:
        packed.add(make_folder(tmp_path / "pets", {"trainA": 1, "trainB": 1}), "pets")
    assert_refused(shard("--source", archive), f"pets.tar.{kind} is compressed", f"{program} it first")


def test_mistakes_in_archives_get_one_line(tmp_path):
    source, out = make_folder(tmp_path / "pets", {"trainA": 3, "trainB": 3}), tmp_path / "out"
    (tmp_path / "a.txt").write_text("no archive")
    assert_refused(shard("--source", tmp_path / "a.txt"), "neither a folder nor a .zip or .tar", "trainA and trainB")
    whole = {name: pack(source, tmp_path / name).read_bytes() for name in ("cut.tar", "cut.zip")}
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        assert_refused(shard("--source", tmp_path / name, "--out", out), name, "damaged", "copy it again")
    torn = bytearray(whole["cut.tar"])
    torn[torn.index(b"./trainB/1.jpg") + 5] ^= 1  # one member in the middle; nothing after it may get lost
    (tmp_path / "torn.tar").write_bytes(torn)
    assert_refused(shard("--source", tmp_path / "torn.tar", "--out", out), "torn.tar", "is damaged")
    twice = tmp_path / "twice.zip"
    pack(source, twice, "first/")
    with zipfile.ZipFile(twice, "a") as packed:
        packed.writestr("second/trainA/x.jpg", noisy_jpeg(3))
    assert_refused(shard("--source", twice, "--out", out), "two data sets", "'first/trainA' and 'second/trainA'")
    (source / "trainB").rename(source / "valB")
    lone = pack(source, tmp_path / "lone.tar")
    assert_refused(shard("--source", lone, "--out", out), "trainB", "holds no images")
    assert_refused(shard(str(lone)), "is a file: say --source")
    assert not out.exists()


def test_changed_archive_is_noticed(tmp_path):
    source, out = make_folder(tmp_path / "pets", {"trainA": 3, "trainB": 3}), tmp_path / "out"
    archive = pack(source, tmp_path / "pets.tar")
    done(shard("plan", "--source", archive, "--out", out))
    archive.write_bytes(archive.read_bytes().replace(noisy_jpeg(1)[:20], noisy_jpeg(1)[:19] + b"!"))
    assert_refused(shard("write", out), "trainA/1.jpg", "no longer what the plan saw")
