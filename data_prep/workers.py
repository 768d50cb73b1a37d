"""Writing shards in several processes, with a progress display on a terminal and plain lines elsewhere."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_prep import PrepError
from data_prep.shards import Plan, Policy, Shard, write_shard

LINE_SECONDS = 10  # between status lines without a terminal
_counters = None  # in a worker: images and bytes done by all workers, two numbers per split, and last: stop


def cpu_count() -> int:
    """Cores this process may use; a batch system may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_shards(out: Path, plan: Plan, missing: list[Shard], workers: int) -> None:
    """Write the missing shards. Raises PrepError where a worker dies, and what `write_shard` raises."""
    if not missing:
        return
    spawn = multiprocessing.get_context("spawn")
    splits = list(dict.fromkeys(shard.split for shard in plan.shards))
    counters = spawn.Array("q", 2 * len(splits) + 1)
    pool = ProcessPoolExecutor(min(workers, len(missing)), spawn, _start_worker, (counters,))
    # The first submit starts the workers, which inherit the blocked signal: Ctrl-C is for this process alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        futures = [pool.submit(_write, out, shard, plan.policy, 2 * splits.index(shard.split)) for shard in missing]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    totals = {split: sum(len(shard.items) for shard in plan.shards if shard.split == split) for split in splits}
    to_do = {split: sum(len(shard.items) for shard in missing if shard.split == split) for split in splits}
    watch = _watch_on_terminal if sys.stdout.isatty() else _watch_in_lines
    try:
        watch(futures, counters.get_obj(), totals, to_do)
        for future in as_completed(futures):
            future.result()
    except (BrokenProcessPool, MemoryError):
        raise PrepError(
            "a worker process was killed or ran out of memory; run the same command again, with fewer --workers"
        ) from None
    finally:
        counters.get_obj()[-1] = 1  # after an error or Ctrl-C the workers stop at their next image
        pool.shutdown(cancel_futures=True)


def _start_worker(counters) -> None:
    global _counters
    _counters = counters
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to end; without this they would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write(out: Path, shard: Shard, policy: Policy, slot: int) -> None:
    def count(n_bytes: int) -> None:
        if _counters.get_obj()[-1]:
            raise InterruptedError("another shard failed")
        with _counters.get_lock():
            _counters[slot] += 1
            _counters[slot + 1] += n_bytes

    write_shard(out, shard, policy, count)


def _is_over(futures: list[Future], seconds: float) -> bool:
    done, pending = wait(futures, seconds, FIRST_EXCEPTION)
    return not pending or any(future.exception() for future in done)


def _rates(counters, started: float) -> str:
    seconds = time.monotonic() - started
    images, n_bytes = _done(counters)
    return f"{images / seconds:.0f} img/s {n_bytes / seconds / 1e6:.1f} MB/s"


def _done(counters) -> tuple[int, int]:
    return sum(counters[:-1:2]), sum(counters[1:-1:2])


def _watch_on_terminal(futures: list[Future], counters, totals: dict[str, int], to_do: dict[str, int]) -> None:
    """Bars per split and for all, until all is done or something failed."""
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rates]}"),
    )
    with Progress(*columns, console=Console(), transient=True) as progress:
        ids = {split: progress.add_task(split, total=total, rates="") for split, total in totals.items()}
        everything = progress.add_task("all", total=sum(totals.values()), rates="")
        started, over = time.monotonic(), False
        while not over:
            over = _is_over(futures, 0.2)
            for i, (split, task) in enumerate(ids.items()):
                progress.update(task, completed=totals[split] - to_do[split] + counters[2 * i])
            done = sum(totals.values()) - sum(to_do.values()) + _done(counters)[0]
            progress.update(everything, completed=done, rates=_rates(counters, started))


def _watch_in_lines(futures: list[Future], counters, totals: dict[str, int], to_do: dict[str, int]) -> None:
    """A status line at intervals, until all is done or something failed."""
    started, left = time.monotonic(), sum(to_do.values())
    print(f"{left} of {sum(totals.values())} images to do", flush=True)
    while not _is_over(futures, LINE_SECONDS):
        done = _done(counters)[0]
        rest = (left - done) / done * (time.monotonic() - started) if done else float("nan")
        print(f"{done}/{left} images, {_rates(counters, started)}, {rest:.0f} s left", flush=True)
