"""The sections of the GPU check, in the order in which they run: what each starts, and when there is no time for it."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from course import AFTER_LAYERS, BEFORE_LAYERS, UNPROFILED, Course
from jobs import GRACE, Job, Jobs
from machine import VERSIONS, first_lines
from real_run import ASIDE, epochs, fastest
from summary import evaluations

ROOT = Path(__file__).resolve().parents[2]
SAVING = 25.0  # seconds that a run which is told to stop may take to save
STOPPED = 128 + signal.SIGUSR1  # its exit code then


class Sections:
    def __init__(self, course: Course, jobs: Jobs, packed: Path, work: Path):
        self.course, self.jobs, self.work = course, jobs, work
        self.results = jobs.out / "results.jsonl"
        self.shards, self.reference = packed / "shards", packed / "reference"
        self.ran: dict[tuple[str, str, bool], str] = {}

    def run(self) -> None:
        """All of them; only the first one alone if nothing can run here."""
        if not self._machine():
            return
        self._correctness()
        for variant, batches in BEFORE_LAYERS:
            self._timed(variant, batches)
        self._layers()
        for variant, batches in AFTER_LAYERS:
            self._timed(variant, batches)
        self._real_run()

    def _script(self, name: str, *options: str | Path) -> list:
        return [sys.executable, Path(__file__).with_name(name), *options, "--results", self.results]

    def _machine(self) -> bool:
        for line in first_lines():
            self.jobs.say(line)
        command = [sys.executable, "-c", VERSIONS, *(["rehearse"] if self.course.rehearsal else [])]
        done = subprocess.run(command, env=self.jobs.environment, capture_output=True, text=True, timeout=90)
        self.jobs.say((done.stdout + done.stderr[-2000:]).strip())
        self.jobs.report("machine", "failed" if done.returncode else "done")
        return done.returncode == 0

    def _correctness(self) -> None:
        """Tests, the gate, and meanwhile what can be done on the other cores: nothing is timed yet."""
        drawing = None
        if not (self.shards / "manifest.json").is_file():
            script, size = ROOT / "data_prep" / "demo.py", str(self.course.pictures)
            drawing = self.jobs.start("draw", [sys.executable, script, self.work / "images", "--size", size], 120)
        spread = ["-n", "6"] if not self.course.rehearsal and _has("xdist") else []
        pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *spread, *self.course.tests]
        testing = self.jobs.start("tests", pytest, 150, log="pytest.log")
        warming = [self._warm(variant) for variant in self.course.warmed]
        gate = self._script("gate.py", self.course.gate, *self.course.networks)
        self.jobs.run("gate", gate, 100)
        for job in (testing, *warming):
            self.jobs.finish(job)
        if drawing and self.jobs.finish(drawing) == 0:
            self.shards = self.work / "shards"
            images = ["--source", self.work / "images", "--out", self.shards]
            self.jobs.run("shard", [sys.executable, ROOT / "data_prep" / "shard.py", *images], 60)

    def _warm(self, variant: str) -> Job:
        batches = [str(batch) for batch in self.course.batches["both"]]
        options = ["--batch", *batches, "--precision", self.course.precision, "--warm", *self.course.networks]
        return self.jobs.start(f"warm {variant}", self._script("time_variant.py", variant, *options), 200)

    def _timed(self, variant: str, which: str) -> None:
        """One variant, if the run at the end keeps its time."""
        section = f"step {variant}" + (f", {which} batches" if which == "large" else "")
        profiled = not {variant, which} & set(UNPROFILED)
        here = self.course.variant(variant)
        options = ["--batch", *map(str, self.course.batches[which]), "--precision", self.course.precision]
        options += self.course.networks + ([] if profiled else ["--no-profile"])
        if variant == "reference":
            if not (self.reference / "models").is_dir():
                self.jobs.report(section, "skipped", why="no reference was packed")
                return
            options += ["--reference", self.reference, *self.course.of_reference]
        if (same := self.ran.get((here, which, profiled))) is not None:
            self.jobs.report(section, "skipped", why=f"in a rehearsal the same as {same}")
            return
        if self.jobs.left() <= self.course.kept + 15:
            self.jobs.report(section, "skipped", why="no time left")
            return
        self.ran[here, which, profiled] = section
        most = 85 if "compile" in variant else 45  # seconds; two batches are compiled
        self.jobs.run(section, self._script("time_variant.py", here, *options), most)

    def _layers(self) -> None:
        interpreter = {"TRITON_INTERPRET": "1"} if self.course.rehearsal else {}
        sections = [
            ("layers", "time_layers.py", 40, {}),
            ("norm", "time_norm.py", 30, interpreter),
            ("join in last", "join_in_last.py", 30, interpreter),
        ]
        if self.course.rehearsal:
            sections.append(("join in last, compiled", "join_in_last.py", 60, {}))
        for section, script, seconds, environment in sections:
            if self.jobs.left() <= self.course.kept + 30:
                self.jobs.report(section, "skipped", why="no time left")
            else:
                self.jobs.run(section, self._script(script), seconds, **environment)

    def _real_run(self) -> None:
        seconds = self.jobs.left() - ASIDE
        if seconds < 30 or not (self.shards / "manifest.json").is_file():
            self.jobs.report("run", "skipped", why="no time left" if seconds < 30 else "no data set")
            return
        batch = self.course.batches["both"][-1]
        flags, rate = fastest(self.results, batch)
        length = 0.005 if self.course.rehearsal else epochs(rate, seconds, self.shards)
        named = " ".join(flags) or "eager"
        self.jobs.say(f"run: {named}, batch {batch}, {rate:.1f} pairs/s expected, 2 x {length} epochs")
        run = self.work / "run"
        command = [
            sys.executable, ROOT / "pipeline" / "train.py", "--data", self.shards, "--out", run, "--batch", batch,
            "--epochs", length, "--decay-epochs", length, "--tracker", "none", "--ema-pairs", "2000",
            "--status-every", "200", "--sample-every", "5000", "--evaluate-every", "1000000",
            "--checkpoint-every", "1000000", "--hang-after", "60", *flags, *self.course.training,
        ]  # fmt: skip
        precision = "no" if self.course.rehearsal else "bf16"
        how = {"log": "train.log", "stop": signal.SIGUSR1, "grace": SAVING}
        most = self.jobs.left() - SAVING - GRACE
        job = self.jobs.start("run", command, most, **how, ACCELERATE_MIXED_PRECISION=precision)
        while job.process.poll() is None and time.monotonic() < job.end:
            time.sleep(1)
            self._keep(run)
        self.jobs.finish(job, ended_well=(0, STOPPED))
        self._keep(run)
        for line in evaluations(run):
            self.jobs.say(line)

    def _keep(self, run: Path) -> None:
        """What the run has shown so far; it may be writing just then, and the next time will be as good."""
        out = self.jobs.out
        with contextlib.suppress(OSError):
            shutil.copyfile(run / "stats.jsonl", out / "stats.jsonl")
            if grids := sorted(run.glob("samples/*.png")):
                shutil.copyfile(grids[-1], out / "grid.png")
            if found := sorted(run.glob("eval/[0-9]*.json")):
                (out / "eval.json").write_text("".join(file.read_text().rstrip() + "\n" for file in found))


def _has(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0
