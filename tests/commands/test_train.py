"""Whole runs, in processes of their own: N ranks equal one, a resume equals no stop, odd data, bad input."""

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from running import HORSE2ZEBRA, ROOT, TINY, draw, script, shard, train
from runs import EXACT, LONG, SEVENTEEN, SIX_STEPS, assert_close, cut_back, final, losses, refused, run, said
from safetensors.torch import load_file

from zorse.checkpoints import format as checkpoint
from zorse.invocation import command_line


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    """Six steps of 4 pairs on one rank, in float64 and in float32."""
    base = tmp_path_factory.mktemp("alone")
    run(shards, base / "exact", *SIX_STEPS, *EXACT)
    run(shards, base / "single", *SIX_STEPS)
    assert [pairs for pairs, _ in losses(base / "exact")] == [4, 8, 12, 16, 20, 24]
    return base


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"ranks": 2}, marks=pytest.mark.slow),
        pytest.param({"accumulate": 2}, marks=pytest.mark.slow),
        {"ranks": 2, "accumulate": 2},
    ],
)
def test_n_equals_one(shards, alone, tmp_path, how):
    """The same global batch split over ranks and micro-steps: samples, history, weights, losses."""
    split = ["--grad-accum-steps", str(how.get("accumulate", 1))]
    run(shards, tmp_path / "exact", *SIX_STEPS, *EXACT, *split, ranks=how.get("ranks", 1))
    assert_close(final(tmp_path / "exact"), final(alone / "exact"), 1e-8)
    kinds = ["exact"]
    if len(how) == 2:  # what is so in float64 is so in float32; that it is, one case shows
        kinds.append("single")
        run(shards, tmp_path / "single", *SIX_STEPS, *split, ranks=2)
        for (pairs, mine), (same, theirs) in zip(losses(tmp_path / "single"), losses(alone / "single"), strict=True):
            assert pairs == same
            assert mine == pytest.approx(theirs, abs=1e-4, rel=1e-4)
    for kind in kinds:
        mine, theirs = (json.loads((base / kind / "eval" / "000000024.json").read_text()) for base in (tmp_path, alone))
        for way in ("a_to_b", "b_to_a"):
            assert mine[way] == pytest.approx(theirs[way], rel=1e-3)
            assert mine["untranslated"][way] == pytest.approx(theirs["untranslated"][way], rel=1e-6)


def test_resume_equals_never_having_stopped(shards, tmp_path):
    run(shards, tmp_path / "whole", *SEVENTEEN, "--keep", "9", "--log-every", "2")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped", symlinks=True)
    cut_back(tmp_path / "stopped", 9)
    (tmp_path / "stopped" / "stats.jsonl").open("a").write('{"pairs": 17, "cut off')
    done = run(shards, tmp_path / "stopped", *SEVENTEEN, "--workers", "2", "--log-every", "2")
    assert "resuming" in done.stdout and "at 9 of 17 pairs" in done.stdout
    assert "affects rounding at most, which training amplifies: --keep 9 -> 2\n" in done.stdout
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")  # to the last bit
    assert_close(final(tmp_path / "stopped"), final(tmp_path / "whole"), 0)


def test_a_run_of_days_on_a_cpu_is_told_once(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("zorse.training.trainer.LONG_ON_CPU", 0)
    told = run(shards, tmp_path / "run", *SEVENTEEN).stdout
    assert told.count("warning: there is no GPU, and at this rate the run takes 0 days; --preset quick is made") == 1


@pytest.mark.slow
def test_resume_on_three_ranks_equals_never_having_stopped(shards, tmp_path):
    """The order in which three gradients are added up is that of the run that went on, from the first step."""
    short = ["--batch", "3", "--epochs", "2", "--decay-epochs", "2", "--checkpoint-every", "12", "--keep", "9"]
    options = [*LONG, *short, "--norm", "batch"]
    run(shards, tmp_path / "whole", *options, ranks=3)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped", symlinks=True)
    cut_back(tmp_path / "stopped", 24)
    done = run(shards, tmp_path / "stopped", *options, ranks=3)
    assert "resuming" in done.stdout and losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert_close(final(tmp_path / "stopped"), final(tmp_path / "whole"), 0)


@pytest.mark.fault(21)
def test_resume_on_another_world_size(shards, tmp_path):
    options = [*SIX_STEPS, *EXACT, "--checkpoint-every", "4", "--keep", "9"]
    run(shards, tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped", symlinks=True)
    cut_back(tmp_path / "stopped", 12)
    done = run(shards, tmp_path / "stopped", *options, "--grad-accum-steps", "2", ranks=2)
    assert "processes 1 -> 2, accumulate 1 -> 2" in done.stdout
    assert_close(final(tmp_path / "stopped"), final(tmp_path / "whole"), 1e-8)
    for (pairs, mine), (same, theirs) in zip(losses(tmp_path / "stopped"), losses(tmp_path / "whole"), strict=True):
        assert pairs == same
        assert mine == pytest.approx(theirs, abs=1e-8)


@pytest.mark.fault(22)
def test_a_run_on_a_disk_that_can_do_little(shards, tmp_path, monkeypatch):
    """No links, locks, modes or times, no folder that is renamed or brought to the disk; as on a store behind FUSE."""
    out, rename, fsync = tmp_path / "run", os.rename, os.fsync

    def unable(*_, **__):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def rename_file(one, other, **at):
        return (unable if Path(one).is_dir() else rename)(one, other, **at)

    def sync_file(descriptor):
        return (unable if stat.S_ISDIR(os.fstat(descriptor).st_mode) else fsync)(descriptor)

    for module, name in ((os, "symlink"), (fcntl, "flock"), (os, "chmod"), (os, "utime")):
        monkeypatch.setattr(module, name, unable)
    monkeypatch.setattr(os, "rename", rename_file)
    monkeypatch.setattr(os, "fsync", sync_file)
    options = [*SEVENTEEN, "--keep", "2", "--workers", "0"]  # in this process, which is the one on such a disk
    run(shards, out, *options)
    for path in (out / "checkpoints").glob("pairs-*17"):
        shutil.rmtree(path)
    done = run(shards, out, *options)
    assert "is finished at 17 pairs" in done.stdout and "warning" not in done.stdout
    best = out / "checkpoints" / "best"
    named = (out / "checkpoints" / best.read_text().strip()).name
    done = script("pipeline/translate.py", best, shards, tmp_path / "translated", "--direction", "a2b")
    assert done.returncode == 0 and f"checkpoints/{named}, raw weights" in done.stdout, done.stderr


@pytest.mark.parametrize("config", ['{"architectures": ["Bert"]}', "[1]", "half of a li"])
def test_a_directory_of_something_else_is_not_trained_in(shards, tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    done = train(*TINY, "--data", shards, "--out", tmp_path)
    refused(done, "config.json: ", "restore it, or give another --out")
    assert (tmp_path / "config.json").read_text() == config


def times(out):
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("lock", "owner.json")]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
@pytest.mark.fault(12, 13)
def test_a_finished_run_is_left_alone_and_a_damaged_checkpoint_is_passed_over(shards, tmp_path):
    out = tmp_path / "run"
    run(shards, out, *SEVENTEEN)
    before = times(out)
    assert "is finished at 17 pairs" in run(shards, out, *SEVENTEEN).stdout
    assert before == times(out)

    whole = final(out)
    newest = checkpoint.latest_valid(out) / "networks.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(data)
    done = run(shards, out, *SEVENTEEN)
    assert "damaged" in done.stdout and "at 15 of 17 pairs" in done.stdout
    assert_close(final(out), whole, 0)

    assert {path.name for path in (out / "checkpoints").iterdir()} == {
        *("best", "damaged-pairs-000000000017", "pairs-000000000015", "pairs-000000000017")
    }

    for path in out.glob("checkpoints/*/networks.safetensors"):
        path.write_bytes(b"")
    refused(train(*TINY, "--data", shards, "--out", out, *SEVENTEEN), "all 2 checkpoints are damaged")
    shutil.rmtree(out / "checkpoints")
    stats = (out / "stats.jsonl").read_bytes()
    refused(train(*TINY, "--data", shards, "--out", out, *SEVENTEEN), "no checkpoint", "--out")
    assert (out / "stats.jsonl").read_bytes() == stats
    (out / "stats.jsonl").unlink()
    refused(train(*TINY, "--data", shards, "--out", out, *SEVENTEEN), "no checkpoint", "--out")


@pytest.mark.fault(12)
def test_a_damaged_checkpoint_never_costs_the_whole_ones(shards, tmp_path):
    """A damaged checkpoint beyond the pair of the resume must not count as the newest one to keep."""
    out = tmp_path / "run"
    run(shards, out, *SEVENTEEN, "--keep", "9")
    cut_back(out, 15)
    for pairs in (12, 15):
        (out / "checkpoints" / f"pairs-{pairs:012d}" / "state.json").write_text("{}")
    done = run(shards, out, *SEVENTEEN, "--keep", "1", "--checkpoint-every", "2")
    assert "at 9 of 17 pairs" in done.stdout
    kept = [path.name for path in (out / "checkpoints").glob("pairs-*")]
    assert kept == ["pairs-000000000017"] and checkpoint.integrity_error(out / "checkpoints" / kept[0]) is None


@pytest.mark.slow
@pytest.mark.fault(22)
def test_two_trainers_never_share_a_run(shards, tmp_path):
    out = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, ROOT / "pipeline" / "train.py", *TINY, "--data", shards, "--out", out, "--epochs", "9999"],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (out / "stats.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        second = train(*TINY, "--data", shards, "--out", out, "--epochs", "9999")
        refused(second, "is being trained by", f"process {first.pid}")
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.fault(23)
def test_lopsided_domains(make_shards, tmp_path, ranks):
    """5 against 5000; one shard of a domain for two ranks; a batch that divides neither."""
    data = make_shards(5, 5000, size=20, shard_size=1000)
    run(data, tmp_path / "run", "--batch", "6", "--epochs", "0.006", "--decay-epochs", "0", ranks=ranks)
    assert losses(tmp_path / "run")[-1][0] == 30


def test_one_image_and_no_test_images(make_shards, tmp_path):
    data = make_shards(1, 3)
    done = run(data, tmp_path / "run", "--batch", "2", "--epochs", "3", "--decay-epochs", "0", ranks=2)
    assert losses(tmp_path / "run")[-1][0] == 10
    assert "no evaluation" in done.stdout
    assert Image.open(tmp_path / "run" / "samples" / "000000010.png").width > 6 * 128


def test_bf16_trains(shards, tmp_path):
    out = tmp_path / "run"
    run(shards, out, *SEVENTEEN, launcher=["--mixed_precision", "bf16"])
    first, last = losses(out)[0][1], losses(out)[-1][1]
    assert sum(last) < sum(first)
    assert {tensor.dtype for tensor in load_file(checkpoint.latest_valid(out) / "networks.safetensors").values()} == {
        torch.float32
    }


def test_no_identity_loss(shards, tmp_path):
    run(shards, tmp_path / "run", "--identity-weight", "0", "--epochs", "0.3", "--decay-epochs", "0")
    assert len(losses(tmp_path / "run")[-1][1]) == 6 + 4  # of each network's gradient, the norm


def test_what_a_run_leaves_to_look_at(alone):
    out = alone / "single"
    assert {path.name for path in out.iterdir()} >= {
        *("config.json", "stats.jsonl", "samples", "eval", "checkpoints", "tensorboard")
    }
    grid = Image.open(out / "samples" / "000000024.png")
    assert grid.size == (6 * 132 + 4, 24 + 132)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard" / "zorse"))
    events.Reload()
    assert [event.step for event in events.Scalars("cycle_a")] == [4, 8, 12, 16, 20, 24]
    assert [event.step for event in events.Images("samples")] == [0, 24]
    assert Image.open(out / "samples" / "strip.png").size == (3 * 132 + 4, 24 + 2 * 132)
    assert "sliced_wasserstein" in (out / "report.html").read_text()


@pytest.mark.slow
def test_resume_leaves_no_doubled_points_in_tensorboard(shards, tmp_path):
    out = tmp_path / "run"
    run(shards, out, *SEVENTEEN, "--keep", "9")
    cut_back(out, 9)
    run(shards, out, *SEVENTEEN)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard" / "zorse"))
    events.Reload()
    assert [event.step for event in events.Scalars("cycle_a")] == list(range(1, 18))


@pytest.mark.slow
def test_weights_and_biases_has_one_run_over_a_resume(shards, tmp_path):
    """Without its server; there, runs of one id are one."""
    how = ["--tracker", "wandb", "--epochs", "1", "--decay-epochs", "0"]
    for options in (how, [*how, "--decay-epochs", "1", "--allow-change", "decay_epochs"]):
        done = train("--data", shards, "--out", tmp_path, *TINY, *options, WANDB_MODE="offline", WANDB_SILENT="true")
        assert done.returncode == 0, done.stderr
    name = (tmp_path / "wandb-id").read_text()
    found = list((tmp_path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(found) == 2 and not (tmp_path / "tensorboard").exists()
    assert all(b"discriminator_a" in path.read_bytes() for path in found)


def test_dry_run_prints_the_plan_and_leaves_nothing(shards, tmp_path):
    done = train("--data", shards, "--out", tmp_path / "run", "--batch", "4", "--dry-run", ranks=2)
    assert done.returncode == 0, done.stderr
    for words in ("7 + 11 training images", "2200 pairs = 550 steps = 200 epochs of 11 pairs", "2 processes", "11,37"):
        assert words in done.stdout
    assert done.stdout.count("7 + 11 training images") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--crop-size", "30"], ["--crop-size 30", "multiple of 4"]),
        (["--load-size", "28"], ["--load-size", "at least --crop-size"]),
        (["--lr", "0"], ["--lr", "greater than 0"]),
        (["--image-pool-size", "-1"], ["--image-pool-size", "0 or greater"]),
        (["--batch", "3", "--grad-accum-steps", "2"], ["--batch 3", "multiple of 2"]),
        (["--fused-norm"], ["--fused-norm", "NVIDIA GPU"]),
        (["--warmup-pairs", "99999"], ["--warmup-pairs 99999", "give fewer"]),
        (["--epochs", "0.001", "--decay-epochs", "0"], ["less than one pair"]),
        (["--epochs", "1e308"], ["--epochs", "below"]),
        (["--data", "nowhere"], ["nowhere/manifest.json", "shard --a DIR --b DIR --out nowhere"]),
        (["--out", ROOT / "README.md"], ["README.md", "--out"]),
        (["--out", ROOT / "README.md" / "run"], ["README.md/run", "--out"]),
        (["--out", "/proc/run"], ["/proc/run", "--out"]),
    ],
)
@pytest.mark.fault(11, 20)
def test_bad_options_in_one_line(shards, options, words):
    refused(train(*TINY, "--data", shards, *options), *words)


def test_defaults_without_shards_name_the_command(tmp_path):
    refused(train(cwd=tmp_path), command_line("shard", "horse2zebra"))
    launched = train(cwd=tmp_path, launcher=[])  # as a user starts it; the launcher makes the exit code 1
    assert launched.returncode == 1
    assert command_line("shard", "horse2zebra") in launched.stderr and "Traceback" not in launched.stderr


@pytest.mark.fault(20)
def test_unknown_options_get_the_nearest_name():
    done = train("--cycle-wieght", "3")
    assert done.returncode != 0 and "--cycle-weight" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without GPUs")
def test_gpu_processes_without_gpus_do_not_train_side_by_side(shards, tmp_path):
    done = train(*TINY, "--data", shards, "--out", tmp_path / "run", ranks=2, ACCELERATE_USE_CPU="false")
    assert done.returncode != 0
    assert said(done.stderr, "error: 2 processes were launched, but this machine has 0 GPUs") == 1
    assert not (tmp_path / "run").exists()


def test_batch_that_the_ranks_cannot_divide(shards, tmp_path):
    done = train(*TINY, "--data", shards, "--out", tmp_path / "run", "--batch", "3", ranks=2)
    assert done.returncode != 0
    assert said(done.stderr, "error: --batch 3: cannot be divided over 2 processes") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.fault(24)
def test_another_configuration_is_refused_and_nothing_is_overwritten(shards, tmp_path):
    out = tmp_path / "run"
    run(shards, out, *SEVENTEEN)
    before = times(out)
    again = [*TINY, "--data", shards, "--out", out, *SEVENTEEN]
    refused(train(*again, "--lr", "0.1"), "--lr 0.0002 -> 0.1", "--out", "--allow-change lr")
    refused(train(*again, "--seed", "1", "--allow-change", "lr"), "--seed 0 -> 1", "cannot change")
    refused(train(*again, "--allow-change", "seed"), "--allow-change seed", "must be one of")
    other = shard(draw_again(tmp_path), tmp_path / "shards", "--workers", "1")
    refused(train(*TINY, "--data", other, "--out", out, *SEVENTEEN), "another data", "--out")
    assert before == times(out)


@pytest.mark.slow
@pytest.mark.fault(24)
def test_allowed_changes_take_effect_and_are_stated(shards, tmp_path):
    """Another batch, schedule and loss: the clock goes on in pairs, and the order of the samples is the first one's."""
    out = tmp_path / "run"
    run(shards, out, *SEVENTEEN)
    changed = ["--batch", "4", "--epochs", "3", "--identity-weight", "0"]
    done = run(shards, out, *SEVENTEEN, *changed, "--allow-change", "batch", "epochs", "identity_weight", ranks=2)
    for words in ("changed from pair 17 on", "--batch 1 -> 4", "--epochs 1.0 -> 3.0", "--identity-weight 0.5 -> 0.0"):
        assert words in done.stdout
    assert [pairs for pairs, _ in losses(out)][16:] == [17, 21, 25, 29, 33, 37, 41]
    assert len(losses(out)[-1][1]) == 6 + 4
    assert "is finished" in run(shards, out, *SEVENTEEN, *changed).stdout


def draw_again(base):
    draw(base / "images" / "trainA", 7, seed=8)
    draw(base / "images" / "trainB", 11, seed=9)
    return base / "images"


@pytest.mark.slow
@pytest.mark.fault(15)
def test_damaged_images_are_replaced_alike_on_all_ranks_and_after_a_resume(shards, tmp_path):
    data = shutil.copytree(shards, tmp_path / "data")
    for tar in data.glob("trainA-*.tar"):  # the first image of both, 2 of 7
        content = bytearray(tar.read_bytes())
        content[512:1024] = bytes(512)
        tar.write_bytes(content)
    options = [*SIX_STEPS, *EXACT, "--checkpoint-every", "4", "--keep", "9"]
    done = run(data, tmp_path / "whole", *options, "--workers", "2")
    assert "cannot be read" in done.stdout
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped", symlinks=True)
    cut_back(tmp_path / "stopped", 12)
    run(data, tmp_path / "stopped", *options)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    run(data, tmp_path / "ranks", *options, ranks=2)
    assert_close(final(tmp_path / "ranks"), final(tmp_path / "whole"), 1e-8)
    listed = [[json.loads(line) for line in file.open()] for file in sorted((tmp_path / "ranks").glob("quarantine-*"))]
    assert {(line["domain"], line["sample"]) for lines in listed for line in lines} == {("a", 0)}
    assert all(len({line["shard"] for line in lines}) == len(lines) for lines in listed)


@pytest.mark.skipif(not HORSE2ZEBRA.exists(), reason="the real horse2zebra is not here")
@pytest.mark.slow
def test_real_images_end_to_end(tmp_path):
    """Shards of the real horse2zebra, 300 pairs at 64 pixels, a translation of testA."""
    data = shard(HORSE2ZEBRA, tmp_path / "shards")
    options = ["--epochs", "0.2276", "--decay-epochs", "0"]
    done = train("--preset", "quick", "--data", data, "--out", tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert lines[-1]["pairs"] == 300
    assert lines[-1]["cycle_a"] < 0.7 * lines[0]["cycle_a"]
    images = HORSE2ZEBRA / "testA"
    translated = script("pipeline/translate.py", tmp_path / "run", images, tmp_path / "out", "--direction", "a2b")
    assert translated.returncode == 0, translated.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in images.iterdir())


def test_each_side_has_its_learning_rate(shards, tmp_path):
    """The discriminators' is so small that they stay where they were, and the generators do not."""
    options = ["--batch", "1", "--epochs", "0.3", "--decay-epochs", "0", "--lr-g", "1e-3", "--lr-d", "1e-12"]
    run(shards, tmp_path / "run", *options)
    last, *_, first = (
        load_file(path / "networks.safetensors") for path in checkpoint.list_checkpoints(tmp_path / "run")
    )
    moved = {name: (last[name] - first[name]).abs().max().item() for name in last}
    assert all(moved[name] < 1e-9 for name in moved if name.startswith("discriminators"))
    assert all(moved[name] > 1e-4 for name in moved if name.endswith("weight") and name.startswith("generators"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled_and_recomputed_on_two_ranks_is_the_same_run(shards, alone, tmp_path):
    out = tmp_path / "run"
    run(shards, out, *SIX_STEPS, *EXACT, "--compile", "--activation-checkpointing", "--grad-accum-steps", "2", ranks=2)
    assert_close(final(out), final(alone / "exact"), 1e-8)


@pytest.mark.slow
def test_gradients_in_bfloat16_are_rounded_and_no_worse(shards, alone, tmp_path):
    run(shards, tmp_path / "run", *SIX_STEPS, "--grad-comm-dtype", "bfloat16", ranks=2)
    off = [
        max(abs(x - y) for x, y in zip(mine[:8], theirs[:8], strict=True))  # of losses
        for (_, mine), (_, theirs) in zip(losses(tmp_path / "run"), losses(alone / "single"), strict=True)
    ]
    assert off[0] < 1e-5 and 1e-4 < max(off) < 5e-2, off


def test_a_dry_run_tells_rates_and_means(shards, tmp_path):
    options = ["--lr-g", "1e-5", "--lr-d", "4e-4", "--lr-scaling", "linear", "--batch", "8", "--warmup-pairs", "7"]
    done = train(
        *TINY, *options, "--data", shards, "--out", tmp_path / "run", "--dry-run", "--activation-checkpointing"
    )
    assert "8e-05 (generators) and 0.0032 (discriminators), after a warm-up of 7 pairs" in done.stdout
    assert "activation checkpointing" in done.stdout
