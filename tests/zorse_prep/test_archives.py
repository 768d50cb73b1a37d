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
from zorse_prep.items import Source, Unreadable
from zorse_prep.listing import list_source
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
    return {"unsafe": len(EVIL_NAMES) + 2 + 3, "replaced": 1, "not_image": 2}


def mark_encrypted(path: Path, name: str) -> None:
    """Say in a zip, before a member and in its directory, that the member is encrypted."""
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(name.encode(), 0 if flags == 6 else data.index(b"PK\x01\x02"))
        data[data.rindex(signature, 0, at) + flags] |= 1
    path.write_bytes(data)


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
    mark_encrypted(path, "trainA/secret.jpg")
    return {"unsafe": len(EVIL_NAMES) + 1, "encrypted": 1, "replaced": 1, "hidden": 1, "not_image": 1}


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
    assert all("cannot be extracted" in bad[f"trainA/{name}"] for name in ("lies.bmp", "torn.jpg"))


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


def found_in(archive: Path) -> tuple[dict[str, bytes], Source]:
    """The images of an archive, each with its bytes, and the source, whose counts are complete."""
    source = archives.archive_source(archive)
    return {f"{item.split}/{item.name}": read(source.root, item) for item in source.items}, source


def tar_of(path: Path, images: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_what_was_appended_to_a_tar_is_there(tmp_path):
    """By tar's own means, under another way to write the folder, and by putting one tar behind the other."""
    first = {"./trainA/0.jpg": b"a", "./trainB/0.jpg": b"b"}
    tar = tar_of(tmp_path / "a.tar", first)
    tar_of(tar, {"trainA/1.jpg": b"c"}, "a")
    other = tar_of(tmp_path / "b.tar", {"trainA//2.jpg": b"d", "trainB/1.jpg": b"e"})
    tar.write_bytes(tar.read_bytes() + bytes(512 * 40) + other.read_bytes())
    images, _ = found_in(tar)
    assert images == {
        "trainA/0.jpg": b"a", "trainB/0.jpg": b"b", "trainA/1.jpg": b"c", "trainA/2.jpg": b"d", "trainB/1.jpg": b"e",
    }  # fmt: skip
    tar.write_bytes(tar.read_bytes() + b"no tar" * 200)
    with pytest.raises(UserError, match=r"a\.tar.*damaged \(.*at byte"):
        found_in(tar)


def test_the_last_of_one_name_is_taken_as_when_it_is_unpacked(tmp_path):
    source, out = make_folder(tmp_path / "pets", {"trainA": 2, "trainB": 2}), tmp_path / "out"
    tar = pack(source, tmp_path / "pets.tar")
    tar_of(tar, {"./trainA/0.jpg": noisy_jpeg(7)}, "a")
    done(shard("--source", tar, "--out", out))
    (entry,) = manifest_of(out)["splits"]["trainA"]["shards"]
    with tarfile.open(out / entry["name"]) as written:
        stored = {written.extractfile(member).read() for member in written}
    assert stored == {noisy_jpeg(7), noisy_jpeg(1)} and manifest_of(out)["splits"]["trainA"]["dropped"]["replaced"] == 1


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_what_systems_hide_is_left_out_and_what_is_beside_is_told(name, tmp_path, capsys):
    folders = (".ipynb_checkpoints", "deep/.Trash-1000/files", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
    kept = {f"my/trainA/{folder}/1.jpg": b"kept" for folder in ("a", "$a", "@b")}
    others = {f"my/trainA/{folder}/1.jpg": b"hidden" for folder in folders}
    others |= {"__MACOSX/my/trainA/a.jpg": b"", ".Trash/my/trainA/a.jpg": b"", "my/trainA/.DS_Store": b""}
    images = {**others, **kept, "my/trainB/1.jpg": b"b", "my/valA/1.jpg": b"", "my/valA/2.jpg": b"", "notes.txt": b""}
    for place, data in images.items():
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / place).write_bytes(data)
    found, source = found_in(pack(tmp_path / "in", tmp_path / name))
    assert set(found) == {f"trainA/{folder}/1.jpg" for folder in ("a", "$a", "@b")} | {"trainB/1.jpg"}
    assert source.dropped["trainA"]["hidden"] == len(others)
    assert source.outside == {"in valA": 2, "in no folder": 1}
    list_source(archives.archive_source(tmp_path / name), tmp_path)
    assert "ignored, in none of trainA, trainB, testA, testB: 2 in valA, 1 in no folder" in capsys.readouterr().out


def v7(images: dict[str, bytes]) -> bytes:
    """A tar as Unix of 1979 wrote it: no magic, zeros where later formats have owners' names."""
    blocks = []
    for name, data in images.items():
        header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
        header[124:136] = b"%011o\0" % len(data)
        header[156:512] = bytes(356)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        blocks += [bytes(header), data, bytes(-len(data) % 512)]
    return b"".join([*blocks, bytes(1024)])


def test_a_tar_of_the_oldest_format_is_read(tmp_path):
    images = {f"train{domain}/{number}.jpg": noisy_jpeg(number) for domain in "AB" for number in range(2)}
    (tmp_path / "old.tar").write_bytes(v7(images))
    assert found_in(tmp_path / "old.tar")[0] == images


def test_a_zip_of_windows_may_write_backslashes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in ("pets\\trainA\\a.jpg", "pets\\trainB\\b.jpg", "pets\\trainA\\..\\..\\up.jpg"):
            member = zipfile.ZipInfo("x")
            member.filename = member.orig_filename = name
            member.create_system = 0
            packed.writestr(member, name.encode())
    found, source = found_in(tmp_path / "a.zip")
    assert set(found) == {"trainA/a.jpg", "trainB/b.jpg"} and source.dropped["trainA"]["unsafe"] == 1


def test_refused_archives_name_the_true_reason(tmp_path):
    def refused(name: str, *words: str) -> None:
        assert_refused(shard("--source", tmp_path / name, "--out", tmp_path / "out"), name, *words)

    source = make_folder(tmp_path / "pets", {"trainA": 1, "trainB": 1, "testA": 1})
    pack(source, tmp_path / "secret.zip")
    for name in ("trainA/0.jpg", "trainB/0.jpg"):
        mark_encrypted(tmp_path / "secret.zip", name)
    refused("secret.zip", "trainA", "1 encrypted", "with its password")
    tar_of(tmp_path / "case.tar", {"my/TrainA/a.jpg": b"", "my/TrainB/b.jpg": b""})
    refused("case.tar", "no folder trainA but TrainA", "rename TrainA to trainA")
    tar_of(tmp_path / "test.tar", {"trainA/a.jpg": b"", "trainB/b.jpg": b"", "testa/b.jpg": b""})
    refused("test.tar", "no folder testA but testa")
    tar_of(tmp_path / "other.tar", {"horses/a.jpg": b"", "zebras/b.jpg": b""})
    refused("other.tar", "no folder trainA", "horses, zebras")
    (source / "testA").rename(source / "TESTA")
    refused("pets", "no folder testA", "rename TESTA to testA")
    heads = {"7z": b"7z\xbc\xaf\x27\x1c", "rar": b"Rar!\x1a\x07\x01\0", "split": b"PK\x07\x08", "Z": b"\x1f\x9d\x90"}
    words = {"7z": "7z archive", "rar": "RAR archive", "split": "zip -s 0", "Z": "uncompress"}
    for kind, head in heads.items():
        (tmp_path / f"a.{kind}").write_bytes(head + bytes(600))
        refused(f"a.{kind}", words[kind])
    (tmp_path / "zeros.tar").write_bytes(bytes(10240))
    refused("zeros.tar", "zeros alone")
    named = tar_of(tmp_path / "named.tar", {"PK/trainA/a.jpg": b"a", "PK/trainB/b.jpg": b"b"})  # begins like a zip
    assert set(found_in(named)[0]) == {"trainA/a.jpg", "trainB/b.jpg"}


def test_an_odd_packing_in_a_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("trainA/a.jpg", b"a")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(signature) + at] = 9  # Deflate64
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(Unreadable, match="packed in a way that is not supported"):
        archives.read_zip(str(tmp_path / "a.zip"), 0, 10)


def test_changed_archive_is_noticed(tmp_path):
    source, out = make_folder(tmp_path / "pets", {"trainA": 3, "trainB": 3}), tmp_path / "out"
    archive = pack(source, tmp_path / "pets.tar")
    done(shard("plan", "--source", archive, "--out", out))
    archive.write_bytes(archive.read_bytes().replace(noisy_jpeg(1)[:20], noisy_jpeg(1)[:19] + b"!"))
    assert_refused(shard("write", out), "trainA/1.jpg", "no longer what the plan saw")
