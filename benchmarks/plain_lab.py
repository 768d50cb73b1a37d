"""What plain_faults.py works with: runs of plain_accelerate.py that can be disturbed, compared and started again.

As a program, it is plain_accelerate.py with a fault: ZORSE_FAULT="KIND [ARGUMENTS]" python benchmarks/plain_lab.py ...
"""

import json
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import other

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from running import TINY, draw, shard  # noqa: E402

from zorse.cyclegan.step import CycleGANStep  # noqa: E402

EVERY, MIDDLE, STEPS = 4, 32, 60
OPTIONS = [*TINY, "--batch", "2", "--history", "3", "--steps", str(STEPS), "--checkpoint-every", str(EVERY)]
SAME_IMAGES = ["--load-size", "32", "--no-flip"]
HANGS = 60  # seconds
HELD, PARTLY, NOT = "held", "in part", "not held"


class Lab:
    """A data set, the undisturbed runs, and fresh run directories."""

    def __init__(self, base: Path):
        self.base, self.runs, self._whole = base, 0, {}
        draw(base / "images" / "trainA", 7, seed=0)
        draw(base / "images" / "trainB", 11, seed=1)
        self.data = shard(base / "images", base / "shards", "--shard-size", "4", "--workers", "1")

    def fresh(self) -> Path:
        self.runs += 1
        return self.base / f"run{self.runs}"

    def start(self, out: Path, *options: str, ranks: int = 1, fault: str = "") -> subprocess.Popen:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
        script = __file__ if fault else ROOT / "benchmarks" / "plain_accelerate.py"
        environment = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "ZORSE_FAULT": fault}
        return subprocess.Popen(
            [sys.executable, *launcher, script, "--out", out, "--data", self.data, *OPTIONS, *SAME_IMAGES, *options],
            env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, out: Path, *options: str, **how) -> tuple[int, str]:
        process = self.start(out, *options, **how)
        output = process.communicate(timeout=300)[0]
        return process.returncode, output

    def whole(self, *options: str, ranks: int = 1) -> Path:
        """The run that nobody disturbs, with all its checkpoints."""
        key = (*options, ranks)
        if key not in self._whole:
            self._whole[key] = self.fresh()
            code, output = self.run(self._whole[key], *options, ranks=ranks)
            assert code == 0, output
        return self._whole[key]

    def cut(self, *options: str, ranks: int = 1) -> tuple[Path, Path]:
        """A copy of it as a kill right after the checkpoint at MIDDLE leaves it, and that checkpoint."""
        out = shutil.copytree(self.whole(*options, ranks=ranks), self.fresh())
        (out / "final.json").unlink()
        for checkpoint in checkpoints(out)[MIDDLE // EVERY :]:
            shutil.rmtree(checkpoint)
        return out, checkpoints(out)[-1]

    def again(self, out: Path, *options: str, ranks: int = 1) -> tuple[str, str]:
        """What the same command does on what a fault has left."""
        code, output = self.run(out, *options, ranks=ranks)
        if code:
            return NOT, f"does not start again: {error(output)}"
        if result(out) == result(self.whole(*options, ranks=ranks)):
            return HELD, "goes on, identical"
        return NOT, "goes on without a word, with another result"


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoints/step_*"), key=lambda path: int(path.name.removeprefix("step_")))


def result(out: Path) -> tuple[dict, str]:
    """The losses of every step, as last logged, and the sum of the final weights."""
    lines = map(json.loads, (out / "losses.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}, (out / "final.json").read_text()


def error(output: str) -> str:
    lines = re.findall(r"^(?:\[rank\d\]: )?([\w.]*(?:Error|Exception)\b.*)", output, re.MULTILINE)
    lines = [line for line in lines if "ChildFailed" not in line]  # the launcher's
    return re.sub(r"/\S*/", "", lines[-1])[:90] if lines else output.strip()[-90:]


def logged(out: Path) -> int:
    file = out / "losses.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    while logged(out) < step:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


def processes(out: Path) -> list[int]:
    """Launcher first; without zombies."""
    rows = subprocess.run(["ps", "-ww", "-eo", "pid=,stat=,args="], capture_output=True, text=True).stdout.splitlines()
    found = [line.split(None, 2) for line in rows if f"--out {out} " in line]
    return sorted(int(pid) for pid, state, _ in found if not state.startswith("Z"))


def end_after(out: Path, seconds: float) -> float:
    """Seconds until no process of a run is left; the ones that are left after so many are killed."""
    start = time.monotonic()
    while (left := processes(out)) and time.monotonic() - start < seconds:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return time.monotonic() - start


class Disk:
    """A file system of so many bytes."""

    def __init__(self, path: Path, size: int):
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)


def faulty_loop(kind: str, *arguments: str) -> None:
    """plain_accelerate.py with a fault: pace SECONDS, raise|hang|nan|infinite RANK STEP, or save STEP WHEN FILE."""
    if kind == "save":
        die_at(*arguments)
    else:
        in_a_step(kind, *arguments)
    sys.argv[0] = str(ROOT / "benchmarks" / "plain_accelerate.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


def in_a_step(kind: str, *arguments: str) -> None:
    forward, rank, calls = CycleGANStep.forward, os.environ.get("RANK", "0"), 0

    def faulty(self, *inputs):
        nonlocal calls
        here, calls = arguments == (rank, str(calls)), calls + 1
        if kind == "pace":
            time.sleep(float(arguments[0]))
        if kind == "hang" and here:
            time.sleep(10_000)
        if kind == "raise" and here:
            raise RuntimeError("this fault was asked for")
        loss, named = forward(self, *inputs)
        if kind == "nan" and here:
            return loss * float("nan"), {name: value * float("nan") for name, value in named.items()}
        if kind == "infinite" and here:  # a gradient, while the loss is finite
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss, named

    CycleGANStep.forward = faulty


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(step: str, when: str, name: str) -> None:
    """Die before or after a file of the checkpoint at `step` is written, or when half of its bytes are."""

    def dying(write):
        def wrapper(content, file, *arguments, **options):
            file = Path(file)
            here = (file.parent.name, file.name) == (f"step_{step}", name)
            if here and when == "before":
                die()
            if here and when == "half-way":  # the kernel ends a process that writes beyond its limit
                half = (file.parent.with_name(f"step_{EVERY}") / name).stat().st_size // 2
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))
            write(content, file, *arguments, **options)
            if here:
                die()

        return wrapper

    torch.save, other.safe_save_file = dying(torch.save), dying(other.safe_save_file)
    if name == "directory":
        save_state = Accelerator.save_state

        def before_directory(self, folder, *arguments, **options):
            if folder.name == f"step_{step}":
                die()
            return save_state(self, folder, *arguments, **options)

        Accelerator.save_state = before_directory


if __name__ == "__main__":
    faulty_loop(*os.environ["ZORSE_FAULT"].split())
