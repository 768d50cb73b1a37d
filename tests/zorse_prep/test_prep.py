"""data_prep/shard.py from a folder to shards: what is written, what is left out, what is refused. The image policy has
test_images.py; the stages, and what interrupts them, test_prep_stages.py."""

import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset
from pictures import PHOTO, encode
from PIL import Image
from prep_tools import (
    HORSE2ZEBRA,
    assert_refused,
    contents,
    counts_of,
    done,
    make_folder,
    manifest_of,
    noisy_jpeg,
    prep,
    shard,
)
from running import script

from zorse.invocation import command_line
from zorse_prep.folders import folder_source
from zorse_prep.format import SPLITS


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of images with the usual dirt in it, and its shards."""
    root = tmp_path_factory.mktemp("small")
    source = make_folder(root / "pets", {"trainA": 70, "trainB": 7, "testB": 3})
    (source / "trainA" / ".DS_Store").write_bytes(b"Bud1")
    (source / "trainA" / "._0.jpg").write_bytes(b"resource fork")
    (source / "trainA" / "readme.txt").write_text("see the licence")
    for folder in (".ipynb_checkpoints", "@eaDir/deeper"):
        (source / "trainA" / folder).mkdir(parents=True)
        (source / "trainA" / folder / "0.jpg").write_bytes(noisy_jpeg(9999))
    os.mkfifo(source / "trainA" / "pipe.jpg")
    (source / "trainB" / "deeper").mkdir()
    (source / "trainB" / "deeper" / "without_extension").write_bytes(encode(PHOTO, "PNG"))
    (source / "trainB" / "deeper" / "again").symlink_to("..")
    (source / "trainA" / "broken.jpg").write_bytes(noisy_jpeg(5)[:-500])
    output = done(shard("--source", source, "--out", root / "out", "--max-corrupt", "0.02"))
    assert "warning: left out trainA/broken.jpg: cannot be decoded" in output
    assert f"next: {command_line('train', '--data', root / 'out')}" in output
    return source, root / "out"


def test_manifest_says_what_is_there(small):
    source, out = small
    manifest = manifest_of(out)
    splits = manifest["splits"]
    assert (manifest["format"], manifest["version"], manifest["name"]) == ("zorse-shards", 2, "pets")
    assert manifest["source"] == {"kind": "folder", "uri": str(source), "revision": None}
    assert counts_of(out) == {"trainA": 70, "trainB": 8, "testB": 3}
    assert counts_of(out, "found") == {"trainA": 71, "trainB": 8, "testB": 3}
    assert [len(splits[split]["shards"]) for split in splits] == [2, 1, 1]
    assert splits["trainA"]["dropped"] == {"null": 0, "repeat": 0, "not_image": 1, "unsafe": 1, "hidden": 4}
    bad = splits["trainA"]["quarantined"]
    assert bad["count"] == 1 and [entry["file"] for entry in bad["first"]] == ["trainA/broken.jpg"]
    assert list(bad["reasons"].values()) == [1]
    assert [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()] == bad["first"]
    assert splits["trainB"]["converted"] == {"png": 1}
    assert splits["trainB"]["statistics"]["width"] == {"min": 48, "max": 60, "mean": 49.5}
    pixels = np.stack([np.asarray(Image.open(path)) for path in (source / "testB").iterdir()]) / 255
    assert splits["testB"]["statistics"]["pixel_mean"] == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-5)
    assert splits["testB"]["statistics"]["pixel_std"] == pytest.approx(pixels.std((0, 1, 2)), abs=1e-5)
    for entry in (entry for split in splits.values() for entry in split["shards"]):
        data, index, crc = ((out / f"{entry['name']}{end}").read_bytes() for end in ("", ".idx", ".crc"))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
        assert hashlib.sha256(index).hexdigest() == entry["index_sha256"]
        assert hashlib.sha256(crc).hexdigest() == entry["crc_sha256"]


def test_shards_read_back_by_webdataset_and_by_index(small):
    source, out = small
    for split, entry in manifest_of(out)["splits"].items():
        originals = {path.read_bytes() for path in (source / split).rglob("*.jpg") if path.is_file()}
        keys, copied = [], 0
        for listed in entry["shards"]:
            samples = list(webdataset.WebDataset(str(out / listed["name"]), shardshuffle=False))
            offsets = np.fromfile(out / f"{listed['name']}.idx", dtype="<u8").tolist()
            sums = np.fromfile(out / f"{listed['name']}.crc", dtype="<u4").tolist()
            assert len(samples) == listed["samples"] == len(offsets) - 1 == len(sums)
            with (out / listed["name"]).open("rb") as tar:
                for sample, start, end, crc in zip(samples, offsets, offsets[1:], sums, strict=False):
                    header = os.pread(tar.fileno(), 512, start)
                    size = int(header[124:135], 8)
                    assert os.pread(tar.fileno(), size, start + 512) == sample["jpg"]
                    assert end == start + 512 + -(-size // 512) * 512
                    assert crc == zlib.crc32(sample["jpg"])
            keys += [sample["__key__"] for sample in samples]
            copied += sum(sample["jpg"] in originals for sample in samples)
        assert len(set(keys)) == len(keys) == entry["samples"]
        assert all(key.startswith(f"{split}-") and "." not in key for key in keys)
        assert copied == entry["samples"] - sum(entry["converted"].values())


def test_running_again_changes_nothing(small):
    source, out = small
    before = contents(out)
    output = done(shard("--source", source, "--out", out, "--max-corrupt", "0.02"))
    assert "4 of 4 shards existed already" in output and "hashing" not in output
    assert contents(out) == before


def test_a_moved_source_is_the_same_one(small, tmp_path):
    """Names, sizes and times make the listing, wherever the folder lies."""
    source, out = small
    before = contents(out)
    source.rename(tmp_path / "pets")
    try:
        output = done(shard("--source", tmp_path / "pets", "--out", out, "--max-corrupt", "0.02"))
        assert "hashing" not in output
        assert manifest_of(out)["source"]["uri"] == str(tmp_path / "pets")
        assert {**contents(out), "manifest.json": b"", "plan.json": b""} == {
            **before, "manifest.json": b"", "plan.json": b""
        }  # fmt: skip
    finally:
        (tmp_path / "pets").rename(source)
    done(shard("--source", source, "--out", out, "--max-corrupt", "0.02"))
    assert contents(out) == before


def test_another_plan_is_refused_and_restart_replaces_it(small, tmp_path):
    source, out = small
    before = contents(out)
    for other in (["--max-side", "32"], ["--lossless"], ["--keep-duplicates"]):
        assert_refused(shard("--source", source, "--out", out, *other), "--restart", "another --out")
    other = make_folder(tmp_path / "other", {"trainA": 3, "trainB": 3})
    assert_refused(shard("--source", other, "--out", out), "--restart", "another --out")
    assert contents(out) == before
    mine = tmp_path / "mine"
    done(shard("--source", other, "--out", mine))
    (mine / "notes.txt").write_text("keep")
    done(shard("--source", other, "--out", mine, "--max-side", "32", "--restart"))
    assert len(list(mine.glob("*.tar"))) == 2 and (mine / "notes.txt").read_text() == "keep"
    assert manifest_of(mine)["splits"]["trainA"]["converted"] == {"reduced": 3}


def test_changed_image_of_the_same_size_is_noticed(tmp_path):
    source, out = make_folder(tmp_path / "in", {"trainA": 2, "trainB": 2}), tmp_path / "out"
    image = source / "trainA" / "same.ppm"
    image.write_bytes(encode(np.zeros((20, 20, 3), np.uint8), "PPM"))
    done(shard("--source", source, "--out", out))
    before = contents(out)
    image.write_bytes(encode(np.full((20, 20, 3), 200, np.uint8), "PPM"))
    assert_refused(shard("--source", source, "--out", out), "other images", "--restart")
    assert contents(out) == before
    done(shard("--source", source, "--out", out, "--restart"))
    after = contents(out)
    assert before.keys() != after.keys()  # names bear the plan
    os.utime(image)
    assert "hashing" in done(shard("--source", source, "--out", out))
    assert {**contents(out), "plan.json": b""} == {**after, "plan.json": b""}


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    source, out = make_folder(tmp_path / "in", {"trainA": 70, "trainB": 2}), tmp_path / "out"
    (source / "trainA" / "0_again.jpg").write_bytes((source / "trainA" / "0.jpg").read_bytes())
    for stage in ([], ["plan"]):
        output = done(shard(*stage, "--source", source, "--out", out, "--dry-run"))
        (row,) = [line for line in output.splitlines() if "trainA" in line]
        assert [cell.strip() for cell in row.split("│")[2:8]] == ["71", "70", "0.1", "2", "64", "1 repeat"], output
        assert "nothing was written" in output and not out.exists()


# --- images that are there more than once ---


def test_repeats_are_dropped_and_leaks_are_told(tmp_path):
    source, out = make_folder(tmp_path / "in", {"trainA": 4, "trainB": 3, "testA": 2, "testB": 2}), tmp_path / "out"
    first = (source / "trainA" / "0.jpg").read_bytes()
    for name in ("trainA/00.jpg", "trainA/Z.jpg", "testA/leak.jpg", "trainB/both.jpg"):
        (source / name).write_bytes(first)
    arguments = ("--source", source, "--out", out)
    assert_refused(shard(*arguments, "--leak", "fail"), "in both trainA and testA", "trainA/0.jpg = testA/leak.jpg")
    assert not out.exists()
    output = done(shard(*arguments))
    assert "warning: 1 image is in both trainA and testA (trainA/0.jpg = testA/leak.jpg)" in output
    assert counts_of(out) == {"trainA": 4, "trainB": 4, "testA": 3, "testB": 2}
    assert counts_of(out, "found") == {"trainA": 6, "trainB": 4, "testA": 3, "testB": 2}
    manifest = manifest_of(out)
    assert manifest["splits"]["trainA"]["dropped"]["repeat"] == 2
    assert manifest["overlaps"] == {
        "trainA/testA": {"count": 1, "names": [["0.jpg", "leak.jpg"]]},
        "trainA/trainB": {"count": 1, "names": [["0.jpg", "both.jpg"]]},
        "trainB/testA": {"count": 1, "names": [["both.jpg", "leak.jpg"]]},
    }
    names = [json.loads(line)["name"] for line in next((out / "plan").glob("trainA-*.jsonl")).read_text().splitlines()]
    assert sorted(names) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]  # in byte order 0.jpg is before 00.jpg
    assert_refused(shard(*arguments, "--leak", "fail"), "in both trainA and testA")  # also from the plan that is there
    done(shard(*arguments, "--keep-duplicates", "--restart"))
    assert counts_of(out) == counts_of(out, "found") == {"trainA": 6, "trainB": 4, "testA": 3, "testB": 2}


def test_names_of_any_bytes(tmp_path):
    """Names are the users': line breaks, no UTF-8, quotes; they reach the plan and the messages whole, on one line."""
    source, out = make_folder(tmp_path / "in", {"trainA": 1, "trainB": 1}), tmp_path / "out"
    names = [b"a\nb.jpg", b"\xff\xfe.jpg", b"'\"$(x).jpg", "é".encode() * 100 + b".jpg", b"\xffbad\n.jpg"]
    for number, name in enumerate(names):
        data = noisy_jpeg(50 + number)
        (source / "trainA" / os.fsdecode(name)).write_bytes(data[:9] if b"bad" in name else data)
    assert_refused(shard("--source", source, "--out", out), "trainA/\\udcffbad .jpg", code=3)
    done(shard("--source", source, "--out", out, "--max-corrupt", "0.5"))
    assert counts_of(out) == {"trainA": 5, "trainB": 1}
    lines = next((out / "plan").glob("trainA-*.jsonl")).read_text().splitlines()
    planned = {json.loads(line)["name"] for line in lines}
    assert planned == {"0.jpg", *map(os.fsdecode, names)}


# --- mistakes ---


def test_mistakes_get_one_line(tmp_path):
    layout = "--source DIR with DIR/trainA, DIR/trainB"
    half = make_folder(tmp_path / "half", {"trainA": 2})
    empty = make_folder(tmp_path / "empty", {"trainA": 2, "trainB": 0})
    out = tmp_path / "out"
    assert_refused(shard(), layout)
    assert_refused(shard("--source", tmp_path / "nowhere", "--out", out), "does not exist", layout)
    assert_refused(shard("--source", half, "--out", out), "no folder trainB", layout)
    assert_refused(shard("--source", empty, "--out", out), "trainB", "holds no images")
    (half / "TrainB").mkdir()
    assert_refused(shard("--source", half, "--out", out), "rename TrainB to trainB")
    (half / "TrainB").rmdir()
    assert_refused(shard("horse2zebr"), "'horse2zebra'", layout)
    assert_refused(shard(half), f"--source {half}")
    assert_refused(shard("--source", empty, workers=0), "--workers 0", "1 or more")
    assert_refused(shard("--source", half, "--columns", "A=x", "B=y"), "--columns", "leave them out")
    assert_refused(shard("--source", half, "--configs", "A=x"), "--configs A=... B=...")
    (empty / "trainB" / "b.jpg").symlink_to(tmp_path / "nowhere")
    assert_refused(shard("--source", empty, "--out", out), "trainB/b.jpg is a broken link")
    (empty / "trainB" / "b.jpg").unlink()
    (empty / "trainB" / "b.jpg").write_bytes(noisy_jpeg(0))
    (tmp_path / "file").write_text("in the way")
    in_the_way = tmp_path / "file" / "out"
    assert_refused(shard("--source", empty, "--out", in_the_way), "Not a directory", str(in_the_way), "fix this")
    assert not out.exists()


def test_a_link_upwards_brings_in_no_other_split(tmp_path):
    source = make_folder(tmp_path / "in", {"trainA": 3, "trainB": 2})
    (source / "trainA" / "up").symlink_to("..")
    done(shard("--source", source, "--out", tmp_path / "out"))
    assert counts_of(tmp_path / "out", "found") == {"trainA": 3, "trainB": 2}


def test_unknown_option_names_the_nearest():
    result = shard("--shard-sise", "3")
    assert result.returncode == 2 and "--shard-size" in result.stderr and "Traceback" not in result.stderr


def test_help_shows_every_stage():
    for arguments, words in (
        ([], ["plan", "write OUT", "finalize OUT", "verify OUT", "stats OUT", "index DIR", "Exit codes"]),
        (["write"], ["--task I", "--tasks"]),
        (["verify"], ["--deep"]),
        (["index"], ["--train-a GLOB"]),
    ):
        output = " ".join(done(shard(*arguments, "--help")).split())
        assert all(word in output for word in words), output


def test_too_many_corrupt_images_stop_the_job(tmp_path):
    source = make_folder(tmp_path / "in", {"trainA": 5, "trainB": 5})
    (source / "trainB" / "z.jpg").write_text("<html>404</html>")
    out = tmp_path / "out"
    arguments = ("--source", source, "--out", out)
    words = ("1 of 11 images", "trainB/z.jpg: not an image", "--restart", "--max-corrupt 0.091")
    assert_refused(shard(*arguments), *words, code=3)
    assert not (out / "manifest.json").exists()
    assert_refused(prep("finalize", out), *words, code=3)
    done(prep("finalize", out, "--max-corrupt", "0.091"))
    (out / "manifest.json").unlink()
    done(shard(*arguments, "--max-corrupt", "0.091"))
    done(prep("finalize", out))  # the plan knows it now
    for path in (source / "trainB").iterdir():
        path.write_bytes(b"")
    result = shard(*arguments, "--max-corrupt", "1", "--restart", "--keep-duplicates")
    assert_refused(result, "no usable image in trainB", "empty file", "--restart", code=3)
    assert not (out / "manifest.json").exists()


# --- real and demo data ---


@pytest.mark.skipif(not HORSE2ZEBRA.exists(), reason="needs the real horse2zebra")
def test_real_horse2zebra(tmp_path):
    out = tmp_path / "out"
    output = done(shard("--source", HORSE2ZEBRA, "--out", out, workers=2))
    assert "trainA/n02381460_3811.jpg = testA/n02381460_1160.jpg" in output
    assert counts_of(out, "found") == {"trainA": 1067, "trainB": 1334, "testA": 120, "testB": 140}
    assert counts_of(out) == {"trainA": 1059, "trainB": 1318, "testA": 120, "testB": 140}
    manifest = manifest_of(out)
    # 25 groups of byte-identical images: 24 pairs within a split, and one across train and test.
    assert sum(entry["dropped"]["repeat"] for entry in manifest["splits"].values()) == 24
    assert {pair: shared["count"] for pair, shared in manifest["overlaps"].items()} == {"trainA/testA": 1}
    assert not any(entry["quarantined"]["count"] for entry in manifest["splits"].values())


def test_demo_pictures_are_a_function_of_the_seed(tmp_path):
    def demo(name):
        return done(script("data_prep/demo.py", tmp_path / name, "--size", "16"))

    for name in ("one", "two"):
        demo(name)
    one = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*.jpg")}
    assert one == {path.relative_to(tmp_path / "two"): path.read_bytes() for path in (tmp_path / "two").rglob("*.jpg")}
    counts = {split: sum(path.parent.name == split for path in one) for split in SPLITS}
    assert counts == {"trainA": 300, "trainB": 360, "testA": 64, "testB": 64}
    assert len(set(one.values())) == len(one)
    assert "is complete" in demo("one")


def test_demo_zebras_are_striped_and_horses_are_not():
    from zorse_prep.demo import draw

    def contrast(split: str) -> float:
        centres = [np.asarray(draw(0, split, i, 64).convert("L"), dtype=float)[28:38, 22:40] for i in range(20)]
        return float(np.mean([abs(np.diff(centre, axis=1)).mean() for centre in centres]))

    assert contrast("trainB") > 4 * contrast("trainA")


def test_copies_of_what_is_no_image_are_unusable_and_no_repeats(tmp_path):
    source, out = make_folder(tmp_path / "pets", {"trainA": 30, "trainB": 3, "testA": 2}), tmp_path / "out"
    for number in range(20):
        (source / "trainA" / f"page{number}.jpg").write_text("<html>404 Not Found</html>")
    (source / "testA" / "page.jpg").write_text("<html>404 Not Found</html>")
    (source / "trainA" / "again.jpg").write_bytes(noisy_jpeg(1))
    options = ("--source", source, "--out", out, "--leak", "fail")
    assert_refused(shard(*options), "21 of 56 images are unusable", code=3)
    done(shard(*options, "--max-corrupt", "0.4", "--restart"))
    manifest = manifest_of(out)
    assert counts_of(out) == {"trainA": 30, "trainB": 3, "testA": 2} and manifest["overlaps"] == {}
    assert manifest["splits"]["trainA"]["dropped"]["repeat"] == 1
    assert manifest["splits"]["trainA"]["quarantined"]["count"] == 20
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 21


def test_a_folder_that_is_reached_by_a_hidden_one_too_is_not_hidden(tmp_path):
    source = make_folder(tmp_path / "pets", {"trainA": 1, "trainB": 1})
    (source / "trainA" / ".store" / "photos").mkdir(parents=True)
    (source / "trainA" / ".store" / "photos" / "x.jpg").write_bytes(noisy_jpeg(2))
    (source / "trainA" / "photos").symlink_to(".store/photos")
    (source / "trainB" / "lost+found").mkdir(mode=0)
    (source / "valA").mkdir()
    found = folder_source(source)
    assert sorted(item.name for item in found.items) == ["0.jpg", "0.jpg", "photos/x.jpg"]
    assert found.outside == {"folder valA": 1}
