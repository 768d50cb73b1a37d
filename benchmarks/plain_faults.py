"""The fault matrix for plain_accelerate.py: python benchmarks/plain_faults.py [ROW ...]. On the CPU, 20 to 40 minutes.

Processes, signals, kills and full disks are real, networks tiny. Rows have the numbers of the matrix that ours is
tested against, and `held` means the same; in part: it stops where it should, but with a traceback. Identical: every
logged loss and the sha256 of the final weights are those of the run that nobody disturbed. Images are neither cropped
nor mirrored but in row 0, which shows what a resume does without a fault.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from plain_lab import (
    EVERY,
    HELD,
    MIDDLE,
    NOT,
    PARTLY,
    Disk,
    Lab,
    checkpoints,
    end_after,
    error,
    logged,
    processes,
    result,
    wait_for_step,
)  # fmt: skip
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors.torch import load_file

HANGS = 60  # seconds
Tries = Iterator[tuple[str, str, str]]  # verdict, what happened, and to which variant of the fault
ROWS = {}


def row(number: str, fault: str, expected: str):
    def add(tries):
        ROWS[number] = (fault, expected, tries)
        return tries

    return add


@row("0", "none: run twice; started again after a whole checkpoint", "identical")
def no_fault(lab: Lab) -> Tries:
    for variant, options, ranks in (
        ("1 rank, whole images", [], 1),
        ("1 rank, crops and flips", ["--load-size", "36", "--flip"], 1),
        ("2 ranks, whole images", [], 2),
    ):
        yield *lab.again(lab.fresh(), *options, ranks=ranks), f"run twice, {variant}"
        yield *lab.again(lab.cut(*options, ranks=ranks)[0], *options, ranks=ranks), f"started again, {variant}"


@row("1", "kill -9 at random moments, 1 rank", "goes on, identical")
def kill(lab: Lab) -> Tries:
    whole, moments = lab.whole(), random.Random(0)
    took = (whole / "final.json").stat().st_mtime - (checkpoints(whole)[0] / "model.safetensors").stat().st_mtime
    files = len(list(checkpoints(whole)[0].iterdir()))
    for _ in range(20):
        out = lab.fresh()
        process = lab.start(out)
        wait_for_step(process, out, EVERY)
        time.sleep(moments.uniform(0, 0.95 * took))
        process.kill()
        process.communicate()
        saved = checkpoints(out)
        within = bool(saved) and len([*saved[-1].glob("[!.]*")]) < files
        yield *lab.again(out), "killed within a save" if within else "killed elsewhere"


@row("1b", "kill -9 of one of 2 ranks", "the other ends within 10 s; goes on, identical")
def kill_one_of_two(lab: Lab) -> Tries:
    for _ in range(2):
        out = lab.fresh()
        process = lab.start(out, ranks=2, fault="pace 0.05")
        wait_for_step(process, out, 30)
        os.kill(processes(out)[-1], signal.SIGKILL)
        took = end_after(out, 30)
        verdict, what = lab.again(out, ranks=2)
        yield verdict if took < 10 else NOT, f"the other ends within {-int(-took // 1)} s; {what}", ""


@row("2", "dies at every file event of a save", "goes on, identical")
def die_in_a_save(lab: Lab) -> Tries:
    files = sorted(checkpoints(lab.whole())[0].iterdir(), key=lambda path: path.stat().st_mtime_ns)
    points = [("before", "directory"), *((when, file.name) for file in files for when in ("before", "half-way"))]
    for when, file in [*points, ("after", files[-1].name)]:
        out = lab.fresh()
        code, output = lab.run(out, fault=f"save {MIDDLE} {when} {file}")
        assert code in (-signal.SIGKILL, -signal.SIGXFSZ), output
        yield *lab.again(out), f"{when} {file}"


@row("3-5", "SIGUSR1, SIGTERM (what Slurm sends)", "saves within one step")
def signals(lab: Lab) -> Tries:
    for number, ranks, to in (
        (signal.SIGUSR1, 1, ""),
        (signal.SIGTERM, 1, ""),
        (signal.SIGTERM, 2, ", to the launcher"),
    ):
        out = lab.fresh()
        process = lab.start(out, "--checkpoint-every", "20", ranks=ranks, fault="pace 0.05")
        wait_for_step(process, out, 27)
        process.send_signal(number)
        end_after(out, 40)
        step, saved = logged(out), int(checkpoints(out)[-1].name.removeprefix("step_"))
        what = "saves" if saved >= step else "ends without saving: steps since the last checkpoint are lost"
        yield HELD if saved >= step else NOT, what, f"{number.name}, {ranks} rank{'s' * (ranks > 1)}{to}"


@row("7", "a rank hangs, 2 ranks", f"ends in bounded time; here, within {HANGS} s")
def hang(lab: Lab) -> Tries:
    out = lab.fresh()
    process = lab.start(out, ranks=2, fault="hang 1 30")
    wait_for_step(process, out, 30)
    took = end_after(out, HANGS)
    process.communicate()
    yield (HELD, f"ends after {took:.0f} s", "") if took < HANGS else (NOT, f"all wait on after {HANGS} s", "")


@row("8", "a rank raises, 2 ranks", "all end within 10 s, the first traceback is shown")
def one_raises(lab: Lab) -> Tries:
    for _ in range(2):
        out = lab.fresh()
        process = lab.start(out, ranks=2, fault="raise 1 30")
        wait_for_step(process, out, 30)
        took = end_after(out, 40)
        output = process.communicate()[0]
        shown = "this fault was asked for" in output
        what = f"all end within {-int(-took // 1)} s, the cause is {'shown' if shown else 'lost'}"
        yield HELD if took < 10 and shown else NOT, f"{what}, {output.count('Traceback')} tracebacks", ""


@row("10", "disk full while saving", "trains on, saves when there is room again, identical")
def full_disk(lab: Lab) -> Tries:
    one = sum(file.stat().st_size for file in checkpoints(lab.whole())[0].iterdir())
    for checkpoints_fit in (2.3, 2.6, 2.9):
        with Disk(lab.fresh(), int(checkpoints_fit * one) + 60_000) as disk:
            code, output = lab.run(disk / "run")
            disk_again = ["mount", "-o", "remount,size=64m", disk]
            subprocess.run(disk_again, check=True)
            verdict, what = lab.again(disk / "run")
            first = f"ends ({error(output)})" if code else "trains on"
            yield NOT if code else verdict, f"{first}; with room again: {what}", f"room for {checkpoints_fit}"


@row("11", "--out cannot be written", "stops before the first step, in one line")
def no_output(lab: Lab) -> Tries:
    file = lab.fresh()
    file.touch()
    with Disk(lab.fresh(), 2**20) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for variant, out in (("read-only", disk / "run"), ("below a file", file / "run"), ("a file", file)):
            yield *stops(*lab.run(out)), variant


def stops(code: int, output: str) -> tuple[str, str]:
    if code == 0:
        return NOT, "goes on without a word"
    return (
        (PARTLY, f"stops, with a traceback: {error(output)}") if "Traceback" in output else (HELD, "stops in one line")
    )


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


@row("12", "newest checkpoint damaged", "says so, takes the one before, identical")
def damaged(lab: Lab) -> Tries:
    for name, damage in (("truncated", truncate), ("a byte flipped", flip), ("missing", Path.unlink)):
        for file in sorted(file.name for file in checkpoints(lab.whole())[0].iterdir()):
            out, newest = lab.cut()
            damage(newest / file)
            yield *lab.again(out), f"{file} {name}"


@row("13", "all checkpoints damaged or gone", "stops, in one line")
def all_damaged(lab: Lab) -> Tries:
    for variant, damage in (("models truncated", truncate), ("a byte of models flipped", flip), ("gone", None)):
        out = lab.cut()[0]
        for checkpoint in checkpoints(out):
            damage(checkpoint / "model.safetensors") if damage else shutil.rmtree(checkpoint)
        yield *stops(*lab.run(out)), variant


class Evil:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@row("17", "a pickle in a checkpoint runs code", "never run")
def pickles(lab: Lab) -> Tries:
    for file in ("custom_checkpoint_0.pkl", "optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        (out, newest), canary = lab.cut(), lab.fresh()
        torch.save(Evil(canary), newest / file)
        code, output = lab.run(out)
        after = f"stops: {error(output)}" if code else "goes on without a word"
        yield (NOT, f"runs it; {after}", file) if canary.exists() else (HELD, f"does not run it; {after}", file)


@row("19", "not finite on one of 2 ranks", "never saved; stops")
def not_finite(lab: Lab) -> Tries:
    for fault in ("nan", "infinite"):
        out = lab.fresh()
        code, _ = lab.run(out, ranks=2, fault=f"{fault} 1 29")
        weights = [load_file(checkpoint / "model.safetensors").values() for checkpoint in checkpoints(out)]
        bad = sum(not all(tensor.isfinite().all() for tensor in tensors) for tensors in weights)
        what = f"{'stops' if code else 'goes on to the end without a word'}; {bad} checkpoints with NaN"
        yield HELD if code and not bad else NOT, what, fault


@row("21", "another number of ranks, same global batch", "refused or told; history and random state dealt anew by rule")
def other_ranks(lab: Lab) -> Tries:
    for before, after in ((2, 1), (1, 2)):
        code, output = lab.run(lab.cut(ranks=before)[0], ranks=after)
        told = re.search(r"rank|process|world", output)
        what = error(output) if code else "goes on, says so" if told else "goes on without a word"
        yield HELD if told else NOT, what, f"{before} -> {after}"


@row("22", "two runs on one directory", "the second stops, naming the first")
def two_runs(lab: Lab) -> Tries:
    out = lab.fresh()
    first = lab.start(out, fault="pace 0.4")
    wait_for_step(first, out, 10)
    code, output = lab.run(out)
    alone = first.poll() is not None
    first_output = first.communicate(timeout=120)[0]
    twice = logged(out) - len({json.loads(line)["step"] for line in (out / "losses.jsonl").read_text().splitlines()})
    ends = [f"ends with {error(text)}" if bad else "runs to its end" for bad, text in
            ((first.returncode, first_output), (code, output))]  # fmt: skip
    assert not alone, "the first run was over before the second"
    yield HELD if code else NOT, f"first {ends[0]}, second {ends[1]}; {twice} steps logged twice", ""


@row("24", "resumed with another lr or seed", "refused or told")
def other_options(lab: Lab) -> Tries:
    for name, value in (("lr", "0.01"), ("seed", "1")):
        out = lab.cut()[0]
        code, output = lab.run(out, f"--{name}", value)
        ignored = not code and result(out) == result(lab.whole())
        what = "goes on without a word, " + ("the new value is ignored" if ignored else "with another result")
        told = code or re.search(rf"\b{name}\b", output)
        yield HELD if told else NOT, "told" if told else what, name


def main() -> None:
    table = Table("row", "fault", "held means", "tries", "held", "what happened", show_lines=True)
    with tempfile.TemporaryDirectory() as base:
        lab = Lab(Path(base))
        for number in sys.argv[1:] or ROWS:
            fault, expected, tries = ROWS[number]
            seen, verdicts = defaultdict(list), []
            for verdict, what, variant in tries(lab):
                print(f"{number}: {verdict}: {what} [{variant}]", flush=True)
                seen[what].append(variant)
                verdicts.append(verdict)
            lines = []
            for what, variants in seen.items():
                names = [f"{variants.count(name)} x {name}" if variants.count(name) > 1 else name for name in
                         dict.fromkeys(variants) if name]  # fmt: skip
                lines.append(f"{len(variants)} x {what}" + (f" ({', '.join(names)})" if names else ""))
            held = str(verdicts.count(HELD)) + f", {verdicts.count(PARTLY)} in part" * (PARTLY in verdicts)
            table.add_row(number, fault, expected, str(len(verdicts)), held, escape("\n".join(lines)))
    versions = ", ".join(f"{name} {version(name)}" for name in ("accelerate", "torch", "safetensors"))
    Console(width=None if sys.stdout.isatty() else 160).print(table, f"{versions}; CPU, gloo", sep="\n")


if __name__ == "__main__":
    main()
