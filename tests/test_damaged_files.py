"""Every file that we read, damaged in hundreds of ways: one line that names the file and the fix, never a traceback,
never a hang, and no more memory than the files take.
"""

import os
import random
import re
import shutil
import signal
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from mutants import copied, mutate, vouch
from PIL import Image
from rich.console import Console
from rich.table import Table
from running import TINY, draw, script, shard, train

from zorse import Translator
from zorse.checkpoints import format as checkpoint
from zorse.errors import UserError
from zorse.runs import lock
from zorse.training import trial

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("ZORSE_SEED", "22"))  # others find others
SECONDS = 20  # after which a command counts as hanging
MEMORY = 200e6  # bytes that a command may take beside what the process has
OPTIONS = [
    *TINY, "--epochs", "0.4", "--decay-epochs", "0", "--ema-pairs", "1", "--evaluate-every", "2", "--sample-every", "2",
    "--checkpoint-every", "2", "--sample-images", "1", "--image-pool-size", "2", "--log-every", "1", "--keep", "5",
    "--tracker", "none",
]  # fmt: skip
TOTALS: dict[str, dict] = {}  # by what was damaged


class Hangs(BaseException):
    """A command took longer than SECONDS."""


@contextmanager
def limited():
    """Raise Hangs after SECONDS; yields a function that gives the peak of memory since then, in bytes."""

    def ring(*_):
        raise Hangs

    def status(name):
        return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = status("VmRSS")
    try:
        yield lambda: status("VmHWM") - start
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Campaign:
    """Damages copies of one folder, and has commands read them; counts what they make of it.

    base: an intact folder. copy: where its copies lie. commands: {name: function of a copy that gives a finished
    process}. turns: their names in the order in which mutants are given to them.
    """

    def __init__(self, what, base, copy, commands, turns=()):
        self.base, self.copy, self.commands, self.what = base, copy, commands, what
        self.turns = turns or list(commands)
        self.failures = []
        counts = ("mutants", "refused", "told", "tracebacks", "hangs", "memory", "seconds")
        self.total = TOTALS.setdefault(what, dict.fromkeys(counts, 0))

    def run(self, files, count, sums=None):
        """Damage each file so many times, and give each mutant to one command in turn."""
        began, total = time.monotonic(), self.total
        for at, name in enumerate(files):
            for number in range(count):
                chance = random.Random(f"{SEED} {self.what} {name} {number}")
                folder = copied(self.base, self.copy)
                how = mutate(folder / name, chance)
                if sums and chance.random() < 0.6:
                    vouch(folder / sums, checkpoint.describe)
                    how += ", vouched for"
                command = self.turns[(at + number) % len(self.turns)]
                total["mutants"] += 1
                self._judge(f"{name} {number} ({how}) in {command}", self.commands[command])
        total["seconds"] += time.monotonic() - began
        assert not self.failures, "\n".join(self.failures)

    def _judge(self, which, command):
        try:
            with limited() as peak:
                done = command(self.copy)
                memory = peak()
        except Hangs:
            self.total["hangs"] += 1
            self.failures.append(f"{which}: hangs")
            return
        self.total["memory"] = max(self.total["memory"], memory)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if "Traceback" in done.stderr or "Traceback" in done.stdout:
            self.total["tracebacks"] += 1
            self.failures.append(f"{which}: {done.stderr[-700:]}")
        elif memory > MEMORY:
            self.failures.append(f"{which}: takes {memory / 1e6:.0f} MB")
        elif done.returncode:
            self.total["refused"] += 1
            faults = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
            if len(errors) != 1 and not faults:
                self.failures.append(f"{which}: {len(errors)} lines begin with error: {done.stderr[-500:]}")
            elif errors and (";" not in errors[0] or str(self.copy.parent) not in errors[0]):
                self.failures.append(f"{which}: names no file or no fix: {errors[0]}")
        else:
            self.total["told"] += str(self.copy) in done.stderr


@pytest.fixture(scope="module")
def run_directory(shards, tmp_path_factory):
    """A run of 4 pairs that has two of them left to do, with every record that a run keeps."""
    out = tmp_path_factory.mktemp("base") / "run"
    done = train(*OPTIONS, "--data", shards, "--out", out)
    assert done.returncode == 0, done.stderr
    for path in checkpoint.list_checkpoints(out)[:1]:
        shutil.rmtree(path)
    (out / "quarantine-00000.jsonl").write_text('{"rank": 0, "pair": 3}\n')
    return out


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (20, 16), "red").save(path)
    return path


def translate(model, picture, direction="a2b"):
    return script("pipeline/translate.py", model, picture, picture.with_name("out.png"), "--direction", direction)


def in_python(make):
    """A function that gives what a command would, of a call from Python."""

    def call(model):
        try:
            make(model)
        except UserError as error:
            line = "error: " + str(error).replace("\n", "\nTraceback: several lines\n")
            return CompletedProcess([], 2, "", f"{line}\n")
        except Exception:
            return CompletedProcess([], 1, "", traceback.format_exc())
        return CompletedProcess([], 0, "", "")

    return call


def new(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def test_checkpoints(run_directory, shards, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    commands = {
        "doctor.py": lambda run: script("pipeline/doctor.py", *OPTIONS, "--data", shards, "--out", run),
        "translate.py": lambda run: translate(run, picture),
        "train.py": lambda run: train(*OPTIONS, "--data", shards, "--out", run),
        "export.py": lambda run: script("pipeline/export.py", run, new(tmp_path / "exported"), "--formats", "pth"),
        "train.py --init-from": lambda run: train(
            *OPTIONS, "--data", shards, "--out", tmp_path / "new", "--init-from", run, "--dry-run"
        ),
        "evaluate.py": lambda run: script(
            "pipeline/evaluate.py", run, "--data", shards, "--out", tmp_path / "e.json", "--images", "2"
        ),
    }
    newest = checkpoint.list_checkpoints(run_directory)[0].relative_to(run_directory)
    files = [newest / path.name for path in sorted((run_directory / newest).iterdir())]
    turns = [*4 * ["translate.py", "export.py"], *commands]
    Campaign("checkpoints", run_directory, tmp_path / "run", commands, turns).run(files, 26, newest)


def test_run_directories(run_directory, shards, tmp_path, monkeypatch):
    """What report.py and a resumed run read of the records."""
    monkeypatch.setattr(lock, "SILENCE", 0.1)
    commands = {
        "report.py": lambda run: script("pipeline/report.py", run),
        "train.py": lambda run: train(*OPTIONS, "--data", shards, "--out", run),
    }
    files = ["config.json", "stats.jsonl", "sample_stats.jsonl", "events.jsonl", "eval/000000002.json"]
    files += ["samples/000000002.png", "owner.json", "quarantine-00000.jsonl"]
    turns = ["train.py", *4 * ["report.py"]]
    Campaign("run directories", run_directory, tmp_path / "run", commands, turns).run(files, 12)


@pytest.fixture(scope="module")
def exported(run_directory, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "model"
    done = script("pipeline/export.py", run_directory, out, "--formats", "safetensors", "pth")
    assert done.returncode == 0, done.stderr
    return out


def test_exported_models(exported, picture, tmp_path):
    commands = {
        "translate.py": lambda model: translate(model, picture),
        "Translator": in_python(Translator),
        "from_pretrained": in_python(Translator.from_pretrained),
        "save_pretrained": in_python(lambda model: Translator(model).save_pretrained(tmp_path / "saved")),
    }
    campaign = Campaign("exported models", exported, tmp_path / "model", commands)
    campaign.run(["config.json"], 60)
    campaign.run(["model.safetensors"], 60)
    campaign.run(["sample.png"], 8)


def test_weights_of_the_other_code(exported, picture, tmp_path):
    commands = {"translate.py": lambda model: translate(model / "latest_net_G_A.pth", picture)}
    Campaign(".pth files", exported, tmp_path / "model", commands).run(["latest_net_G_A.pth"], 40)


@pytest.fixture
def alone(monkeypatch):
    """What is spread over processes runs in this one."""

    def run_all(what, tasks, workers, before=None):
        return [task.function(*task.arguments, lambda size: None) for task in tasks]

    for module in ("verify", "shard"):
        monkeypatch.setattr(f"zorse_prep.{module}.run_all", run_all)


@pytest.mark.parametrize("kind", ["shards", "shards of arrays"])
def test_shards(exported, tmp_path, alone, kind):
    for split, count in (("trainA", 5), ("trainB", 3), ("testA", 2)):
        draw(tmp_path / "images" / split, count)
    ours = ["--shard-size", "3", "--workers", "1"]
    if kind == "shards of arrays":
        ours += ["--range-a", "percentiles", "--range-b", "0", "1"]
        for path in (tmp_path / "images").rglob("*.jpg"):
            values = np.asarray(Image.open(path)).astype(np.float32 if "trainB" in path.parts else np.int16)
            np.save(path.with_suffix(".npy"), values)
            path.unlink()
    source = ("--source", tmp_path / "images")
    base = shard(tmp_path / "images", tmp_path / "base", *ours)

    def prep(*arguments):
        return script("data_prep/shard.py", *arguments)

    def write(out):
        """All shards of trainA, so that the plan is read."""
        for path in out.glob("trainA-*.json"):
            path.unlink() if not path.is_dir() else shutil.rmtree(path)
        return prep("write", out, "--workers", "1")

    few = [*TINY, "--epochs", "0.4", "--decay-epochs", "0", "--tracker", "none", "--sample-images", "1"]
    commands = {
        "verify": lambda out: prep("verify", out, "--workers", "1"),
        "verify --deep": lambda out: prep("verify", out, "--deep", "--workers", "1"),
        "stats": lambda out: prep("stats", out),
        "finalize": lambda out: prep("finalize", out),
        "write": write,
        "plan": lambda out: prep("plan", *source, "--out", out, *ours),
        "translate.py": lambda out: script(
            "pipeline/translate.py", exported, out, new(tmp_path / "translated"), "--direction", "a2b"
        ),
        "train.py": lambda out: train(*few, "--data", out, "--out", new(tmp_path / "run")),
        "train.py --verify-samples": lambda out: train(
            *few, "--data", out, "--out", new(tmp_path / "run"), "--verify-samples"
        ),
    }
    if kind == "shards of arrays":
        del commands["translate.py"]  # of a model for photographs
    plans = [f"plan/{path.name}" for path in (base / "plan").glob("trainA-*")]
    Campaign(kind, base, tmp_path / "shards", {"write": write}).run(plans, 30)
    names = sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())
    turns = [name for name in commands if not name.startswith("train")] * 2 + ["train.py", "train.py --verify-samples"]
    campaign = Campaign(kind, base, tmp_path / "shards", commands, turns)
    campaign.run(["manifest.json", "plan.json"], 30)
    campaign.run([name for name in names if name not in ("manifest.json", "plan.json")], 4)


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print what was tried and found, at the end of this file's tests."""
    yield
    shown = Table(title="damaged files", title_style="bold")
    for heading in ("files", "mutants", "refused", "passed over and told", "tracebacks", "hangs", "memory", "seconds"):
        shown.add_column(heading, justify="left" if heading == "files" else "right")
    for what, total in TOTALS.items():
        numbers = [str(total[name]) for name in ("mutants", "refused", "told", "tracebacks", "hangs")]
        shown.add_row(what, *numbers, f"{total['memory'] / 1e6:.0f} MB", f"{total['seconds']:.0f}")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        Console(width=120).print(shown)
