"""Reading a run that trains on: its checkpoints come and go between listing and reading them."""

import json
import shutil
import time

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from running import TINY, script, train
from runs import start, wait_for

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints import load, tensors
from zorse.checkpoints.folder import link_best, path_of
from zorse.checkpoints.writer import CheckpointWriter
from zorse.errors import UserError
from zorse.runs.lock import RunLock
from zorse.training import trial

NEXT = 100  # pair of the checkpoint that comes meanwhile


@pytest.fixture
def live(trained, tmp_path):
    """A run with one checkpoint, which is the best one, and what lets it save the next one and remove this one."""
    out = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    newest, *others = checkpoint.list_checkpoints(out)
    for path in others:
        shutil.rmtree(path)
    writer = CheckpointWriter(out, Accelerator(cpu=True), RunLock(out), print, keep=1, keep_every=None, resumed=None)
    link_best(newest)

    def go_on():
        shutil.copytree(newest, path_of(writer.folder, NEXT))
        writer._pairs, writer._best = NEXT, {"pairs": NEXT}
        writer._tidy()
        assert not newest.exists() and checkpoint.list_checkpoints(out) == [path_of(writer.folder, NEXT)]

    return out, go_on


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in.png"
    Image.new("RGB", (20, 16), "red").save(path)
    return path


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (checkpoint, "list_checkpoints"),
        (checkpoint, "read_manifest"),
        (checkpoint, "integrity_error"),
        (load, "read_record"),
    ],
)
@pytest.mark.parametrize("command", ["translate.py", "export.py", "evaluate.py", "train.py"])
def test_a_checkpoint_that_is_removed_meanwhile_is_succeeded(
    live, shards, picture, monkeypatch, tmp_path, module, name, command
):
    out, go_on = live
    read, calls = getattr(module, name), []

    def read_and_go_on(*given):
        result = read(*given)
        calls.append(given)
        if len(calls) == 1:
            go_on()
        return result

    options = {
        "translate.py": (out, picture, tmp_path / "out.png", "--direction", "a2b", "--also", "cycle"),
        "export.py": (out / "checkpoints" / "best", tmp_path / "exported", "--formats", "pth"),
        "evaluate.py": (out, "--data", shards, "--out", tmp_path / "e.json", "--images", "2"),
        "train.py": (*TINY, "--data", shards, "--out", tmp_path / "new", "--init-from", out, "--dry-run"),
    }
    if (name, command) == ("list_checkpoints", "export.py"):
        name = "integrity_error"  # of a link to a checkpoint nothing is listed
        module, read = checkpoint, checkpoint.integrity_error
    monkeypatch.setattr(module, name, read_and_go_on)
    done = script(f"pipeline/{command}", *options[command])
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert len(calls) > 1


def test_a_checkpoint_that_is_removed_as_its_weights_are_opened_is_succeeded(live, monkeypatch):
    """Between safetensors, which opens the file, and torch, which maps it and has an error of its own."""
    out, go_on = live
    opened, calls = tensors.safe_open, []

    def open_too_late(file, **named):
        calls.append(file)
        if len(calls) == 1:
            go_on()
            torch.UntypedStorage.from_file(str(file), shared=False, nbytes=1)
        return opened(file, **named)

    monkeypatch.setattr(tensors, "safe_open", open_too_late)
    assert load.load_trained(out).checkpoint == path_of(out / "checkpoints", NEXT)
    assert len(calls) > 1


def test_a_run_that_removes_faster_than_can_be_read_is_told(live, monkeypatch):
    out, _ = live
    monkeypatch.setattr(checkpoint, "list_checkpoints", lambda run: [run / "checkpoints" / "pairs-000000000007"])
    with pytest.raises(UserError, match="removed faster than they can be read; stop the run, or copy a checkpoint"):
        load.load_trained(out)


@pytest.mark.slow
def test_a_run_that_saves_at_every_step_is_read_all_the_time(shards, picture, tmp_path):
    out = tmp_path / "run"
    options = [
        "--checkpoint-every",
        "1",
        "--keep",
        "1",
        "--evaluate-every",
        "4",
        "--sample-every",
        "4",
        "--epochs",
        "90",
    ]
    process = start(shards, out, *options)
    try:
        wait_for(process, r"^ +6/")
        seen, deadline = set(), time.monotonic() + 4
        while time.monotonic() < deadline and process.poll() is None:
            for command in (
                ("translate.py", picture, picture.with_name("out.png"), "--direction", "a2b"),
                ("report.py", "--out", tmp_path / "page.html"),
                ("export.py", tmp_path / "exported"),
            ):
                done = script(f"pipeline/{command[0]}", out, *command[1:])
                assert done.returncode == 0 and "damaged" not in done.stderr, (command, done.stderr)
            seen.add(json.loads((tmp_path / "exported" / "config.json").read_text())["provenance"]["pairs_seen"])
            shutil.rmtree(tmp_path / "exported")
        assert len(seen) > 2
    finally:
        process.kill()
        process.stdout.read()
        process.wait()


def test_damage_that_is_passed_over_is_told(shards, trained, picture, tmp_path, monkeypatch):
    """By all who take the checkpoint before."""
    out = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    assert len(checkpoint.list_checkpoints(out)) > 1
    (checkpoint.list_checkpoints(out)[0] / "networks.safetensors").write_bytes(b"")
    told = f"{checkpoint.list_checkpoints(out)[0]} is damaged (networks.safetensors does not match its checksum)"
    translated = script("pipeline/translate.py", out, picture, tmp_path / "x.png", "--direction", "a2b")
    assert translated.returncode == 0 and told in translated.stderr
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    same = ("--epochs", "0.2", "--decay-epochs", "0", "--ema-pairs", "1", "--data", shards, "--out", out)
    examined = script("pipeline/doctor.py", *TINY, *same)
    assert examined.returncode == 0 and told in " ".join(examined.stdout.split()), examined.stdout + examined.stderr
    begun = train(*TINY, "--data", shards, "--out", tmp_path / "new", "--init-from", out, "--dry-run")
    assert begun.returncode == 0 and told in begun.stderr
