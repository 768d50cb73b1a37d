"""Turn two unpaired image domains into WebDataset shards.

  zorse shard --a DIR --b DIR    your images, a folder for each domain
  zorse shard horse2zebra        a known data set, from the Hugging Face hub,
                                 or OWNER/NAME@REVISION there
  zorse shard --source DIR       images in DIR/trainA, DIR/trainB, and, if there
                                 are any, DIR/testA, DIR/testB
  zorse shard --source FILE      the same folders in a .zip or .tar, in place

Run again after an interruption, it writes only what is missing. Its stages, for several machines:

  plan [NAME | ...] --out OUT    which image goes into which shard
  write OUT [--task I --tasks T] the shards that are missing; any number of
                                 tasks, on any machine
  finalize OUT                   the manifest

and on finished shards:

  verify OUT [--deep]            is all there; with --deep, every byte is read
  stats OUT                      what is in it
  index DIR --train-a GLOB ...   make another program's WebDataset tars usable
                                 where they lie

Each has its own --help. The script data_prep/shard.py is the same command. Exit codes: 0 done; 1 verify found faults;
2 a mistake in the input or the options; 3 too many unusable images; 130 stopped by Ctrl-C.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from zorse.command_help import parse_options, with_new_names
from zorse.errors import UserError
from zorse.invocation import command_line, usage
from zorse.terminal import one_line, run_command
from zorse_prep.foreign import index_tars
from zorse_prep.format import MANIFEST, PLAN
from zorse_prep.items import Source
from zorse_prep.manifest import finalize
from zorse_prep.options import (
    FinalizeOptions,
    IndexOptions,
    Options,
    StatsOptions,
    VerifyOptions,
    WriteOptions,
    array_policy,
    folders_of,
)
from zorse_prep.plan import Plan, Policy, Shard, load_plan
from zorse_prep.planning import Choices, make_plan
from zorse_prep.report import show_held_out, show_plan, show_result, show_statistics, show_training
from zorse_prep.shards import missing_shards, write_shard
from zorse_prep.sources import open_source
from zorse_prep.verify import load_manifest, verify
from zorse_prep.workers import Task, run_all


def shard(options: Options, to_train: bool = False) -> None:
    """All stages, one after the other. Raises UserError, OSError, KeyboardInterrupt.

    to_train: whether a training run wants the shards, and so needs neither what it has seen before nor a next step.
    """
    started = time.monotonic()
    out, made, source = _plan(options)
    missing = [] if options.dry_run else missing_shards(out, made)
    if to_train and not missing and (out / MANIFEST).exists():
        return
    show_held_out(source, made, with_advice=not to_train)
    if options.dry_run:
        show_plan(out, made)
        print("dry run: nothing was written")
        return
    _write(out, made, missing, made.shards, options.workers)
    show_result(out, finalize(out, made), len(made.shards) - len(missing), time.monotonic() - started)
    if not to_train:
        show_training(out)


def plan(options: Options) -> None:
    """Decide which image goes into which shard."""
    out, made, source = _plan(options)
    show_held_out(source, made)
    show_plan(out, made)
    print("dry run: nothing was written" if options.dry_run else f"next: {command_line('shard', 'write', out)}")


def write(options: WriteOptions) -> None:
    """Write what is missing of a task's shards."""
    _at_least(("--workers", options.workers, 1))
    made = load_plan(options.out)
    task, tasks = _share(options)
    mine, missing = made.shards[task::tasks], missing_shards(options.out, made, task, tasks)
    _write(options.out, made, missing, mine, options.workers)
    kept = f"; {len(mine) - len(missing)} of {len(mine)} shards existed already" if len(mine) > len(missing) else ""
    print(f"task {task} of {tasks}: {len(missing)} shards written{kept}")
    print(f"next, when all tasks are done: {command_line('shard', 'finalize', options.out)}")


def finish(options: FinalizeOptions) -> None:
    """Write the manifest."""
    started = time.monotonic()
    made = load_plan(options.out)
    if options.max_corrupt is not None:
        _check_share("--max-corrupt", options.max_corrupt)
        made = replace(made, max_corrupt=options.max_corrupt)
    made = replace(made, paired_tests=made.paired_tests or options.paired_tests)
    show_result(options.out, finalize(options.out, made), 0, time.monotonic() - started)
    show_training(options.out)


def check(options: VerifyOptions) -> int:
    """Print every fault."""
    _at_least(("--workers", options.workers, 1))
    faults = verify(options.out, options.deep, options.workers)
    for fault in faults:
        print(f"fault: {one_line(fault)}")
    manifest = load_manifest(options.out)
    shards = sum(len(entry["shards"]) for entry in manifest["splits"].values())
    samples = sum(entry["samples"] for entry in manifest["splits"].values())
    depth = "read to the last byte" if options.deep else "without reading the images; --deep reads them"
    print(f"{len(faults)} faults in {shards} shards of {samples} images, {depth}")
    if faults and (options.out / PLAN).exists():
        again = " && ".join(command_line("shard", stage, options.out) for stage in ("write", "finalize"))
        print(f"fix: remove the .json of each faulty tar, then run: {again}")
    return 1 if faults else 0


def statistics(options: StatsOptions) -> None:
    """Show the manifest's numbers."""
    show_statistics(options.out, load_manifest(options.out))


def index(options: IndexOptions) -> None:
    """Index foreign tars."""
    _at_least(("--workers", options.workers, 1), ("--min-side", options.min_side, 1))
    _check_share("--max-corrupt", options.max_corrupt)
    started = time.monotonic()
    globs = {
        "trainA": options.train_a, "trainB": options.train_b, "testA": options.test_a, "testB": options.test_b
    }  # fmt: skip
    manifest = index_tars(options.out, globs, options.min_side, options.max_corrupt, options.workers)
    show_result(options.out, manifest, 0, time.monotonic() - started)
    show_training(options.out)


def _plan(options: Options) -> tuple[Path, Plan, Source]:
    _at_least(
        ("--workers", options.workers, 1),
        ("--shard-size", options.shard_size, 0),
        ("--min-side", options.min_side, 1),
        ("--max-side", options.max_side, options.min_side),
    )
    _check_share("--max-corrupt", options.max_corrupt)
    _check_share("--test-share", options.test_share or 0)
    if options.test_share == 1:
        raise UserError("--test-share 1 leaves nothing to train on; give a share below 1, such as 0.05")
    labels = options.label_a, options.label_b
    named = options.name, options.source, options.columns, options.configs, labels
    source = open_source(*named, folders_of(options), options.test_share)
    names = ("max_side", "min_side", "shard_size", "lossless", "mode_a", "mode_b")
    policy = Policy(
        **{name: getattr(options, name) for name in names},
        keep_repeats=options.keep_duplicates,
        arrays_a=array_policy("a", options),
        arrays_b=array_policy("b", options),
    )
    out = options.out or Path("shards", source.name)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder")
    choices = Choices(
        max_corrupt=options.max_corrupt,
        paired_tests=options.paired_tests,
        threads=options.workers,
        refuse_leaks=options.leak == "fail",
        restart=options.restart,
        dry_run=options.dry_run,
    )
    return out, make_plan(source, policy, out, choices), source


def _write(out: Path, made: Plan, missing: list[Shard], mine: list[Shard], workers: int) -> None:
    """Write the missing ones of a task's shards."""
    root = made.source["root"]
    tasks = [Task(part.split, part.count, write_shard, (out, part, made.policy, root)) for part in missing]
    before, to_do = Counter(), {part.name for part in missing}
    for part in mine:
        before[part.split] += 0 if part.name in to_do else part.count
    run_all("writing", tasks, workers, before)


def _share(options: WriteOptions) -> tuple[int, int]:
    """(task, tasks), from --task or else from a Slurm array."""
    if (options.task is None) != (options.tasks is None):
        raise UserError("--task and --tasks go together; give both or neither")
    task, tasks = options.task, options.tasks
    if task is None and "SLURM_ARRAY_TASK_COUNT" in os.environ:
        task = int(os.environ["SLURM_ARRAY_TASK_ID"]) - int(os.environ["SLURM_ARRAY_TASK_MIN"])
        tasks = int(os.environ["SLURM_ARRAY_TASK_COUNT"])
    task, tasks = task or 0, 1 if tasks is None else tasks
    if not 0 <= task < tasks:
        raise UserError(f"--task {task} of --tasks {tasks}: give 0 to {tasks - 1}, e.g. sbatch --array=0-{tasks - 1}")
    return task, tasks


def _at_least(*limits: tuple[str, int, int]) -> None:
    for flag, value, least in limits:
        if value < least:
            raise UserError(f"{flag} {value} is too small; give {least} or more")


def _check_share(flag: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise UserError(f"{flag} {share} is not a share; give a number from 0 to 1")


STAGES: dict[str, tuple[Callable, type]] = {
    "plan": (plan, Options),
    "write": (write, WriteOptions),
    "finalize": (finish, FinalizeOptions),
    "verify": (check, VerifyOptions),
    "stats": (statistics, StatsOptions),
    "index": (index, IndexOptions),
}


def run() -> int | None:
    """The stage that the command line names, or all of them; returns the exit code."""
    arguments, prog, description = sys.argv[1:], usage("shard"), __doc__
    function, options = shard, Options
    if arguments and arguments[0] in STAGES:
        function, options = STAGES[arguments[0]]
        prog, description, arguments = f"{prog} {arguments[0]}", options.__doc__, arguments[1:]
    arguments = with_new_names(arguments, {"--keep-repeats": "--keep-duplicates"})  # as version 0.1 called it
    return function(parse_options(options, arguments, prog=prog, description=description))


def main() -> None:
    """The command; the help says its exit codes."""
    run_command(run)
