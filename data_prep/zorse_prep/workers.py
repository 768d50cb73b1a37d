"""Work in several processes, each task about one shard, with the progress of all of them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from zorse.errors import UserError
from zorse.progress_bars import progress

_counters = None  # in a worker: images and bytes done by all workers, two numbers per split, and last: stop


@dataclass(frozen=True)
class Task:
    """function(*arguments, count) on images of a split; it calls count(n_bytes) for each image done."""

    split: str
    images: int
    function: Callable
    arguments: tuple


def cpu_count() -> int:
    """Cores this process may use; a batch system may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(what: str, tasks: list[Task], workers: int, before: dict[str, int] | None = None) -> list:
    """Run the tasks in processes and return their results, in order. before: images by split that need no task.

    Raises UserError where a worker dies, and what the functions raise.
    """
    if not tasks:
        return []
    before = before or {}
    spawn = multiprocessing.get_context("spawn")
    splits = list(dict.fromkeys([*before, *(task.split for task in tasks)]))
    counters = spawn.Array("q", 2 * len(splits) + 1)
    pool = ProcessPoolExecutor(min(workers, len(tasks)), spawn, _start_worker, (counters,))
    # The first submit starts the workers, which inherit the blocked signal: Ctrl-C is for this process alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        futures = [pool.submit(_run, task, 2 * splits.index(task.split)) for task in tasks]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # The workers count their images in shared memory, for the progress bar.
    already = {split: before.get(split, 0) for split in splits}
    totals = {split: already[split] + sum(task.images for task in tasks if task.split == split) for split in splits}
    values = counters.get_obj()
    try:
        with progress(what, totals, already) as show:
            over = False
            while not over:
                over = _is_over(futures, 0.2)
                show(dict(zip(splits, values[:-1:2], strict=True)), sum(values[1:-1:2]))
        for future in as_completed(futures):
            future.result()
        return [future.result() for future in futures]
    except (BrokenProcessPool, MemoryError):
        raise UserError(
            "a worker process was killed or ran out of memory; run the same command again, with fewer --workers"
        ) from None
    finally:
        values[-1] = 1  # after an error or Ctrl-C the workers stop at their next image
        pool.shutdown(cancel_futures=True)


def _start_worker(counters) -> None:
    global _counters
    _counters = counters
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker with its parent: a killed parent cannot, and its workers would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _run(task: Task, slot: int):
    def count(n_bytes: int) -> None:
        if _counters.get_obj()[-1]:
            raise InterruptedError("another shard failed")
        with _counters.get_lock():
            _counters[slot] += 1
            _counters[slot + 1] += n_bytes

    return task.function(*task.arguments, count)


def _is_over(futures: list[Future], seconds: float) -> bool:
    done, pending = wait(futures, seconds, FIRST_EXCEPTION)
    return not pending or any(future.exception() for future in done)
