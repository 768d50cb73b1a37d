"""Planning, writing and finalizing apart from each other, interrupted, short of room, and twice at once."""

import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prep_tools import (
    COMMAND,
    assert_refused,
    contents,
    counts_of,
    done,
    make_folder,
    noisy_jpeg,
    prep,
    shard,
    without_created,
)

from zorse.errors import UserError
from zorse.invocation import command_line
from zorse.terminal import STOPPED
from zorse_prep import listing
from zorse_prep.folders import folder_source
from zorse_prep.items import Item, Source, none_dropped
from zorse_prep.listing import Hashed, list_source
from zorse_prep.plan import Policy, load_plan, planned_items
from zorse_prep.planning import Choices, make_plan

CHOICES = Choices(max_corrupt=0.01, threads=2)
POLICY = Policy(1024, 16, 32)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "pets", {"trainA": 71, "trainB": 30, "testB": 3})


def planned(out: Path) -> dict[str, list[str]]:
    """Names in the order of the plan, by split."""
    plan = load_plan(out)
    return {
        split: [item.name for part in plan.shards if part.split == split for item in planned_items(out, part)]
        for split in plan.splits
    }


# --- the plan ---


def test_plan_is_deterministic_and_shuffled(images, tmp_path):
    plan = make_plan(folder_source(images), POLICY, tmp_path / "a", CHOICES)
    again = make_plan(folder_source(images), POLICY, tmp_path / "b", CHOICES)
    assert (plan.plan_sha256, plan.shards) == (again.plan_sha256, again.shards)
    assert plan == load_plan(tmp_path / "a")
    others = [Policy(512, 16, 32), Policy(1024, 16, 32, lossless=True), Policy(1024, 16, 32, mode_b="grey")]
    sums = {make_plan(folder_source(images), policy, tmp_path / str(policy), CHOICES).plan_sha256 for policy in others}
    assert len({plan.plan_sha256, *sums}) == 4
    for split, names in planned(tmp_path / "a").items():
        assert names == sorted(names, key=lambda name: hashlib.sha256(f"{split}/{name}".encode()).digest())
        assert names != sorted(names) and sorted(names) == sorted(path.name for path in (images / split).iterdir())
    assert [part.count for part in plan.shards if part.split == "trainA"] == [32, 32, 7]
    item = next(planned_items(tmp_path / "a", plan.shards[0]))
    data = (images / "trainA" / item.name).read_bytes()
    assert (item.size, item.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_plan_does_not_depend_on_what_fits_in_memory(images, tmp_path, monkeypatch):
    make_plan(folder_source(images), POLICY, tmp_path / "a", CHOICES)
    monkeypatch.setattr(listing, "SPILL", 1000)
    make_plan(folder_source(images), POLICY, tmp_path / "b", CHOICES)
    assert without_created({**contents(tmp_path / "a"), "manifest.json": b"{}"}) == without_created(
        {**contents(tmp_path / "b"), "manifest.json": b"{}"}
    )


def test_memory_stays_bounded(tmp_path, monkeypatch):
    """100,000 images take some 30 MB as lines; a 256th of them and what waits for the disk is all that is held."""
    monkeypatch.setattr(listing, "SPILL", 1 << 20)
    items = (Item("trainA", f"folder/{i:030d}.jpg", i, f"trainA/folder/{i:030d}.jpg") for i in range(100_000))
    source = Source("many", "folder", "", None, "", items, {"trainA": none_dropped()})
    tracemalloc.start()
    found = list_source(source, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.found == {"trainA": 100_000} and peak < 6e6


def test_what_is_hashed_is_not_hashed_again_after_a_kill(images, tmp_path, monkeypatch):
    found = list_source(folder_source(images), tmp_path)
    with ThreadPoolExecutor(2) as threads:
        hashed = Hashed(found, str(images), tmp_path, threads)
        items = [pair for number in range(256) for pair in hashed.items(number)]
        caches = sorted(tmp_path.glob("*.sha256"))
        assert len(items) == 104 and all(item.sha256 for _, item in items)
        torn = caches[0].read_text()
        caches[0].write_text(torn[:-10])
        monkeypatch.setattr(listing, "read", lambda root, item: (_ for _ in ()).throw(UserError(item.name)))
        again = dict.fromkeys(range(256))
        for number in again:
            try:
                again[number] = hashed.items(number)
            except UserError:
                assert caches[0].name.startswith(f"{number:02x}-")
        assert sum(pairs is None for pairs in again.values()) == 1
        assert [pair for pairs in again.values() if pairs for pair in pairs] == [
            pair for pair in items if not pair[0].startswith(caches[0].name[:2])
        ]


# --- stages ---


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory) -> dict[str, bytes]:
    """The undisturbed shards of `images`, made in one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done(shard("--source", images, "--out", out, "--shard-size", "16"))
    return contents(out)


def test_stages_make_what_one_command_makes(images, whole, tmp_path):
    out = tmp_path / "out"
    assert_refused(prep("write", out), "holds no plan", "shard plan --source")
    output = done(prep("plan", "--source", images, "--out", out, "--shard-size", "16"))
    assert f"next: {command_line('shard', 'write', out)}" in output
    assert_refused(prep("finalize", out), "8 of 8 shards are missing", command_line("shard", "write", out))
    assert_refused(prep("write", out, "--task", "3", "--tasks", "3"), "give 0 to 2")
    assert_refused(prep("write", out, "--task", "3"), "--task and --tasks go together")
    array = {"SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "3"}
    assert "task 2 of 3: 2 shards written" in done(prep("write", out, SLURM_ARRAY_TASK_ID="7", **array))
    names = [part.name for part in load_plan(out).shards]
    assert {path.stem for path in out.glob("*.tar")} == {names[2], names[5]}
    assert "task 0 of 2: 3 shards written; 1 of 4" in done(prep("write", out, "--task", "0", "--tasks", "2"))
    assert_refused(prep("finalize", out), "3 of 8 shards are missing", names[1])
    assert "5 of 8 shards existed already" in done(prep("write", out))
    done(prep("finalize", out))
    assert without_created(contents(out)) == without_created(whole)


@pytest.mark.slow
def test_write_needs_the_images_as_planned(images, tmp_path):
    source, out = make_folder(tmp_path / "in", {"trainA": 3, "trainB": 3}), tmp_path / "out"
    done(prep("plan", "--source", source, "--out", out))
    image = source / "trainB" / "1.jpg"
    data = image.read_bytes()
    image.write_bytes(noisy_jpeg(777))
    assert len(data) == image.stat().st_size or image.write_bytes(data[:-1] + b"\0")
    assert_refused(prep("write", out), "trainB/1.jpg", "no longer what the plan saw", "--restart")
    image.unlink()
    assert_refused(prep("write", out), "trainB/1.jpg", "no longer what the plan saw")
    image.write_bytes(data)
    done(prep("write", out))
    (source / "trainA").rename(source / "gone")  # what is written is needed no more
    done(prep("finalize", out))
    assert counts_of(out) == {"trainA": 3, "trainB": 3}


def test_two_writers_at_once_make_one_intact_result(images, whole, tmp_path):
    out = tmp_path / "out"
    arguments = ["--source", images, "--out", out, "--shard-size", "16"]
    done(prep("plan", *arguments))
    command = [*COMMAND, "write", out, "--workers", "2"]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in "ab"]
    for writer in writers:
        output = writer.communicate(timeout=60)[0]
        assert writer.returncode == 0, output
    done(prep("finalize", out))
    assert without_created(contents(out)) == without_created(whole)
    done(prep("verify", out, "--deep"))


# --- interruptions ---


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A folder that takes a while, and its undisturbed shards."""
    root = tmp_path_factory.mktemp("large")
    source = make_folder(root / "large", {"trainA": 320, "trainB": 320}, side=320)
    done(shard("--source", source, "--out", root / "out", "--shard-size", "40", workers=2))
    return source, contents(root / "out")


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


def start(*arguments) -> subprocess.Popen:
    """The command in a process group of its own, with two workers."""
    return subprocess.Popen(
        [*COMMAND, *arguments, "--workers", "2"],
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        process_group=0,
    )


@pytest.mark.parametrize("how", ["kill -9", "ctrl-c", "kill -9 of a worker"])
def test_interrupted_job_goes_on_to_the_same_bytes(how, large, tmp_path):
    source, undisturbed = large
    out = tmp_path / "out"
    arguments = ["--source", source, "--out", out, "--shard-size", "40"]
    process = start(*arguments)
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
        result = subprocess.CompletedProcess(process.args, process.returncode, None, stderr)
        if how == "ctrl-c":
            assert result.returncode == 130 and result.stderr == f"{STOPPED}\n"
        else:
            assert_refused(result, "run the same command again")
    done(shard(*arguments, workers=2))
    assert without_created(contents(out)) == without_created(undisturbed)


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_again_and_again(times, large, tmp_path, record_property):
    """kill -9 of everything at random moments, of planning, writing, summing up. What comes through is damaged."""
    source, undisturbed = large
    out, rng, kills = tmp_path / "out", random.Random(times), 0
    arguments = ["--source", source, "--out", out, "--shard-size", "40"]
    while kills < times:
        process = start(*arguments)
        time.sleep(rng.uniform(0.2, 4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        stderr = process.communicate(timeout=30)[1]
        assert process.returncode in (0, -signal.SIGKILL), stderr
        if process.returncode == 0:
            assert without_created(contents(out)) == without_created(undisturbed)
            for name in ("manifest.json", rng.choice(("plan.json", "quarantine.jsonl"))):
                (out / name).unlink()
            for path in rng.sample(sorted(out.glob("*.tar*")), 24):
                path.unlink()
    record_property("tries", kills)
    done(shard(*arguments, workers=2))
    assert without_created(contents(out)) == without_created(undisturbed)


def test_damaged_shard_is_written_again(large, tmp_path):
    source, undisturbed = large
    for name, data in undisturbed.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    tars = sorted(tmp_path.glob("*.tar"))
    tars[0].write_bytes(undisturbed[tars[0].name][:1000])
    tars[1].with_suffix(".json").unlink()
    Path(f"{tars[2]}.idx").unlink()
    Path(f"{tars[3]}.crc").unlink()
    writer = (
        "import sys; from pathlib import Path; from zorse.files import temporary_for; "
        "temporary_for(Path(sys.argv[1])).write_text('of a killed process')"
    )
    subprocess.run([sys.executable, "-c", writer, tars[0]], check=True)
    output = done(shard("--source", source, "--out", tmp_path, "--shard-size", "40"))
    assert "12 of 16 shards existed already" in output
    assert contents(tmp_path) == undisturbed


def test_two_plans_at_once_are_refused(images, tmp_path):
    out = tmp_path / "out"
    done(prep("plan", "--source", images, "--out", out))
    before = contents(out)
    folder = os.open(out / "plan", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert_refused(prep("plan", "--source", images, "--out", out), "is being planned by another process")
    os.close(folder)
    assert contents(out) == before


def test_a_plan_keeps_its_own_lines(images, tmp_path):
    """Whatever another plan does in the same folder, plan.json never names the lines of another."""
    one, other = tmp_path / "one", tmp_path / "other"
    for out, options in ((one, []), (other, ["--max-side", "40"])):
        done(prep("plan", "--source", images, "--out", out, *options))
    before = contents(one / "plan")
    for path in (other / "plan").iterdir():
        shutil.copy(path, one / "plan")
    assert before.items() < contents(one / "plan").items()
    done(prep("write", one))
    done(prep("finalize", one))
    assert "0 faults" in done(prep("verify", one, "--deep"))


def test_damaged_plan_is_noticed(whole, tmp_path):
    for name, data in whole.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for path in tmp_path.glob("*.json"):
        path.unlink(missing_ok=path.name != "plan.json") if path.name != "plan.json" else None
    (lines,) = (tmp_path / "plan").glob("trainA-*.jsonl")
    lines.write_bytes(lines.read_bytes()[: lines.stat().st_size // 2])
    assert_refused(prep("write", tmp_path), f"plan/{lines.name}", "plan again")
    record = json.loads(whole["plan.json"])
    (tmp_path / "plan.json").write_text(json.dumps({**record, "version": 1}))
    assert_refused(prep("write", tmp_path), "of another version", "--restart")


@pytest.mark.fault(10)
def test_disk_full_and_then_room(small_disk, tmp_path):
    source = make_folder(tmp_path / "in", {"trainA": 40, "trainB": 40}, side=256)  # 6 MB
    arguments = ["--source", source, "--shard-size", "10"]
    done(shard(*arguments, "--out", tmp_path / "whole"))
    out, filler = small_disk / "out", small_disk / "filler"
    for room in (50_000, 2_000_000):  # for not even the plan; for some of the shards
        filler.write_bytes(bytes(12 * 2**20 - room))
        assert_refused(shard(*arguments, "--out", out), "No space left", "free disk space")
        filler.unlink()
    assert 1 <= len(list(out.glob("*.tar"))) < 8 and not (out / "manifest.json").exists()
    done(shard(*arguments, "--out", out))
    assert without_created(contents(out)) == without_created(contents(tmp_path / "whole"))
