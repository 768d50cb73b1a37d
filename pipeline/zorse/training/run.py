"""Everything that a person sees of a run, and everything its directory holds: lock, records, checkpoints, warnings."""

import signal
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.writer import CheckpointWriter
from zorse.config.schema import Config
from zorse.errors import UserError
from zorse.processes import on_signals
from zorse.runs import records, sample_grid
from zorse.runs.directory import journal, start_run_directory
from zorse.runs.health import STOPS_AT, Alert, Health
from zorse.runs.lock import RunLock
from zorse.runs.metrics import Stopwatch
from zorse.runs.progress import Display
from zorse.runs.report_page import write_report
from zorse.runs.signals import StopRequest
from zorse.runs.summary import print_summary
from zorse.runs.watchdog import Watchdog
from zorse.training.launch import about_bf16, about_cpu, alone_in_a_step, made_with, summary
from zorse.training.state import TrainState


class Run:
    """A run directory that this process owns, and the terminal.

    Every method is called by all ranks between the same two steps; rank 0 alone writes and shows. Making one takes the
    lock; `start` opens all that is written to, once the state is known; `close` says how it
    ended. Raises UserError where another process owns the directory, or nothing can be written there.
    """

    def __init__(self, config: Config, accelerator: Accelerator, watchdog: Watchdog, total_pairs: int):
        self.config, self.accelerator, self.out = config, accelerator, config.output.out
        self.main = accelerator.is_main_process
        self.watchdog = watchdog
        self.screen = Display(total_pairs, silent=not self.main)
        self.lock = RunLock(self.out, self.screen.note) if self.main else None
        self.state: TrainState | None = None
        self.summary = summary(config, accelerator)
        self._early: list[str] = []  # notes from before there is a record of events
        self.note(self.summary)
        long = about_cpu(config, total_pairs, accelerator.device)
        for line in (about_bf16(config, accelerator), long, alone_in_a_step()):
            if line:
                self.note(line)

    def latest_checkpoint(self) -> Path | None:
        """The newest intact checkpoint; damaged ones are set aside. None for a new run."""
        return checkpoint.latest_for_all_ranks(self.out, self.accelerator, self.note)

    def start(self, state: TrainState, resumed: Path | None) -> None:
        """Open records, trackers, signals and checkpoints. resumed: the checkpoint that the state is from, if any."""
        config, pairs_seen = self.config, state.pairs_seen
        if self.main:
            start_run_directory(config, resumed)
        records.start_trackers(self.accelerator, config, pairs_seen)
        self.recorder = records.Recorder(
            self.out, pairs_seen, self.accelerator.trackers, self.screen.note, enabled=self.main
        )
        self.state = state
        for line in self._early:
            self.recorder.event(pairs_seen, line)
        self.recorder.event(pairs_seen, f"{records.MADE}{made_with()}: {self.summary}")
        event = f"resuming {resumed}" if resumed else f"starting {self.out}"
        self.note(f"{event}, at {pairs_seen} of {state.total_pairs} pairs")

        self.health = Health(self.recorder.past)
        self.health.forget(STOPS_AT[config.output.on_collapse])  # what was only warned of before stops the run now
        self.stop_request = StopRequest(self.accelerator.num_processes, self.screen.stopping)
        self.clock = Stopwatch()
        self.checkpoints = CheckpointWriter(
            self.out, self.accelerator, self.lock, self.note, keep=config.checkpointing.keep,
            keep_every=config.checkpointing.keep_every, resumed=state.resumed,
        )  # fmt: skip
        if self.main:
            journal(f"started {pairs_seen}")

    def note(self, line: str) -> None:
        """Show a line, and record it among the run's events."""
        self.screen.note(line)
        if self.state is None:
            self._early.append(line)
        else:
            self.recorder.event(self.state.pairs_seen, line)

    def alert(self, alerts: list[Alert]) -> None:
        """Warn of signs that training fails. Raise UserError on all ranks for those that --on-collapse stops at."""
        for alert in alerts:
            self.note(f"warning: {alert}")
        stops_at = STOPS_AT[self.config.output.on_collapse]
        if not stops_at:
            return
        if worst := broadcast_object_list([next((str(alert) for alert in alerts if alert.kind in stops_at), None)])[0]:
            self.recorder.event(self.state.pairs_seen, "stopped")
            self.renew_page()
            raise UserError(f"stopped before saving any more: {worst}; --on-collapse warn continues nevertheless")

    def renew_page(self) -> None:
        """report.html, and the strip of sample grids. That one of them cannot be made is no reason to stop."""
        if self.main:
            with self.recorder.attempt("strip.png", Exception):
                sample_grid.save_strip(self.out, self.config.eval_size)
            with self.recorder.attempt("report.html", Exception):
                write_report(self.out)

    def close_finished(self, state: TrainState) -> int:
        """Show the summary of a run that had finished before. Returns the exit code."""
        if self.main:
            journal(f"finished {state.pairs_seen}")
            print_summary(self.screen.console, self.out, state.pairs_seen)
            self.screen.note("to train further, add more epochs: --epochs N --allow-change epochs")
        return 0

    def close(self, finished: bool, stop_signal: int) -> int:
        """Say how the run ended. Returns the exit code: 0, or 128 + the signal that stopped it."""
        on_signals(signal.SIG_IGN)  # one that comes again would kill this process while Python shuts down
        pairs_seen = self.state.pairs_seen
        if self.main:
            journal(f"{'finished' if finished else 'stopped'} {pairs_seen}")
        if self.main and not finished:
            name = signal.Signals(stop_signal).name
            self.note(f"stopped by {name} at {pairs_seen} pairs; rerun the same command to resume")
        elif self.main:
            self.recorder.event(pairs_seen, "finished")
            print_summary(self.screen.console, self.out, pairs_seen)
        self.renew_page()
        return 0 if finished else 128 + stop_signal
