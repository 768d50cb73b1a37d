"""Shards at a URL: a fault of a server is retried, then told, and never a hang; the cache serves only what is whole."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter

import fsspec
import pytest
from flaky_server import serving
from running import ROOT, TINY, train
from streams import assert_same, stream

from zorse.config.command_line import parse
from zorse.config.resolve import run_directory
from zorse.config.schema import Config, Data
from zorse.data import block_cache as cache_module
from zorse.data import local as reader
from zorse.data.block_cache import BlockCache
from zorse.data.dataset import open_shards
from zorse.data.remote import Remote, _file_system
from zorse.data.samples import _checksums, _offsets
from zorse.errors import OneRankError, TransientError, UserError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(reader, "PAUSES", (0.01, 0.01, 0.01, 0.01))
    for kept in (_offsets, _checksums, _file_system):
        kept.cache_clear()


@pytest.fixture
def blocks(tmp_path):
    return BlockCache(tmp_path / "cache")


def files_of(shards):
    return [file for file in shards.iterdir() if file.is_file()]


@pytest.fixture
def in_memory(shards):
    """The shards in fsspec's memory://."""
    store = fsspec.filesystem("memory")
    for file in files_of(shards):
        store.pipe_file(f"/set/{file.name}", file.read_bytes())
    yield "memory://set"
    store.rm("/set", recursive=True)


def test_the_stream_from_a_url_is_that_from_the_folder(shards, in_memory, blocks):
    remote = open_shards(in_memory, cache=blocks, verify=True)
    remote.check()
    local = stream(open_shards(shards), 24, batch=4)
    assert_same(local, stream(remote, 24, batch=4))
    assert_same(local, stream(remote, 24, batch=4, workers=2))


@pytest.mark.fault(14)
def test_remote_files_are_held_against_the_manifest(in_memory, blocks):
    store, remote = fsspec.filesystem("memory"), open_shards(in_memory, cache=blocks)
    tar = remote.train_a.tars[0].name
    whole = store.cat_file(f"/set/{tar}")
    store.pipe_file(f"/set/{tar}", whole[:-512])
    with pytest.raises(UserError, match="the manifest says"):
        remote.check()
    with pytest.raises(OneRankError, match="the manifest says"):
        remote.train_a.read(0)
    store.rm(f"/set/{tar}")
    with pytest.raises(UserError, match=f"{tar}: is missing"):
        remote.check()
    with pytest.raises(OneRankError, match=f"{tar}: is missing"):
        remote.train_a.read(0)


def test_no_manifest_at_a_url(in_memory, blocks):
    with pytest.raises(UserError, match=r"memory://set/no/manifest.json: not found; give the URL"):
        open_shards(in_memory + "/no", cache=blocks)


@pytest.mark.parametrize("url", ["s3://bucket/x", "nothing://bucket/x"])
def test_a_driver_that_is_not_there_is_named(url, monkeypatch, blocks):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"s3fs|not known") as caught:
        open_shards(url, cache=blocks)
    assert url in str(caught.value) and "\n" not in str(caught.value)


def test_options_of_a_url():
    config = parse(["--data", "s3://bucket/some/set/", "--cache-dir", "/fast", "--cache-gb", "0.5"])
    assert config.data.path == "s3://bucket/some/set/" and str(run_directory(config)) == "runs/set"
    assert str(run_directory(Config(data=Data(path="shards/mine")))) == "runs/mine"


# --- a server that answers badly ---


@pytest.fixture
def http(shards):
    pytest.importorskip("aiohttp")
    with serving(shards) as server:
        yield server


def opened(server, blocks, timeout=5.0):
    return open_shards(server.url, cache=blocks, timeout=timeout)


FAULTS = ["500", "stall", "reset", "short", "wrong", "whole"]


@pytest.mark.fault(14)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_not_noticed(shards, http, blocks, fault):
    """The first two answers with bytes of every tar and index are bad."""
    met = Counter()

    def bad(method, name):
        met[name] += method == "GET"
        return fault if name.startswith("trainA") and method == "GET" and met[name] <= 2 else None

    split = opened(http, blocks, timeout=0.5).train_a
    http.fault = bad
    local = open_shards(shards).train_a
    assert [split.read(i) for i in range(7)] == [local.read(i) for i in range(7)]
    assert max(met.values()) > 2


@pytest.mark.fault(14)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_stops_in_one_line(http, blocks, fault):
    split = opened(http, blocks, timeout=0.4).train_a
    split.read(0)
    shutil.rmtree(blocks.place)
    http.fault = lambda method, name: fault if name.endswith(".tar") else None
    began = time.monotonic()
    with pytest.raises(TransientError, match="5 times in a row") as caught:
        split.read(0)
    told = str(caught.value)
    assert time.monotonic() - began < 10
    assert f"{http.url}/{split.tars[0].name}: cannot be read" in told and "\n" not in told
    expected = {"stall": "no answer within 0.4 s", "wrong": "bytes came where", "whole": "bytes came where"}
    assert expected.get(fault, "") in told


@pytest.mark.fault(14)
def test_a_server_that_refuses_is_asked_once(http, blocks):
    opened_shards = opened(http, blocks)
    http.asked.clear()
    with pytest.raises(OneRankError, match="is missing") as caught:
        Remote(http.url, blocks, 5.0).read(reader.File("no.tar", 1024), 0, 10, (0, 10))
    assert not isinstance(caught.value, TransientError) and len(http.asked) == 1
    assert opened_shards.check() is None  # no listing: each shard is looked at when it is opened


def test_what_comes_is_fetched_before_it_is_read(http, blocks):
    split = opened(http, blocks).train_a
    for sample in (0, 1, 5):
        split.prefetch(sample, whole_block=False)
    http.asked.clear()
    assert all(split.read(sample) for sample in range(7))
    assert http.asked == []


# --- the cache ---


def filled(blocks, *keys, size=1000):
    for key in keys:
        blocks.fill(key, size, lambda key=key: key.encode() * (size // len(key)), 0)


def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "TOUCH", 0.0)
    blocks = BlockCache(tmp_path, limit=3100)
    for key in "abc":
        filled(blocks, key)
        time.sleep(0.02)
    assert blocks.read("a", 3, 5, 1000) == b"aa"  # used again
    time.sleep(0.02)
    filled(blocks, "d")
    assert [key for key in "abcd" if blocks.has(key)] == ["a", "c", "d"]
    assert sum(file.stat().st_size for file in blocks.place.iterdir()) <= 3100
    assert len(blocks.fill("e", 9000, lambda: bytes(9000), 0)) == 9000  # more than all of it holds


@pytest.mark.fault(14)
@pytest.mark.parametrize("how", ["changed", "cut", "longer", "empty"])
def test_a_damaged_block_is_fetched_again(blocks, how):
    filled(blocks, "a")
    path = blocks.place / "a.block"
    content = path.read_bytes()
    damaged = {
        "changed": content[:500] + b"x" + content[501:], "cut": content[:-1], "longer": content + b"a", "empty": b"",
    }[how]  # fmt: skip
    path.unlink()
    path.write_bytes(damaged)
    assert blocks.read("a", 0, 10, 1000) is None
    asked = []
    assert blocks.fill("a", 1000, lambda: asked.append(1) or b"a" * 1000, 0) == b"a" * 1000 and asked
    assert blocks.read("a", 0, 10, 1000) == b"a" * 10


def test_blocks_of_other_contents_are_not_used(tmp_path):
    blocks = BlockCache(tmp_path)
    one = Remote("memory://x", blocks, 5.0, "one")
    others = [
        Remote("memory://x", blocks, 5.0, "other"), Remote("memory://y", blocks, 5.0, "one"), one,
    ]  # fmt: skip
    file, other = reader.File("a.tar", 9), reader.File("b.tar", 9)
    keys = {store._key(file, (0, 5)) for store in others} | {one._key(other, (0, 5)), one._key(file, (0, 6))}
    assert len(keys) == 5


def test_what_a_kill_left_is_written_again(blocks):
    filled(blocks, "a")
    (blocks.place / "b.part").write_bytes(b"half of it")
    filled(blocks, "b")
    assert blocks.read("b", 0, 4, 1000) == b"bbbb"
    assert sorted(file.name for file in blocks.place.iterdir()) == ["a.block", "b.block"]


def test_the_cache_deletes_only_its_own_blocks(tmp_path):
    """In a folder of the user's, with old and large files in it and, by some mishap, in the cache's own folder."""
    blocks = BlockCache(tmp_path, limit=3100)
    filled(blocks, "a")
    theirs = [tmp_path / "thesis.tex", tmp_path / ("0" * 40), blocks.place / "notes.txt", blocks.place / "c.block.old"]
    for path in theirs:
        path.write_bytes(bytes(5000))
        os.utime(path, (0, 0))
    (blocks.place / "link.block").symlink_to(theirs[0])
    filled(blocks, "b", "c", "d", "e")
    assert all(path.stat().st_size == 5000 for path in theirs) and (blocks.place / "link.block").is_symlink()
    assert [key for key in "abcde" if blocks.has(key)] == ["c", "d", "e"]


@pytest.mark.parametrize("prepared", ["link", "file", "writable", "another user's"])
def test_a_place_that_others_prepared_is_no_cache(tmp_path, monkeypatch, prepared):
    """In a shared temporary directory anybody can make a folder, or a link, of the cache's name first."""
    monkeypatch.setattr(cache_module.tempfile, "gettempdir", lambda: str(tmp_path))
    blocks, theirs = BlockCache(), tmp_path / "photos"
    theirs.mkdir()
    (theirs / "old.block").write_bytes(bytes(5000))
    if prepared == "link":
        blocks.place.symlink_to(theirs)
    elif prepared == "file":
        blocks.place.write_text("")
    else:
        blocks.place.mkdir()
        blocks.place.chmod(0o777 if prepared == "writable" else 0o755)
    if prepared == "another user's":
        if os.getuid():
            pytest.skip("only root can give a folder to another user")
        os.chown(blocks.place, 12345, 12345)
    for attempt in (lambda: filled(blocks, "a"), lambda: blocks.read("a", 0, 1, 1000), lambda: blocks.has("a")):
        with pytest.raises(OneRankError, match=r"zorse-cache-.*--cache-dir"):
            attempt()
    assert (theirs / "old.block").exists() and len(list(theirs.iterdir())) == 1


def test_links_planted_in_the_cache_are_not_followed(blocks, tmp_path):
    filled(blocks, "z")
    mine = tmp_path / "mine"
    mine.write_bytes(b"m" * 1004)
    for name in ("a.block", "a.part", "b.part"):
        (blocks.place / name).symlink_to(mine)
    assert blocks.read("a", 0, 10, 1000) is None
    with pytest.raises(OneRankError, match="cannot be written"):
        filled(blocks, "b")
    assert mine.read_bytes() == b"m" * 1004


def test_of_several_readers_one_fetches(blocks):
    asked, found = [], []

    def fetch():
        asked.append(1)
        time.sleep(0.3)
        return b"a" * 1000

    threads = [
        threading.Thread(target=lambda: found.append(blocks.fill("a", 1000, fetch, 5.0))) for _ in range(4)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1 and found == [b"a" * 1000] * 4


def test_without_locks_each_reader_fetches_and_keeps_a_block_whole(blocks, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    found, together = [], threading.Barrier(3)

    def fetch():
        together.wait(10)
        return b"a" * 1000

    threads = [threading.Thread(target=lambda: found.append(blocks.fill("a", 1000, fetch, 5.0))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"a" * 1000] * 3 and blocks.read("a", 0, 1000, 1000) == b"a" * 1000
    assert [path.name for path in blocks.place.iterdir()] == ["a.block"]


PROGRAM = """
import sys, time
from pathlib import Path
from zorse.data.block_cache import BlockCache
def fetch():
    print("fetched", flush=True)
    time.sleep(float(sys.argv[2]))
    return b"a" * 1000
print(BlockCache(Path(sys.argv[1])).fill("a", 1000, fetch, 30.0) == b"a" * 1000)
"""


def process(blocks, seconds):
    command = [sys.executable, "-c", PROGRAM, str(blocks.folder), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_the_cache_is_shared_by_processes_and_a_killed_one_leaves_it_to_the_next(blocks):
    first = process(blocks, 60)
    assert first.stdout.readline() == "fetched\n"
    second, third = process(blocks, 0.5), process(blocks, 0.5)
    time.sleep(0.5)
    first.kill()
    told = second.communicate(timeout=30)[0] + third.communicate(timeout=30)[0]
    first.communicate()
    assert sorted(told.split()) == ["True", "True", "fetched"]


def test_a_reader_waits_no_longer_than_an_attempt_for_another(blocks):
    first = process(blocks, 60)
    assert first.stdout.readline() == "fetched\n"
    assert blocks.fill("a", 1000, lambda: b"", 0.1) is None
    first.kill()
    first.communicate()


@pytest.mark.fault(10)
def test_a_cache_that_cannot_be_written_is_named(tmp_path, small_disk):
    (tmp_path / "file").write_text("")
    with pytest.raises(OneRankError, match=r"--cache-dir .*file.*cannot be written"):
        filled(BlockCache(tmp_path / "file" / "x"), "a")
    with pytest.raises(OneRankError, match=r"cannot be written.*--cache-gb"):
        BlockCache(small_disk).fill("a", 20 * 2**20, lambda: bytes(20 * 2**20), 0)


# --- whole runs ---

SHORT = [
    *TINY, "--batch", "2", "--epochs", "0.37", "--decay-epochs", "0", "--image-pool-size", "2", "--log-every", "1",
    "--sample-images", "1",
]  # fmt: skip


def losses(out):
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    timings = ("pairs_per_second", "data_wait", "save_seconds", "peak_memory_gb")
    return [{name: value for name, value in line.items() if name not in timings} for line in lines]


@pytest.fixture(scope="module")
def from_folder(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("folder") / "run"
    done = train(*SHORT, "--data", shards, "--out", out)
    assert done.returncode == 0, done.stderr
    assert len(losses(out)) == 2
    return losses(out)


@pytest.mark.slow
def test_a_run_from_http_is_the_run_from_the_folder(http, from_folder, tmp_path):
    options = ["--data", http.url, "--cache-dir", tmp_path / "cache", "--workers", "2"]
    done = train(*SHORT, *options, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == from_folder and "--cache-gb" not in done.stdout
    done = train(*SHORT, *options, "--out", tmp_path / "other", "--cache-gb", "1e-5")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "other") == from_folder and "--cache-gb 1e-05 does not hold" in done.stdout


@pytest.fixture
def bucket(shards, monkeypatch):
    """The shards in a bucket of a real S3 server on this machine; its URL. Drivers find it by their environment."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    store.mkdir(f"bucket-{port}")
    for file in files_of(shards):
        store.pipe_file(f"bucket-{port}/set/{file.name}", file.read_bytes())
    yield f"s3://bucket-{port}/set"
    running.stop()


def test_a_run_from_s3_is_the_run_from_the_folder(bucket, from_folder, tmp_path):
    options = ["--data", bucket, "--cache-dir", tmp_path / "cache", "--verify-samples"]
    done = train(*SHORT, *options, "--out", tmp_path / "run", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == from_folder


@pytest.mark.fault(14)
def test_faults_of_s3_are_named(bucket, shards, blocks):
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    remote = open_shards(bucket, cache=blocks)
    remote.check()
    tar = remote.train_a.tars[0].name
    store.rm(f"{bucket}/{tar}")
    with pytest.raises(UserError, match=f"{tar}: is missing"):
        remote.check()
    with pytest.raises(OneRankError, match=f"{tar}: is missing"):
        remote.train_a.read(0)
    with pytest.raises(UserError, match="not found; give the URL"):
        open_shards("s3://no-such-bucket/set", cache=blocks)


@pytest.mark.slow
@pytest.mark.fault(14)
def test_a_server_that_stops_answering_ends_a_run_in_one_line(http, tmp_path):
    http.fault = lambda method, name: "500" if name.endswith(".tar") and method == "GET" else None
    options = ["--data", http.url, "--out", tmp_path / "run", "--cache-dir", tmp_path / "cache"]
    done = train(*SHORT, *options, "--read-timeout", "2", ranks=2)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and http.url in told[0] and "5 times in a row" in told[0], done.stderr


@pytest.mark.fault(14)
@pytest.mark.parametrize("ranks", [1, 2])
def test_missing_files_are_told_once_by_rank_0(shards, tmp_path, ranks):
    data = shutil.copytree(shards, tmp_path / "data")
    victim = sorted(data.glob("trainB-*.tar"))[1]
    victim.unlink()
    done = train(*SHORT, "--data", data, "--out", tmp_path / "run", ranks=ranks)
    assert done.returncode == (2 if ranks == 1 else 1)  # accelerate launch makes it 1
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and victim.name in told[0], done.stderr
