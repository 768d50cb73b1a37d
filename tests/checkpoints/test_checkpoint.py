"""Checkpoints: written behind training, kept or removed by rule, never trusted without their sums."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from running import TINY, train
from runs import (
    LONG,
    SEVENTEEN,
    assert_close,
    change_one_byte,
    cut,
    cut_back,
    final,
    losses,
    refused,
    run,
    start,
    wait_for,
)

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.load import whole_checkpoint
from zorse.checkpoints.writer import CheckpointWriter
from zorse.errors import UserError
from zorse.runs.lock import RunLock


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    """17 pairs, with checkpoints at 0, 3, ..., 15, 17."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run(shards, out, *SEVENTEEN, "--keep", "9")
    return out


def names(out):
    return [int(path.name.split("-")[1]) for path in sorted((out / "checkpoints").glob("pairs-*"))]


def until_names(out, expected, seconds=5):
    """Whether these checkpoints are left; those that are not kept go while training goes on."""
    deadline = time.monotonic() + seconds
    while names(out) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return names(out) == expected


DAMAGES = {
    "cut": lambda path: cut(path / "optimizer.safetensors"),
    "changed": lambda path: change_one_byte(path / "networks.safetensors"),
    "history changed": lambda path: change_one_byte(path / "history-00000.safetensors"),
    "empty": lambda path: (path / "state.json").write_text(""),
    "without a file": lambda path: (path / "history-00000.safetensors").unlink(),
    "without a manifest": lambda path: (path / "manifest.json").unlink(),
    "manifest cut": lambda path: cut(path / "manifest.json"),
    "manifest of another kind": lambda path: (path / "manifest.json").write_text("[1]"),
    "nothing in it": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.fault(12, 13)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(finished, tmp_path, damage):
    out = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    DAMAGES[damage](out / "checkpoints" / "pairs-000000000017")
    told = []
    assert checkpoint.latest_valid(out, told.append).name == "pairs-000000000015"
    assert len(told) == 1 and "pairs-000000000017 is damaged" in told[0]
    for path in (out / "checkpoints").glob("pairs-*"):
        if path.name != "pairs-000000000017":
            DAMAGES[damage](path)
    with pytest.raises(UserError, match=f"all {len(names(out))} checkpoints are damaged"):
        checkpoint.latest_valid(out)


def test_the_best_the_milestones_and_what_the_user_wants_are_kept(shards, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    cut_back(out, 9)
    (out / "checkpoints" / "pairs-000000000003" / "keep").touch()
    run(shards, out, *SEVENTEEN, "--keep", "1", "--keep-every", "6", "--evaluate-every", "2")
    values = {}
    for path in (out / "eval").glob("*.json"):
        record = json.loads(path.read_text())
        values[record["pairs"]] = sum(record[way]["sliced_wasserstein"] for way in ("a_to_b", "b_to_a")) / 2
    lowest = min(values, key=values.get)
    best = (out / "checkpoints" / "best").resolve()
    assert best.name == f"pairs-{lowest:012d}" and checkpoint.integrity_error(best) is None
    assert json.loads((best / "state.json").read_text())["best"]["value"] == values[lowest]
    assert set(names(out)) == {3, 12, 17, lowest}  # by hand, milestone, newest, best


@pytest.fixture
def saver_of(tmp_path):
    """Makes a CheckpointWriter of a small network, and saves a pair with a distance by it."""
    accelerator, owner = Accelerator(cpu=True), RunLock(tmp_path)
    model = torch.nn.Linear(4, 4)
    adam, told = torch.optim.Adam(model.parameters()), []
    state = SimpleNamespace(model=model, optimizer=adam, pools={}, ema=None)
    state.record = lambda: {"pairs_seen": state.pairs_seen}

    def make(resumed=None):
        saver = CheckpointWriter(tmp_path, accelerator, owner, told.append, keep=9, keep_every=None, resumed=resumed)

        def save(pairs, value, protocol="p"):
            best = {"pairs": pairs, "metric": "m", "protocol": protocol, "value": value}
            best = best if saver.improves(best) else None
            state.pairs_seen = pairs
            saver.save(state, best=best, wait=False)
            saver.poll(wait=True)
            best = checkpoint.followed(tmp_path / "checkpoints" / "best")
            return json.loads((best / "state.json").read_text())

        return saver, save, told

    return make


def test_a_checkpoint_that_could_not_be_written_is_not_the_best(saver_of, tmp_path, monkeypatch):
    _, save, told = saver_of()
    assert save(10, 3.0)["best"]["pairs"] == 10
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1, free=0))
        assert save(20, 1.0)["pairs_seen"] == 10 and "no checkpoint at pair 20" in told[0]
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=0, free=0))  # a store without an end
        assert save(25, 3.5)["pairs_seen"] == 10 and len(told) == 1
    assert save(30, 2.0)["best"]["pairs"] == 30  # better than the best one that there is
    assert save(40, 2.5)["pairs_seen"] == 30
    assert json.loads((tmp_path / "checkpoints/pairs-000000000040/state.json").read_text())["best"]["pairs"] == 30


def test_the_best_of_another_protocol_is_not_compared(saver_of):
    _, save, told = saver_of()
    save(10, 1.0)
    state = save(20, 2.0, "of other images")
    assert state["best"]["pairs"] == 20 and "measured differently" in told[0]
    _, save, told = saver_of(state)
    assert save(30, 3.0, "of other images")["pairs_seen"] == 20 and len(told) == 1


def test_a_resume_makes_best_right(saver_of, tmp_path):
    """A kill may come between a checkpoint and the link to it; and the best may be removed, or found damaged."""
    _, save, _ = saver_of()
    save(10, 3.0)
    state = save(20, 2.0)
    link = tmp_path / "checkpoints" / "best"
    link.unlink()
    link.symlink_to("pairs-000000000010")
    saver, _, _ = saver_of(state)
    assert link.resolve().name == "pairs-000000000020" and saver.best["value"] == 2.0
    (tmp_path / "checkpoints" / "pairs-000000000020").rename(tmp_path / "checkpoints" / "damaged-pairs-000000000020")
    _, save, _ = saver_of(state)
    assert save(30, 9.0)["pairs_seen"] == 30


def refusing(number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    return refuse


POOR = {"vfat": errno.EPERM, "FUSE": errno.ENOSYS, "a mount of Windows": errno.EOPNOTSUPP}


@pytest.mark.parametrize("disk", POOR)
def test_without_links_best_is_a_file_and_the_best_stays(saver_of, tmp_path, monkeypatch, disk):
    monkeypatch.setattr(os, "symlink", refusing(POOR[disk]))
    best = tmp_path / "checkpoints" / "best"
    saver, save, told = saver_of()
    saver.keep = 1
    for pairs, value in ((10, 3.0), (20, 2.0), (30, 2.5), (40, 2.7)):
        state = save(pairs, value)
    assert best.read_text() == "pairs-000000000020\n" and state["pairs_seen"] == 20 and not told
    assert until_names(tmp_path, [20, 40])
    best.unlink()
    saver, save, told = saver_of(state)
    assert best.read_text() == "pairs-000000000020\n" and saver.best["value"] == 2.0 and not told
    monkeypatch.undo()
    save(50, 1.0)
    assert best.is_symlink() and best.resolve().name == "pairs-000000000050"


def test_a_best_that_cannot_be_written_costs_nothing(saver_of, tmp_path, monkeypatch):
    """Neither the best checkpoint, nor the one that `best` still names, nor the room of those that are to go."""
    saver, save, told = saver_of()
    saver.keep = 1
    save(10, 3.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", refusing(errno.EDQUOT))
        for pairs, value in ((20, 2.0), (30, 2.5), (40, 2.6)):
            assert save(pairs, value)["pairs_seen"] == 10
    assert until_names(tmp_path, [10, 20, 40]) and len(told) == 3 and "could not be tidied up" in told[0]
    assert saver.best["pairs"] == 20
    assert save(50, 2.7)["pairs_seen"] == 20 and until_names(tmp_path, [20, 50])  # when there is room again


def test_where_folders_cannot_be_renamed(saver_of, tmp_path, monkeypatch):
    rename, folders = os.rename, refusing(errno.ENOTSUP)
    monkeypatch.setattr(os, "rename", lambda a, b, **at: (folders if Path(a).is_dir() else rename)(a, b, **at))
    saver, save, told = saver_of()
    saver.keep = 2
    for pairs in (10, 20, 30):
        save(pairs, pairs)
    assert until_names(tmp_path, [10, 20, 30]) and not told  # the best, and two
    cut(tmp_path / "checkpoints" / "pairs-000000000030" / "networks.safetensors")
    accelerator = Accelerator(cpu=True)
    assert checkpoint.latest_for_all_ranks(tmp_path, accelerator, told.append).name == "pairs-000000000020"
    assert "could not be set aside" in told[-1]
    _, save, _ = saver_of(json.loads((tmp_path / "checkpoints/pairs-000000000020/state.json").read_text()))
    save(30, 30)  # in its place
    assert checkpoint.latest_valid(tmp_path).name == "pairs-000000000030"
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_copy_that_was_made_of_what_links_point_to(saver_of, tmp_path):
    """`best` is a folder there, and may be the only copy of the best checkpoint."""
    _, save, _ = saver_of()
    save(10, 2.0)
    save(20, 3.0)
    folder = tmp_path / "checkpoints"
    state = json.loads((folder / "pairs-000000000020" / "state.json").read_text())
    for alone in (False, True):
        (folder / "best").unlink()
        shutil.copytree(folder / "pairs-000000000010", folder / "best")
        if alone:
            shutil.rmtree(folder / "pairs-000000000010")
        saver, _, told = saver_of(state)
        assert (folder / "best").is_symlink() and (folder / "best").resolve().name == "pairs-000000000010"
        assert saver.best["pairs"] == 10 and not told and names(tmp_path) == [10, 20]
    (folder / "best").unlink()
    (folder / "best").mkdir()
    (folder / "best" / "notes.txt").write_text("of something else")
    _, _, told = saver_of(state)
    assert "best stays as it is" in told[0] and (folder / "best" / "notes.txt").exists()


def test_hidden_files_of_others_stay(saver_of, tmp_path):
    saver_of()[1](10, 1.0)
    others = [tmp_path / "checkpoints" / name for name in (".git", ".snapshot", ".nfs0001", ".ipynb_checkpoints")]
    mine = tmp_path / "checkpoints" / ".pairs-000000000020.00.tmp"
    for folder in (*others, mine):
        (folder / "deeper").mkdir(parents=True)
    saver_of({"pairs_seen": 10, "best": None})
    assert all(folder.exists() for folder in others) and not mine.exists()


def test_best_is_followed_once(saver_of, tmp_path):
    """So that what is read of it is of one checkpoint while training names another; also as a file."""
    saver_of()[1](10, 1.0)
    best = tmp_path / "checkpoints" / "best"
    assert checkpoint.followed(best) == best.resolve() != best
    best.unlink()
    best.write_text("pairs-000000000010\n")
    assert whole_checkpoint(best).name == "pairs-000000000010"
    best.write_text("somewhere else")
    with pytest.raises(UserError, match="no checkpoint here"):
        whole_checkpoint(best)


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(shards, tmp_path):
    out, plain = tmp_path / "run", tmp_path / "plain"
    long = [*LONG, "--epochs", "16", "--decay-epochs", "16", "--checkpoint-every", "150", "--keep", "9"]
    run(shards, plain, *long)
    process = start(shards, out, *long, fault="slow-save 1")  # three files
    wait_for(process, r"^ +154/352 pairs")
    assert names(out) == [0] and list((out / "checkpoints").glob(".pairs-000000000150.*.tmp"))
    process.send_signal(signal.SIGTERM)  # it writes both to their ends
    wait_for(process, "stopped by SIGTERM")
    assert process.wait(20) == 128 + signal.SIGTERM
    assert names(out)[:2] == [0, 150] and len(names(out)) == 3
    records = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    waited = {record["pairs"]: record["save_seconds"] for record in records}
    assert waited[2] >= 3 and waited[152] < 1.5
    run(shards, out, *long)
    assert losses(out) == losses(plain)
    assert_close(final(out), final(plain), 0)


class Evil:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return type(self.canary).touch, (self.canary,)


@pytest.mark.fault(17)
@pytest.mark.parametrize("name", ["networks.safetensors", "optimizer.safetensors", "state.json"])
def test_a_pickle_in_a_checkpoint_is_never_run(shards, finished, tmp_path, name):
    """Even where the manifest vouches for it."""
    out, canary = shutil.copytree(finished, tmp_path / "run", symlinks=True), tmp_path / "canary"
    cut_back(out, 9)
    newest = out / "checkpoints" / "pairs-000000000009"
    content = pickle.dumps(Evil(canary))
    for file in (name, "custom_checkpoint_0.pkl", "random_states_0.pkl"):
        (newest / file).write_bytes(content)
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    refused(train(*TINY, "--data", shards, "--out", out, *SEVENTEEN, "--sample-images", "1"), "")
    assert not canary.exists()
    pickle.loads(content)
    assert canary.exists()  # it would have been


def test_adams_moments_are_laid_out_as_their_parameters():
    """Fused Adam goes through both in the order of memory."""
    model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.rand(1, 3, 8, 8)).sum().backward()
    adam.step()
    stored = {name: tensor.contiguous() for name, tensor in checkpoint.adam_tensors(model, adam).items()}
    before = {name: tensor.clone() for name, tensor in stored.items()}
    checkpoint._restore_adam(stored, model, adam)
    restored = checkpoint.adam_tensors(model, adam)
    torch.testing.assert_close(restored, before, rtol=0, atol=0)
    assert restored["exp_avg/weight"].stride() == model.weight.stride() != before["exp_avg/weight"].stride()
