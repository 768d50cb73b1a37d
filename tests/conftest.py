"""Fixtures: small data sets made by the project itself, and runs on them."""

import os
import signal
import subprocess

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: on two threads, small steps wait more than they compute

import pytest
from fault_table import pytest_addoption, pytest_collection_modifyitems, pytest_terminal_summary  # noqa: F401, hooks
from running import TINY, draw, shard, train

signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs ignore it, and so would commands


@pytest.fixture(scope="session")
def make_shards(tmp_path_factory):
    """make_shards(train_a, train_b, test_a, test_b) -> a directory of shards of 4 samples, with so many images."""

    def make(*counts, size=40, shard_size=4):
        base = tmp_path_factory.mktemp("data")
        for number, (name, count) in enumerate(zip(("trainA", "trainB", "testA", "testB"), counts, strict=False)):
            if count:
                draw(base / "images" / name, count, size, seed=number)
        return shard(base / "images", base / "shards", "--shard-size", str(shard_size), "--workers", "1")

    return make


@pytest.fixture(scope="session")
def shards(make_shards):
    """7 + 11 training images in 2 + 3 shards, 3 + 5 test images."""
    return make_shards(7, 11, 3, 5)


@pytest.fixture(scope="session")
def trained(shards, tmp_path_factory):
    """A run of 2 pairs with tiny networks, averaged weights, evaluations and sample grids."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = [
        "--epochs",
        "0.2",
        "--decay-epochs",
        "0",
        "--ema-pairs",
        "1",
        "--evaluate-every",
        "1",
        "--sample-every",
        "1",
    ]
    done = train(*TINY, *options, "--data", shards, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)
