"""A trace of some steps of a run, for --profile."""

import os

from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile, schedule

from zorse.training.run import Run

SKIPPED, WARM_UP = 3, 2  # steps before the traced ones, in which caches, workers and the profiler itself get ready


class Trace:
    """Traces `count` steps with torch's profiler on rank 0, and writes OUT/trace-PAIRS.json.gz.

    To be used as a context, which ends a trace that is not complete. PAIRS are those seen when the trace ended. count:
    0 traces nothing.
    """

    def __init__(self, count: int, run: Run, accelerator: Accelerator):
        self.last, self.run = SKIPPED + WARM_UP + count, run
        self.steps = self.pairs = 0
        self.profiler = None
        if count and run.main:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library writes to the terminal otherwise
            activities = [ProfilerActivity.CPU]
            if accelerator.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            when = schedule(wait=SKIPPED, warmup=WARM_UP, active=count, repeat=1)
            self.profiler = profile(activities=activities, schedule=when, on_trace_ready=self._write, acc_events=True)

    def __enter__(self) -> "Trace":
        if self.profiler:
            self.profiler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.profiler:
            self.profiler.stop()

    def step(self, pairs_seen: int) -> None:
        """To be called after each step."""
        self.steps, self.pairs = self.steps + 1, pairs_seen
        if self.profiler and self.steps <= self.last:
            self.profiler.step()

    def _write(self, profiler: profile) -> None:
        path = self.run.out / f"trace-{self.pairs:09d}.json.gz"
        with self.run.recorder.attempt(path.name):
            profiler.export_chrome_trace(str(path))
            self.run.note(f"{path}: open it in ui.perfetto.dev or chrome://tracing")
