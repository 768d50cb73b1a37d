"""The processes of the check: each with a limit of its own and all with a common end, and what is written of them."""

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

GRACE = 3.0


@dataclass
class Job:
    section: str
    process: subprocess.Popen
    began: float
    end: float
    stop: int  # the signal that asks it to end
    grace: float  # seconds from that to killing it


class Jobs:
    """Starts processes and reports on them in OUT: results.jsonl has a line for each section, log.txt what was said.

    Nothing runs past `limit` seconds after the making, so that whatever lends the machine never has to cut in.
    patience: what a section's own limit is multiplied by. A process gets a group of its own, since what it starts must
    end with it.
    """

    def __init__(self, out: Path, limit: float, patience: float, environment: dict[str, str]):
        self.out, self.patience, self.environment = out, patience, environment
        self.began = time.monotonic()
        self.end = self.began + limit
        self.running: list[Job] = []
        self.failed: list[str] = []

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *_) -> None:
        for job in self.running:
            self._send(job, signal.SIGKILL)
            job.process.wait()

    def left(self) -> float:
        """Seconds until the end of everything."""
        return self.end - time.monotonic()

    def say(self, text: str) -> None:
        line = f"[{time.monotonic() - self.began:.0f} s] {text}"
        print(line, flush=True)
        with (self.out / "log.txt").open("a") as file:
            file.write(line + "\n")

    def report(self, section: str, state: str, **facts) -> None:
        """state: done, failed or skipped."""
        if state == "failed":
            self.failed.append(section)
        with (self.out / "results.jsonl").open("a") as file:
            file.write(json.dumps({"section": section, "state": state, **facts}) + "\n")
        self.say(f"{section}: {state} {', '.join(f'{name} {value}' for name, value in facts.items())}".rstrip())

    def start(
        self, section: str, command: list, seconds: float, log: str = "details.log", stop: int = signal.SIGTERM,
        grace: float = GRACE, **environment: str,
    ) -> Job:  # fmt: skip
        """Begin a section that may take so many seconds, in which its end is not counted."""
        now = time.monotonic()
        with (self.out / log).open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment | environment,
                start_new_session=True,
            )
        job = Job(section, process, now, min(now + seconds * self.patience, self.end - grace), stop, grace)
        self.running.append(job)
        return job

    def finish(self, job: Job, ended_well: tuple[int, ...] = (0,)) -> int:
        """Wait for a section, end it when its time is over, and report it."""
        late = self._wait(job, job.end - time.monotonic())
        if late:
            job.process.send_signal(job.stop)
            self._wait(job, job.grace)
        self._send(job, signal.SIGKILL)  # what it may have left behind, too
        code = job.process.wait()
        self.running.remove(job)
        facts = {"rc": code, "seconds": round(time.monotonic() - job.began, 1)}
        if late:
            facts["late"] = True
        self.report(job.section, "done" if code in ended_well else "failed", **facts)
        return code

    def run(self, section: str, command: list, seconds: float, **options: str) -> int:
        return self.finish(self.start(section, command, seconds, **options))

    def _wait(self, job: Job, seconds: float) -> bool:
        """Whether it is still running after that."""
        try:
            job.process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            return True
        return False

    def _send(self, job: Job, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.process.pid, number)
