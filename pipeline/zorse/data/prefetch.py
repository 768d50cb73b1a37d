"""Fetching in threads what will be read next."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue

from zorse.errors import OneRankError


class Prefetcher:
    """Threads that tell a store what is read soon, so that the reader need not wait for it.

    Each `key` is told once, until 1024 others were. What does not fit into the queue is left out: the reader has
    overtaken it.
    """

    def __init__(self, threads: int = 4):
        self.jobs, self.recent = Queue(1024), OrderedDict()
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def __call__(self, key: object, tell: Callable[[], None]) -> None:
        if key in self.recent:
            return
        with suppress(Full):
            self.jobs.put_nowait(tell)
            self.recent[key] = True
        if len(self.recent) > 1024:
            self.recent.popitem(last=False)

    def close(self) -> None:
        """End the threads when they have done what they do."""
        with self.jobs.mutex:
            self.jobs.queue.clear()
        for _ in self.threads:
            self.jobs.put(None)

    def _work(self) -> None:
        while tell := self.jobs.get():
            with suppress(OneRankError):  # who reads will meet it, too
                tell()
