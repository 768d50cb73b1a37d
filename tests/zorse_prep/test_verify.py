"""shard.py verify, stats and index: what is wrong with shards, what is in them, and tars of other programs."""

import hashlib
import io
import json
import pickle
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset
from pictures import PHOTO, encode, turned
from PIL import Image
from prep_tools import assert_refused, contents, counts_of, done, make_folder, manifest_of, noisy_jpeg, prep, shard

from zorse.data.dataset import open_shards
from zorse_prep.plan import load_plan
from zorse_prep.verify import read_shard


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("good")
    source = make_folder(root / "pets", {"trainA": 9, "trainB": 5, "testA": 2})
    (source / "trainA" / "9.jpg").write_bytes((source / "trainA" / "0.jpg").read_bytes())
    done(shard("--source", source, "--out", root / "out", "--shard-size", "4"))
    return root / "out"


@pytest.fixture
def out(good, tmp_path) -> Path:
    return shutil.copytree(good, tmp_path / "out")


def faults(out: Path, *options) -> list[str]:
    """The lines of verify's faults, in the number which it says."""
    result = prep("verify", out, "--workers", "1", *options)
    found = [line.removeprefix("fault: ") for line in result.stdout.splitlines() if line.startswith("fault: ")]
    assert f"{len(found)} faults in 6 shards of 16 images" in result.stdout, result
    assert result.returncode == (1 if found else 0) and not result.stderr
    return found


def change(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_good_shards_have_no_faults(out):
    assert faults(out) == faults(out, "--deep") == []
    before = contents(out)
    (out / "plan.json").unlink()  # the manifest is enough, e.g. for shards that were copied
    shutil.rmtree(out / "plan")
    assert faults(out, "--deep") == [] and before.items() > contents(out).items()


@pytest.mark.fault(14, 15)
def test_one_flipped_byte_is_named_with_its_sample(out):
    """Anywhere in a sample's header, image and filling; in the end of the tar; in index and checksums."""
    tar = sorted(out.glob("trainA-*.tar"))[1]
    intact, offsets = tar.read_bytes(), np.fromfile(f"{tar}.idx", dtype="<u8").tolist()
    size = int(intact[offsets[2] + 124 : offsets[2] + 135], 8)
    assert size % 512
    for at in (0, 130, 152, 155, 300, 511, 512, 512 + size // 2, 512 + size - 1, 512 + size):
        change(tar, offsets[2] + at)
        first, second = faults(out, "--deep")
        assert first == f"{tar.name}: its bytes are not those that were written (sha256)"
        assert second.startswith(f"{tar.name}: sample 2"), at
        tar.write_bytes(intact)
    change(tar, len(intact) - 1)
    assert len(faults(out, "--deep")) == 2 and not faults(out)
    tar.write_bytes(intact)
    for end in (".idx", ".crc"):
        path = Path(f"{tar}{end}")
        before = path.read_bytes()
        change(path, 8)
        assert faults(out) == [f"{path.name}: its bytes are not those that were written (sha256)"]
        path.write_bytes(before)
    assert faults(out, "--deep") == []


@pytest.mark.fault(14)
def test_what_is_missing_or_cut_is_named(out):
    tars = sorted(out.glob("*.tar"))
    tars[0].unlink()
    tars[1].write_bytes(tars[1].read_bytes()[:-512])
    Path(f"{tars[2]}.idx").unlink()
    lying = np.array([0, 512, 1 << 40, 1 << 41, 1 << 42], dtype="<u8").tobytes()
    Path(f"{tars[4]}.idx").write_bytes(lying)
    manifest = manifest_of(out)
    entry = next(entry for entry in manifest["splits"]["trainB"]["shards"] if entry["name"] == tars[4].name)
    entry["index_sha256"] = hashlib.sha256(lying).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest))
    Path(f"{tars[5]}.crc").write_bytes(b"")
    found = [line for line in faults(out) if "fingerprint" not in line]
    assert len(found) == 5
    words = (": No such file", ": has", ".idx: No such file", ".idx: its offsets", ".crc: has 0 bytes")
    for tar, problem in zip(tars[:3] + tars[4:], words, strict=True):
        assert any(line.startswith(f"{tar.name}{problem}") for line in found), found
    manifest["splits"]["trainB"]["samples"] += 1
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert "faults in 6 shards of 17 images" in prep("verify", out).stdout
    del manifest["splits"]["trainB"]["shards"][0]["crc_sha256"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(prep("verify", out), "splits.trainB.shards.0.crc_sha256", "finalize")
    (out / "manifest.json").unlink()
    assert_refused(prep("verify", out), "manifest.json is missing", "finalize")


def test_an_image_that_does_not_decode_is_named_whatever_its_checksums_say(out):
    """As of shards that were made with another decoder: everything agrees, but the image is none."""
    entry = manifest_of(out)["splits"]["trainB"]["shards"][0]
    tar = out / entry["name"]
    data = bytearray(tar.read_bytes())
    data[512:516] = b"none"
    tar.write_bytes(data)
    sums = np.fromfile(f"{tar}.crc", dtype="<u4")
    sums[0] = zlib.crc32(bytes(data[512 : 512 + int(data[124:135], 8)]))
    sums.tofile(f"{tar}.crc")
    entry = {
        **entry,
        "sha256": hashlib.sha256(data).hexdigest(),
        "crc_sha256": hashlib.sha256(sums.tobytes()).hexdigest(),
    }
    found, *_ = read_shard(out, "trainB", entry, "rgb", lambda n_bytes: None)
    assert len(found) == 1 and "sample 0 (trainB-00000000.jpg): its image does not decode" in found[0]


def test_the_modes_are_held_against_the_images(out):
    manifest = manifest_of(out)
    manifest["modes"]["b"] = "grey"
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(prep("verify", out), "splits.trainB.statistics.pixel_mean is not of the 1 channels", "finalize")
    manifest["splits"]["trainB"]["statistics"] |= {"pixel_mean": [0.5], "pixel_std": [0.1]}
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert faults(out) == ["manifest.json: the mode of b is grey, but its policy has another"]
    manifest["policy"]["mode_b"] = "grey"
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert faults(out) == []
    found = faults(out, "--deep")
    assert len(found) == 5 and all("its pixels are RGB, and those of the mode grey are L" in fault for fault in found)


def test_verify_says_how_to_fix_it(out):
    before = contents(out)
    tar = sorted(out.glob("*.tar"))[0]
    change(tar, 700)
    assert "remove the .json of each faulty tar" in prep("verify", out, "--deep").stdout
    tar.with_suffix(".json").unlink()
    done(prep("write", out))
    assert contents(out) == before and load_plan(out).name == "pets"


def test_what_is_no_folder_of_shards_or_cannot_become_one(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    assert_refused(prep("stats", tmp_path), "manifest.json is not of zorse shard", "that zorse shard made")
    source = make_folder(tmp_path / "pets", {"trainA": 2, "trainB": 2})
    assert_refused(shard("--source", source, "--out", "/proc/shards"), "/proc/shards: No such file", "fix this")
    (tmp_path / "plan").touch()
    assert_refused(shard("--source", source, "--out", tmp_path), f"{tmp_path / 'plan'}: File exists", "fix this")


def test_stats_shows_the_manifest(out):
    output = done(prep("stats", out))
    for words in (
        "│ trainA │    10 │      9 │      3 │",
        "trainA left out: 1 repeat",
        "trainB levels, 0 to 1: mean 0.",
    ):
        assert words in output, output


# --- tars of other programs ---


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


JPEG_MAGIC = b"\xff\xd8"


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


def foreign_tars(folder: Path, tar_format: int) -> dict[str, list[bytes]]:
    """A WebDataset as others write it: several members per sample, long names, odd images."""
    folder.mkdir()
    images = {"horse": [noisy_jpeg(i) for i in range(6)], "zebra": [noisy_jpeg(100 + i) for i in range(4)]}
    images["horse"][2] = encode(PHOTO, "PNG")
    images["horse"][3] = turned("JPEG")
    for kind, found in images.items():
        for part in (0, 1):
            with tarfile.open(folder / f"{kind}-{part}.tar", "w", format=tar_format) as tar:
                for number, data in list(enumerate(found))[part::2]:
                    key = f"{'very/' * 20}long/{kind}{number}"  # beyond what a plain header holds
                    add(tar, f"{key}.json", b"{}")
                    add(tar, f"{key}.pyd", pickle.dumps(Evil()))
                    add(tar, f"{key}.{'JPG' if data.startswith(JPEG_MAGIC) else 'png'}", data)
                    add(tar, f"{key}.seg.png", encode(PHOTO, "PNG"))
                    add(tar, f"{key}.txt", b"caption")
                if part:
                    add(tar, "bad.jpg", b"<html>")
                    add(tar, "no_image.cls", b"3")
    return images


@pytest.mark.fault(17)
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_foreign_tars_are_indexed_where_they_lie(tar_format, tmp_path):
    folder = tmp_path / "tars"
    images = foreign_tars(folder, tar_format)
    before = contents(folder)
    globs = ["--train-a", "horse-*.tar", "--train-b", "zebra-*.tar"]
    assert_refused(prep("index", folder, *globs), "2 of 12 images are unusable", "horse-1.tar/bad.jpg", code=3)
    output = done(prep("index", folder, *globs, "--max-corrupt", "0.2"))
    assert "in trainA these are read as they are: 1 exif_rotated, 1 png" in output
    assert "trainA left out: 18 not_image, 6 further_image, 1 no_image, 1 unusable" in done(prep("stats", folder))
    assert {name: data for name, data in contents(folder).items() if name in before} == before
    assert counts_of(folder) == {"trainA": 6, "trainB": 4} and counts_of(folder, "found") == {"trainA": 7, "trainB": 5}
    assert "0 faults in 4 shards of 10 images" in done(prep("verify", folder, "--deep"))
    shards = open_shards(folder)
    for split, kind in ((shards.train_a, "horse"), (shards.train_b, "zebra")):
        assert [split.read(i) for i in range(len(split))] == images[kind][::2] + images[kind][1::2]
    change(folder / "zebra-1.tar", int(np.fromfile(folder / "zebra-1.tar.idx", dtype="<u8")[1]) + 700)
    result = prep("verify", folder, "--deep")
    assert result.returncode == 1 and "zebra-1.tar: sample 1 (" in result.stdout
    assert not Path("unpickled").exists()


def test_webdataset_writer_s_own_tars_are_usable(tmp_path):
    for kind in "ab":
        with webdataset.TarWriter(str(tmp_path / f"{kind}.tar")) as writer:
            for number in range(3):
                writer.write({"__key__": f"{number}", "cls": number, "jpg": np.full((32, 32, 3), number, np.uint8)})
    done(prep("index", tmp_path, "--train-a", "a.tar", "--train-b", "b.tar"))
    image = Image.open(io.BytesIO(open_shards(tmp_path).train_b.read(2)))
    assert image.size == (32, 32) and image.getpixel((5, 5)) == (2, 2, 2)


def test_index_takes_what_was_appended_and_counts_what_it_leaves_out(tmp_path):
    images = [encode(np.full((32, 32, 3), number, np.uint8)) for number in range(4)]
    for name, found in (("a.tar", images[:2]), ("b.tar", images[2:])):
        with tarfile.open(tmp_path / name, "w") as tar:
            for number, data in enumerate(found):
                add(tar, f"{name[0]}{number}.jpg", data)
            add(tar, ".ipynb_checkpoints/0.jpg", images[0])
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "0.jpg"
            tar.addfile(link)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    done(prep("index", tmp_path, "--train-a", "a.tar", "--train-b", "b.tar"))
    shards = open_shards(tmp_path)
    assert [shards.train_a.read(number) for number in range(4)] == images
    dropped = counts_of(tmp_path, "dropped")["trainA"]
    assert (dropped["hidden"], dropped["unsafe"]) == (2, 2)


@pytest.mark.parametrize("name", ["a.tar.idx", "b.tar.crc", "quarantine.jsonl"])
def test_index_replaces_no_file_of_others(tmp_path, name):
    """Such as the indexes that DALI reads; those of an earlier start it does."""
    for tar_name in "ab":
        with tarfile.open(tmp_path / f"{tar_name}.tar", "w") as tar:
            add(tar, "0.jpg", noisy_jpeg(0))
    globs = ["--train-a", "a.tar", "--train-b", "b.tar"]
    (tmp_path / name).write_text("v1.2 1\njpg 512 1234 0.jpg 0\n")
    assert_refused(prep("index", tmp_path, *globs), f"{name} belongs to something else; move it away")
    assert (tmp_path / name).read_text().startswith("v1.2")
    (tmp_path / name).unlink()
    done(prep("index", tmp_path, *globs))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.jpg", encode(PHOTO))  # smaller than the index says
    (tmp_path / "quarantine.jsonl").write_text('{"file": "x", "reason": "y"}\n')
    done(prep("index", tmp_path, *globs))
    (tmp_path / "manifest.json").unlink()  # and where one was killed
    done(prep("index", tmp_path, *globs))


def test_mistakes_in_index_get_one_line(good, tmp_path):
    for name in ("a", "b"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            add(tar, "0.jpg", encode(PHOTO))
    assert_refused(prep("index", tmp_path, "--train-a", "a.tar"), "--train-b is missing")
    assert_refused(prep("index", tmp_path, "--train-a", "a.tar", "--train-b", "c*.tar"), "c*.tar matches no file")
    assert_refused(prep("index", tmp_path, "--train-a", "a.tar", "--train-b", "*.tar"), "a.tar is in trainA and")
    assert_refused(prep("index", tmp_path / "no", "--train-a", "a.tar", "--train-b", "b.tar"), "is not a folder")
    assert_refused(prep("index", good, "--train-a", "trainA*.tar", "--train-b", "trainB*.tar"), "an index already")
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        add(tar, "0.jpg", encode(PHOTO))
    shutil.copy(tmp_path / "z.tar", tmp_path / "z.tar.gz")
    for name in ("z.tar", "z.tar.gz"):
        refused = prep("index", tmp_path, "--train-a", "a.tar", "--train-b", name)
        assert_refused(refused, f"{name} is compressed by gzip; gunzip it first")
    (tmp_path / "z.zip").write_bytes(b"PK\x03\x04" + bytes(600))
    assert_refused(prep("index", tmp_path, "--train-a", "a.tar", "--train-b", "z.zip"), "z.zip is a zip, not a tar")
    with tarfile.open(tmp_path / "arrays.tar", "w") as tar:
        add(tar, "0.npy", b"no matter what")
    assert_refused(
        prep("index", tmp_path, "--train-a", "a.tar", "--train-b", "arrays.tar"), "0.npy is an array", "--range-a"
    )
    (tmp_path / "cut.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:900])
    assert_refused(prep("index", tmp_path, "--train-a", "a.tar", "--train-b", "cut.tar"), "cut.tar", "damaged")
    assert not (tmp_path / "manifest.json").exists()


def test_nothing_of_other_programs_is_replaced(tmp_path):
    source, tars = make_folder(tmp_path / "in", {"trainA": 2, "trainB": 2}), tmp_path / "tars"
    foreign_tars(tars, tarfile.GNU_FORMAT)
    index = ["index", tars, "--train-a", "horse*.tar", "--train-b", "zebra*.tar"]
    for theirs in ('{"my": "own"}', '{"source": "http://x"}', "not JSON"):
        (tars / "manifest.json").write_text(theirs)
        assert_refused(prep(*index), "manifest.json belongs to something else")
        assert_refused(shard("--source", source, "--out", tars, "--restart"), "manifest.json belongs to something else")
        assert (tars / "manifest.json").read_text() == theirs
        assert not list(tars.glob("*.idx"))


def test_tars_that_a_trainer_would_refuse_are_refused(tmp_path):
    tars = tmp_path / "tars"
    foreign_tars(tars, tarfile.GNU_FORMAT)
    (tars / "below").mkdir()
    shutil.copy(tars / "horse-0.tar", tars / "a b.tar")
    for pattern, words in (("below/*.tar", "give the folder"), ("../*.tar", "itself"), ("a b*", "rename")):
        assert_refused(prep("index", tars, "--train-a", pattern, "--train-b", "zebra*.tar"), words)
    assert not list(tars.glob("*.idx"))


@pytest.mark.parametrize("field", ["statistics", "quarantined", "converted", "shards", "bytes"])
def test_an_edited_manifest_is_told_in_one_line(out, field):
    manifest = manifest_of(out)
    manifest["splits"]["trainA"][field] = "nonsense"
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(prep("stats", out), "manifest.json" if field in ("shards", "bytes") else ".json")
    told = prep("verify", out)
    assert told.returncode in (0, 1, 2) and "Traceback" not in told.stderr
