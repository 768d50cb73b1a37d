"""data_prep: shards made by real processes, killed ones too. For the image policy see test_images.py."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from pictures import PHOTO, encode
from PIL import Image

from data_prep import PrepError
from data_prep.shards import Policy, make_plan
from data_prep.sources import SPLITS, folder_source, open_source

ROOT = Path(__file__).parents[1]
HORSE2ZEBRA = ROOT.parent / "shared" / "data" / "horse2zebra"


# --- the command ---


def shard(*arguments, workers: int = 1, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "data_prep" / "shard.py", "--workers", str(workers), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


def assert_refused(result: subprocess.CompletedProcess, *words: str, code: int = 2) -> None:
    """A user's error: its exit code, and one line on stderr with these words."""
    assert result.returncode == code, result
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def noisy_jpeg(seed: int, side: int = 48) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def make_folder(root: Path, counts: dict[str, int], side: int = 48) -> Path:
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        for number in range(count):
            (root / split / f"{number}.jpg").write_bytes(noisy_jpeg(number % 20, side))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def manifest_of(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of images with the usual dirt in it, and its shards."""
    root = tmp_path_factory.mktemp("small")
    source = make_folder(root / "pets", {"trainA": 70, "trainB": 7, "testB": 3})
    for number, path in enumerate(sorted((source / "trainA").iterdir())):
        path.write_bytes(noisy_jpeg(1000 + number))
    (source / "trainA" / ".DS_Store").write_bytes(b"Bud1")
    (source / "trainA" / "._0.jpg").write_bytes(b"resource fork")
    (source / "trainA" / "readme.txt").write_text("see the licence")
    (source / "trainB" / "deeper").mkdir()
    (source / "trainB" / "deeper" / "without_extension").write_bytes(encode(PHOTO, "PNG"))
    (source / "trainA" / "broken.jpg").write_bytes(noisy_jpeg(5)[:-500])
    result = shard("--source", source, "--out", root / "out", "--max-corrupt", "0.02")
    assert result.returncode == 0, result
    assert "warning: left out trainA/broken.jpg: cannot be decoded" in result.stdout
    assert f"next: accelerate launch pipeline/train.py --data {root / 'out'}" in result.stdout
    return source, root / "out"


def test_manifest_says_what_is_there(small):
    source, out = small
    manifest = manifest_of(out)
    splits = manifest["splits"]
    assert (manifest["format"], manifest["version"], manifest["name"]) == ("zorse-shards", 1, "pets")
    assert manifest["source"] == {"kind": "folder", "uri": str(source), "revision": None}
    assert {split: entry["samples"] for split, entry in splits.items()} == {"trainA": 70, "trainB": 8, "testB": 3}
    assert [len(splits[split]["shards"]) for split in splits] == [2, 1, 1]
    assert splits["trainA"]["dropped"] == {"null": 0, "repeat": 0, "not_image": 3}
    assert [bad["file"] for bad in splits["trainA"]["quarantined"]] == ["trainA/broken.jpg"]
    assert splits["trainB"]["converted"] == {"png": 1}
    assert splits["trainB"]["statistics"]["width"] == {"min": 48, "max": 60, "mean": 49.5}
    pixels = np.stack([np.asarray(Image.open(path)) for path in (source / "testB").iterdir()]) / 255
    assert splits["testB"]["statistics"]["pixel_mean"] == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-5)
    assert splits["testB"]["statistics"]["pixel_std"] == pytest.approx(pixels.std((0, 1, 2)), abs=1e-5)
    for shard_entry in (entry for split in splits.values() for entry in split["shards"]):
        data, index = ((out / f"{shard_entry['name']}{end}").read_bytes() for end in ("", ".idx"))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard_entry["bytes"], shard_entry["sha256"])
        assert hashlib.sha256(index).hexdigest() == shard_entry["index_sha256"]


def test_shards_read_back_by_webdataset_and_by_index(small):
    source, out = small
    for split, entry in manifest_of(out)["splits"].items():
        originals = {path.read_bytes() for path in (source / split).rglob("*.jpg")}
        keys, copied = [], 0
        for listed in entry["shards"]:
            samples = list(webdataset.WebDataset(str(out / listed["name"]), shardshuffle=False))
            offsets = np.fromfile(out / f"{listed['name']}.idx", dtype="<u8").tolist()
            assert len(samples) == listed["samples"] == len(offsets) - 1
            with (out / listed["name"]).open("rb") as tar:
                for sample, start, end in zip(samples, offsets, offsets[1:], strict=False):
                    header = os.pread(tar.fileno(), 512, start)
                    size = int(header[124:135], 8)
                    assert os.pread(tar.fileno(), size, start + 512) == sample["jpg"]
                    assert end == start + 512 + -(-size // 512) * 512
            keys += [sample["__key__"] for sample in samples]
            copied += sum(sample["jpg"] in originals for sample in samples)
        assert len(set(keys)) == len(keys) == entry["samples"]
        assert all(key.startswith(f"{split}-") and "." not in key for key in keys)
        assert copied == entry["samples"] - sum(entry["converted"].values())


def test_plan_is_deterministic_and_shuffled(small):
    source = folder_source(small[0])
    plan = make_plan(source, Policy(1024, 16, 32))
    assert plan == make_plan(folder_source(small[0]), Policy(1024, 16, 32))
    others = [Policy(512, 16, 32), Policy(1024, 16, 32, lossless=True), Policy(1024, 16, 32, mode_b="grey")]
    assert len({plan.sha256, *(make_plan(source, policy).sha256 for policy in others)}) == 4
    names = [item.name for part in plan.shards if part.split == "trainA" for item in part.items]
    assert names != sorted(names) and sorted(names) == [item.name for item in source.items["trainA"]]
    assert [len(part.items) for part in plan.shards if part.split == "trainA"] == [32, 32, 7]


def test_running_again_changes_nothing(small):
    source, out = small
    before = contents(out)
    result = shard("--source", source, "--out", out, "--max-corrupt", "0.02")
    assert result.returncode == 0 and "4 of 4 shards were there already" in result.stdout
    assert contents(out) == before


def test_another_plan_is_refused_and_restart_replaces_it(small, tmp_path):
    source, out = small
    before = contents(out)
    assert_refused(shard("--source", source, "--out", out, "--max-side", "32"), "--restart", "another --out")
    assert contents(out) == before
    other = make_folder(tmp_path / "other", {"trainA": 3, "trainB": 3})
    mine = tmp_path / "mine"
    assert shard("--source", other, "--out", mine).returncode == 0
    (mine / "notes.txt").write_text("keep")
    assert shard("--source", other, "--out", mine, "--max-side", "32", "--restart").returncode == 0
    assert len(list(mine.glob("*.tar"))) == 2 and (mine / "notes.txt").read_text() == "keep"
    assert manifest_of(mine)["splits"]["trainA"]["converted"] == {"reduced": 3}


# --- interruptions ---


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A folder that takes a while, and its undisturbed shards."""
    root = tmp_path_factory.mktemp("large")
    source = make_folder(root / "large", {"trainA": 320, "trainB": 320}, side=320)
    assert shard("--source", source, "--out", root / "out", "--shard-size", "40", workers=2).returncode == 0
    return source, contents(root / "out")


def without_created(files: dict[str, bytes]) -> dict:
    """Files of a data set, with the time of its making taken out."""
    plain = dict(files)
    for name in ("plan.json", "manifest.json"):
        plain[name] = {**json.loads(files[name]), "created": None}
    return plain


def worker_of(process: subprocess.Popen) -> int:
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise AssertionError("no worker")


def group_lives(process: subprocess.Popen) -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["kill -9", "ctrl-c", "kill -9 of a worker"])
def test_interrupted_job_goes_on_to_the_same_bytes(how, large, tmp_path):
    source, undisturbed = large
    out = tmp_path / "out"
    arguments = ["--source", source, "--out", out, "--shard-size", "40"]
    command = [sys.executable, ROOT / "data_prep" / "shard.py", "--workers", "2", *arguments]
    process = subprocess.Popen(command, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0)
    while not list(out.glob("train*.json")):
        assert process.poll() is None
        time.sleep(0.002)
    if how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(process.pid if how == "kill -9" else worker_of(process), signal.SIGKILL)
    started = time.monotonic()
    stderr = process.communicate(timeout=30)[1]
    while group_lives(process) and time.monotonic() < started + 10:
        time.sleep(0.02)
    assert not group_lives(process), "processes stayed behind"
    assert not (out / "manifest.json").exists()
    if how == "kill -9":
        assert process.returncode == -signal.SIGKILL
        assert len(list(out.glob("train*.json"))) < 16
    else:
        result = subprocess.CompletedProcess(command, process.returncode, None, stderr)
        assert_refused(result, "run the same command again", code=130 if how == "ctrl-c" else 2)
    assert shard(*arguments, workers=2).returncode == 0
    assert without_created(contents(out)) == without_created(undisturbed)


def test_damaged_shard_is_written_again(large, tmp_path):
    source, undisturbed = large
    for name, data in undisturbed.items():
        (tmp_path / name).write_bytes(data)
    tars = sorted(tmp_path.glob("*.tar"))
    tars[0].write_bytes(undisturbed[tars[0].name][:1000])
    tars[1].with_suffix(".json").unlink()
    Path(f"{tars[2]}.idx").unlink()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".{tars[0].name}.{socket.gethostname()}.{ended.pid}.tmp").write_bytes(b"of a killed process")
    result = shard("--source", source, "--out", tmp_path, "--shard-size", "40")
    assert "13 of 16 shards were there already" in result.stdout
    assert contents(tmp_path) == undisturbed


# --- mistakes ---


def test_changed_image_of_the_same_size_is_sharded_again(tmp_path):
    make_folder(tmp_path / "in", {"trainA": 2, "trainB": 2})
    image = tmp_path / "in" / "trainA" / "same.ppm"
    image.write_bytes(encode(np.zeros((20, 20, 3), np.uint8), "PPM"))
    assert shard("--source", tmp_path / "in", "--out", tmp_path / "out").returncode == 0
    before = manifest_of(tmp_path / "out")["splits"]
    image.write_bytes(encode(np.full((20, 20, 3), 200, np.uint8), "PPM"))
    assert shard("--source", tmp_path / "in", "--out", tmp_path / "out").returncode == 0
    after = manifest_of(tmp_path / "out")["splits"]
    assert before["trainA"]["fingerprint"] != after["trainA"]["fingerprint"]
    assert before["trainB"] == after["trainB"]


def test_mistakes_get_one_line(tmp_path):
    layout = "--source DIR with DIR/trainA, DIR/trainB"
    half = make_folder(tmp_path / "half", {"trainA": 2})
    empty = make_folder(tmp_path / "empty", {"trainA": 2, "trainB": 0})
    out = tmp_path / "out"
    assert_refused(shard(), layout)
    assert_refused(shard("--source", tmp_path / "nowhere", "--out", out), "does not exist", layout)
    assert_refused(shard("--source", half, "--out", out), "no folder trainB", layout)
    assert_refused(shard("--source", empty, "--out", out), "trainB", "holds no images")
    assert_refused(shard("horse2zebr"), "'horse2zebra'", layout)
    assert_refused(shard(half), f"--source {half}")
    assert_refused(shard("--source", empty, workers=0), "--workers 0", "1 or more")
    (empty / "trainB" / "b.jpg").write_bytes(noisy_jpeg(0))
    (tmp_path / "file").write_text("in the way")
    assert_refused(shard("--source", empty, "--out", tmp_path / "file" / "out"), "--out")
    assert not out.exists()


def test_unknown_option_names_the_nearest():
    result = shard("--shard-sise", "3")
    assert result.returncode == 2 and "--shard-size" in result.stderr and "Traceback" not in result.stderr


def test_too_many_corrupt_images_stop_the_job(tmp_path):
    source = make_folder(tmp_path / "in", {"trainA": 5, "trainB": 5})
    (source / "trainB" / "z.jpg").write_text("<html>404</html>")
    out = tmp_path / "out"
    arguments = ("--source", source, "--out", out)
    words = ("1 of 11 images", "trainB/z.jpg: not an image", "--restart", "--max-corrupt 0.091")
    assert_refused(shard(*arguments), *words, code=3)
    assert not (out / "manifest.json").exists()
    assert shard(*arguments, "--max-corrupt", "0.091").returncode == 0
    for path in (source / "trainB").iterdir():
        path.write_bytes(b"")
    result = shard(*arguments, "--max-corrupt", "1", "--restart")
    assert_refused(result, "no usable image in trainB", "empty file")
    assert not (out / "manifest.json").exists()


# --- tables ---


def aligned_tables(with_null: bool):
    """{split: Dataset} with imageA filled up to the length of imageB, by repeats in train and perhaps nulls in test."""
    import datasets

    def column(count: int, length: int, first: int, null: bool) -> list:
        cells = [{"bytes": noisy_jpeg(first + i), "path": None} for i in range(count)]
        return cells + [None if null else cells[i % count] for i in range(length - count)]

    features = datasets.Features({"imageA": datasets.Image(), "imageB": datasets.Image()})
    sizes = {"train": (20, 30, 0, False), "test": (5, 8, 500, with_null)}
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"imageA": column(a, b, first, null), "imageB": column(b, b, first + 100, False)}, features=features
            )
            for split, (a, b, first, null) in sizes.items()
        }
    )


@pytest.mark.parametrize("how", ["parquet", "saved"])
def test_aligned_table_gives_the_true_counts(how, tmp_path):
    tables = aligned_tables(with_null=True)
    source = tmp_path / "table"
    source.mkdir()
    if how == "parquet":
        for split, table in tables.items():
            table.to_parquet(source / f"{split}-00000-of-00001.parquet")
    else:
        tables.save_to_disk(source)
    result = shard("--source", source, "--out", tmp_path / "out", HF_HOME=str(tmp_path / "cache"))
    assert result.returncode == 0, result
    splits = manifest_of(tmp_path / "out")["splits"]
    assert {split: splits[split]["samples"] for split in SPLITS} == dict(zip(SPLITS, (20, 30, 5, 8), strict=True))
    assert splits["trainA"]["dropped"] == {"null": 0, "repeat": 10, "not_image": 0}
    assert splits["testA"]["dropped"] == {"null": 3, "repeat": 0, "not_image": 0}
    (listed,) = splits["testA"]["shards"]
    stored = {
        sample["jpg"] for sample in webdataset.WebDataset(str(tmp_path / "out" / listed["name"]), shardshuffle=False)
    }
    assert stored == {noisy_jpeg(500 + i) for i in range(5)}


def test_labelled_table(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(SPLITS))})
    cells = [{"bytes": noisy_jpeg(i), "path": None} for i in range(12)]
    table = datasets.Dataset.from_dict({"image": cells, "label": [i % 4 for i in range(12)]}, features=features)
    datasets.DatasetDict(train=table).save_to_disk(tmp_path / "table")
    source = open_source(None, tmp_path / "table")
    assert {split: len(items) for split, items in source.items.items()} == dict.fromkeys(SPLITS, 3)
    features = datasets.Features({"photo": datasets.Image()})
    datasets.DatasetDict(train=datasets.Dataset.from_dict({"photo": cells}, features)).save_to_disk(tmp_path / "photo")
    with pytest.raises(PrepError, match=r"no imageA and imageB columns.*photo"):
        open_source(None, tmp_path / "photo")


def hub_is_there() -> bool:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_without_network_the_error_names_the_folder_layout(environment, tmp_path):
    if not environment and hub_is_there():
        pytest.skip("the hub can be reached")
    started = time.monotonic()
    result = shard("horse2zebra", "--out", tmp_path / "out", HF_HOME=str(tmp_path), **environment)
    assert_refused(result, "huggan/horse2zebra", "--source DIR with DIR/trainA, DIR/trainB and optionally DIR/testA")
    assert time.monotonic() - started < 20
    assert not (tmp_path / "out").exists()


# --- real and demo data ---


@pytest.mark.skipif(not HORSE2ZEBRA.exists(), reason="needs the real horse2zebra")
def test_real_horse2zebra(tmp_path):
    assert shard("--source", HORSE2ZEBRA, "--out", tmp_path / "out", workers=2).returncode == 0
    splits = manifest_of(tmp_path / "out")["splits"]
    assert {split: entry["samples"] for split, entry in splits.items()} == {
        "trainA": 1067, "trainB": 1334, "testA": 120, "testB": 140
    }  # fmt: skip
    assert not any(entry["quarantined"] for entry in splits.values())


def test_demo_pictures_are_a_function_of_the_seed(tmp_path):
    command = [sys.executable, ROOT / "data_prep" / "demo.py"]
    for name, size in (("one", "16"), ("two", "16")):
        assert subprocess.run([*command, tmp_path / name, "--size", size]).returncode == 0
    one = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*.jpg")}
    assert one == {path.relative_to(tmp_path / "two"): path.read_bytes() for path in (tmp_path / "two").rglob("*.jpg")}
    counts = {split: sum(path.parent.name == split for path in one) for split in SPLITS}
    assert counts == {"trainA": 300, "trainB": 360, "testA": 64, "testB": 64}
    assert len(set(one.values())) == len(one)
    again = subprocess.run([*command, tmp_path / "one", "--size", "16"], capture_output=True, text=True)
    assert "is complete" in again.stdout


def test_demo_zebras_are_striped_and_horses_are_not():
    from data_prep.demo import draw

    def contrast(split: str) -> float:
        centres = [np.asarray(draw(0, split, i, 64).convert("L"), dtype=float)[28:38, 22:40] for i in range(20)]
        return float(np.mean([abs(np.diff(centre, axis=1)).mean() for centre in centres]))

    assert contrast("trainB") > 4 * contrast("trainA")
