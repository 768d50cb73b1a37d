"""`zorse`: all commands by one name, several ranks without another launcher, and hints that a shell runs as printed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from running import ALIKE, ROOT, TINY, command
from runs import LONG, final, losses, nobody_left, start, wait_for

from zorse.invocation import command_line
from zorse.version import __version__

ZORSE = [sys.executable, "-m", "zorse"]
ONE_PAIR = ["--epochs", "0.1", "--decay-epochs", "0", "--sample-images", "1", "--tracker", "none", "--batch", "2"]


def test_it_lists_its_commands_and_its_version():
    told = command(ZORSE)
    assert told.returncode == 0 and all(f"\n  {name} " in told.stdout for name in ("shard", "train", "app", "report"))
    assert command([*ZORSE, "--version"]).stdout == f"zorse {__version__}\n"
    wrong = command([*ZORSE, "trane"])
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: zorse trane: no such command; give one of shard")


def in_shell(line, cwd):
    """A line as a person pastes it, in a shell that knows nothing of this environment."""
    env = {**{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}, **ALIKE, "PATH": os.defpath}
    return subprocess.run(["sh", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def images(shards):
    """The folder that `shards` was made of; its training images lie in two folders."""
    return shards.parent / "images"


def test_from_two_folders_to_a_run_by_hints_alone(images, tmp_path, monkeypatch):
    """What each command says to do next is run as it is printed, by a shell without this environment's programs."""
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.chdir(tmp_path)
    refused = in_shell(command_line("train", "--data", images), tmp_path)
    make = re.search("make shards of them with: (.*)", refused.stderr)[1]
    sharded = in_shell(make, tmp_path)
    assert sharded.returncode == 0, sharded.stderr
    following = re.search("^next: (.*)", sharded.stdout, re.MULTILINE)[1]
    trained = in_shell(" ".join([following, *TINY, *ONE_PAIR]), tmp_path)
    assert trained.returncode == 0, trained.stderr
    following = re.search("^next: (.*)", trained.stdout, re.MULTILINE)[1]
    shutil.copytree(images / "testA", tmp_path / "IN")
    translated = in_shell(following, tmp_path)
    assert translated.returncode == 0, translated.stderr
    assert len(list((tmp_path / "OUT").iterdir())) == 3


def test_one_command_from_two_folders_to_a_run(images, tmp_path):
    folders = ["--a", images / "trainA", "--b", images / "trainB"]
    program = [*ZORSE, "train", *TINY, *ONE_PAIR]
    done = command([*program, *folders], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "held out for testing: " in done.stdout and "report.html" in done.stdout.splitlines()[-2]
    out = tmp_path / "runs" / "trainA2trainB"
    assert (out / "shards" / "manifest.json").exists() and "FutureWarning" not in done.stderr
    again = command([*program, *folders], cwd=tmp_path)
    assert again.returncode == 0 and "is finished" in again.stdout and "held out" not in again.stdout
    other = command([*program, "--a", images / "testA", "--b", images / "testB", "--out", out], cwd=tmp_path)
    assert other.returncode == 2 and "holds other images than --a and --b now" in other.stderr, other.stderr
    for options, words in (
        (["--a", images / "trainA"], "give both --a DIR and --b DIR"),
        ([*folders, "--data", "x"], "--data cannot be combined with --a and --b"),
        ([*folders, "--dry-run"], "--dry-run needs shards; make them with: "),
    ):
        refused = command([*program, *options], cwd=tmp_path)
        assert refused.returncode == 2 and words in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr


def launched(shards, out, *options, ranks=2, before=()):
    program = [*before, *ZORSE, "train", *TINY, "--sample-images", "1", "--log-every", "2", "--data", shards]
    words = [str(word) for word in (*program, "--out", out, "--processes", ranks, *options)]
    how = {"env": {**os.environ, **ALIKE}, "text": True, "start_new_session": True}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_ranks_of_its_own_are_those_of_accelerate_and_our_line_is_the_last(shards, tmp_path, ranks):
    """Stopped by Ctrl-C, resumed to the end, and refused; nothing of the launcher's is ever printed."""
    out, options = tmp_path / "run", [*LONG, "--batch", "4"]
    process = launched(shards, out, *options, ranks=ranks)
    wait_for(process, r"^ +\d\d/")
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and nobody_left(out), told
    assert re.fullmatch(r"stopped by SIGINT at \d+ pairs; rerun the same command to resume", told.splitlines()[-1])
    process = launched(shards, out, *options, ranks=ranks)
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and told.splitlines()[-1].startswith("next: "), told
    same = start(shards, tmp_path / "same", *options, "--workers", "0", ranks=ranks)
    assert same.wait(120) == 0
    assert losses(out)[-1] == losses(tmp_path / "same")[-1]
    assert all(tensor.equal(final(tmp_path / "same")[name]) for name, tensor in final(out).items())
    process = launched(shards, tmp_path / "other", *LONG, "--batch", "5", ranks=ranks)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and told.startswith("error: --batch 5: cannot be divided") and told.count("\n") == 1


@pytest.mark.slow
def test_a_killed_rank_and_a_second_ctrl_c_end_all(shards, tmp_path):
    out = tmp_path / "run"
    process = launched(shards, out, *LONG)
    wait_for(process, r"^ +\d\d/")
    killed = subprocess.run(["pgrep", "-f", f"m zorse train .*{out}"], capture_output=True, text=True).stdout.split()
    os.kill(max(int(pid) for pid in killed if int(pid) != process.pid), signal.SIGKILL)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and nobody_left(out), told
    assert re.fullmatch(r"error: rank \d was ended by SIGKILL; rerun .* latest checkpoint", told.splitlines()[-1])
    assert "elastic" not in told
    process = launched(shards, out, *LONG)
    wait_for(process, r"^ +\d\d/")
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)  # or the two become one
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and nobody_left(out) and "Traceback" not in told, told


@pytest.mark.slow
def test_signals_that_come_several_times_or_under_nohup_cost_nothing(shards, tmp_path):
    """A closed terminal sends its hangup twice; under nohup there is none."""
    out = tmp_path / "run"
    process = launched(shards, out, *LONG, "--epochs", "500")
    wait_for(process, r"^ +\d\d/")
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1):
        process.send_signal(number)
        time.sleep(0.05)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 129 and "stopped by SIGHUP" in told.splitlines()[-1] and nobody_left(out), told
    process = launched(shards, out, *LONG, "--epochs", "500", before=["nohup"])
    wait_for(process, r"^ +\d\d/")
    process.send_signal(signal.SIGHUP)
    wait_for(process, r"^ +\d\d\d/")
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in process.communicate(timeout=60)[0].splitlines()[-1]


def test_processes_that_do_not_fit_are_told(shards, tmp_path):
    environment = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    refused = command([*ZORSE, "train", "--processes", "3", "--data", shards], cwd=tmp_path, **environment)
    assert (
        refused.returncode == 2
        and "--processes 3: RANK and WORLD_SIZE are set, so a launcher started 1" in refused.stderr
    )
    refused = command([*ZORSE, "train", "--processes", "0", "--data", shards], cwd=tmp_path)
    assert refused.returncode == 2 and "--processes 0: must be greater than 0" in refused.stderr


def test_an_environment_that_is_none_and_a_configuration_that_was_left_behind(shards, tmp_path):
    told = command([*ZORSE, "train", "--data", "nowhere"], cwd=tmp_path, WORLD_SIZE="", RANK="x")
    assert told.returncode == 2 and told.stderr.count("\n") == 1
    assert told.stderr.startswith("error: accelerate refuses its settings: ")
    left = tmp_path / "accelerate" / "default_config.yaml"
    left.parent.mkdir()
    left.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\ngpu_ids: '0'\nnum_processes: 1\n")
    options = [*TINY, *ONE_PAIR, "--data", shards, "--out", tmp_path / "run", "--processes", "2"]
    told = command([*ZORSE, "train", *options], HF_HOME=tmp_path)
    assert told.returncode == 0 and told.stdout.startswith("2 processes on CPU"), told.stderr


def test_a_run_inside_the_images_is_refused(images, tmp_path):
    copied = shutil.copytree(images, tmp_path / "images")
    out = copied / "trainA" / "run"
    told = command([*ZORSE, "train", "--a", copied / "trainA", "--b", copied / "trainB", "--out", out])
    assert told.returncode == 2 and "whose images it would join; give another --out" in told.stderr and not out.exists()


@pytest.mark.slow
def test_torchrun_s_report_names_our_line_as_the_cause(shards, tmp_path):
    how = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = ["--data", shards, "--batch", "3", "--out", tmp_path / "run"]
    told = command([*how, ROOT / "pipeline" / "train.py", *TINY, *options])
    cause = told.stderr.partition("Root Cause")[2]
    assert told.returncode == 1 and "error: --batch 3: cannot be divided over 2 processes" in cause, told.stderr
    assert "N/A" not in cause and told.stderr.partition("Root Cause")[0].startswith("error: --batch 3")
