"""Fetching in threads what will be read next."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue

from zorse.errors import OneRankError


class Prefetcher:
    """Threads that have a store fetch what is read soon, so that the reader need not wait for it.

    Each `key` is fetched once, until 1024 others were. A request that does not fit into the queue is dropped: the
    reader has overtaken it.
    """

    def __init__(self, threads: int = 4):
        self.jobs, self.recent = Queue(1024), OrderedDict()
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def __call__(self, key: object, fetch: Callable[[], None]) -> None:
        if key in self.recent:
            return
        with suppress(Full):
            self.jobs.put_nowait(fetch)
            self.recent[key] = True
        if len(self.recent) > 1024:
            self.recent.popitem(last=False)

    def close(self) -> None:
        """Drop what is queued, and end the threads after their current request."""
        with self.jobs.mutex:
            self.jobs.queue.clear()
        for _ in self.threads:
            self.jobs.put(None)

    def _work(self) -> None:
        while fetch := self.jobs.get():
            with suppress(OneRankError):  # the reader will meet it, too
                fetch()
