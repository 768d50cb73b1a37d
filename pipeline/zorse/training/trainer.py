"""The training loop: one run, from its latest checkpoint to its last pair."""

import logging
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast_object_list

from zorse.config.resolve import resolve, run_directory
from zorse.config.schema import Config
from zorse.data.loader import pair_batches
from zorse.data.order import RankSlice
from zorse.data.quarantine import Quarantine
from zorse.data.workers import workers_explained
from zorse.evaluation.evaluator import Evaluation, too_few, translation
from zorse.evaluation.features import feature_network
from zorse.processes import rank0_first
from zorse.runs import metrics, sample_grid
from zorse.runs.health import MIN_SAMPLE_IMAGES, Alert, sample_statistics
from zorse.runs.watchdog import Watchdog
from zorse.training.devices import check_cuda_graph, ddp_kwargs, peak_memory
from zorse.training.launch import start_accelerator
from zorse.training.plan import print_plan
from zorse.training.run import Run
from zorse.training.schedule import learning_rates
from zorse.training.state import TrainState, open_dataset
from zorse.training.trace import Trace
from zorse.training.update import Update

log = logging.getLogger(__name__)

POLL_EVERY = 16  # steps between looks at a checkpoint that is being written
DAY, LONG_ON_CPU = 86400, 2  # seconds; days that a run on a CPU may take without a word
EARLY = (5, 20, 50)  # steps after which there are first numbers, and signs of a start that fails, before any status


def train(config: Config, watchdog: Watchdog) -> int:
    """Train a run from its latest checkpoint, or from scratch, to its last pair or a signal. Returns the exit code.

    In a program of yours, also in a thread of it, end the watchdog afterwards.
    """
    directory = run_directory(config)
    accelerator = start_accelerator(
        mixed_precision=config.compute.mixed_precision,
        log_with=[name for name in config.output.tracker if name != "none"] or None,
        project_config=ProjectConfiguration(directory, logging_dir=directory / "tensorboard"),
        kwargs_handlers=[ddp_kwargs(config.compute)],
    )
    code = _train(config, accelerator, watchdog)
    # DDP goes first: were it the last to hold the process group, it would destroy it with Python's lock in hand, for
    # which a thread of the group may be waiting, so that both wait forever (pytorch#56297; torch 2.11).
    accelerator.free_memory()
    with suppress(OSError):  # TensorBoard's last lines, on a disk that was full
        accelerator.end_training()
    return code


def _train(config: Config, accelerator: Accelerator, watchdog: Watchdog) -> int:
    """Owns everything that holds DDP, so that it is freed on return."""
    dataset = open_dataset(config, accelerator)
    config = resolve(config, accelerator.num_processes, accelerator.mixed_precision)
    rank_slice = RankSlice(
        accelerator.process_index, accelerator.num_processes, config.compute.grad_accum_steps, config.optimization.batch
    )
    if config.output.dry_run:
        return print_plan(config, dataset, rank_slice, accelerator)
    if config.compute.cuda_graph:
        check_cuda_graph(accelerator)

    state = TrainState.build(config, dataset, rank_slice, accelerator)
    run = Run(config, accelerator, watchdog, state.total_pairs)  # only now: a refused run leaves no directory
    latest = run.latest_checkpoint()
    if latest:
        for note in state.restore(latest):
            run.note(note)
    elif config.checkpointing.init_from:
        run.note(state.init_from(config.checkpointing.init_from))
    if state.finished:
        return run.close_finished(state)
    run.start(state, latest)
    with run.screen, workers_explained():
        trainer = Trainer(state, run, accelerator)
        with closing(trainer.batches), trainer.trace:
            finished, stop_signal = trainer.fit()
    return run.close(finished, stop_signal)


class Due(NamedTuple):
    """What is to be done between two steps."""

    log: bool
    sample: bool
    evaluate: bool
    save: bool
    early: bool


class Trainer:
    """Trains a state, and has its run log, sample, evaluate and save it. Every method is called by all ranks alike."""

    def __init__(self, state: TrainState, run: Run, accelerator: Accelerator):
        self.state, self.run, self.accelerator = state, run, accelerator
        self.config, self.dataset = state.config, state.dataset
        self.update = Update(accelerator, state)
        self.translate = translation(state.generators, accelerator, self.dataset.modes)
        self.evaluator = self._evaluator()
        self.batches = self._batches()
        self.trace = Trace(self.config.output.profile, run, accelerator)
        self.real_samples, self.told_duration = None, False
        if run.main:
            count = max(self.config.output.sample_images, MIN_SAMPLE_IMAGES)
            self.real_samples = sample_grid.test_pictures(self.dataset, count, self.config.eval_size)
        # Where the step before began; before the first step of a new run, so that everything is due at pair 0.
        self.previous = state.pairs_seen if state.resumed else -1

    def fit(self) -> tuple[bool, int]:
        """Step to the last pair or a stop signal. Returns whether the run is finished, and the signal, 0 for none."""
        state, run, first = self.state, self.run, True
        while True:
            # All ranks agree on this, and so do the same between the same two steps.
            done, stop_signal = state.finished, run.stop_request.agreed()
            due = self._due(self.previous, state.pairs_seen)

            # What is due at this pair. A stop saves, but logs nothing early, so that a resumed run's log is the same.
            if any(due) or stop_signal:
                run.watchdog.progress("status", state.pairs_seen)
                state.losses.collect(lambda losses: self.accelerator.reduce(losses, "mean"))
                with run.clock.paused():
                    if run.main:
                        run.lock.check()
                    alerts = self.log() if due.log else self.first_numbers() if due.early else []
                    alerts += self.sample() if due.sample else []
                    run.alert(alerts)
                    best = self.evaluate(done) if due.evaluate else None
                    # Last, so that a checkpoint covers everything up to this pair.
                    self.save(due=due.save or bool(best), last=done or bool(stop_signal), best=best)
            elif run.checkpoints.writing and state.pairs_seen // self.config.optimization.batch % POLL_EVERY == 0:
                run.checkpoints.poll()  # so that one that is written is soon in place
            if done or stop_signal:
                return done, stop_signal

            # One step of all four networks on the next batch of pairs (section 4).
            run.watchdog.progress("first step" if first else "step", state.pairs_seen)
            rates = learning_rates(state.pairs_seen, self.config.optimization, self.dataset.epoch)
            after = state.pairs_seen + self.config.optimization.batch
            for losses in self.update(self._micro_batches(), rates, self._due(state.pairs_seen, after).log):
                state.losses.add(losses)
            self._advance(after)
            self.trace.step(after)
            first = False

    def log(self) -> list[Alert]:
        """Losses and speed since the last line. Returns what they warn of."""
        state, run = self.state, self.run
        if not state.losses.rows:
            return []
        status = self._status() | metrics.gradients(self.update.gradient_norms, state.scaler)
        status |= metrics.loss_scale(state.scaler) | {"peak_memory_gb": peak_memory(self.accelerator.device) / 1e9}
        state.losses.restart()
        run.clock.reset()
        run.recorder.status(status)
        alerts = run.health.update(status)
        run.screen.status(status)
        self._tell_if_long(status)
        return alerts

    def first_numbers(self) -> list[Alert]:
        """What the first status will begin with, for the eye. Returns what it warns of."""
        if not self.state.losses.rows:
            return []
        status = self._status()
        self.run.screen.status(status)
        self._tell_if_long(status)
        return self.run.health.update_early(status)

    def _tell_if_long(self, status: dict) -> None:
        """Say once how long a run takes that would rather be on a GPU."""
        days = (self.state.total_pairs - self.state.pairs_seen) / status["pairs_per_second"] / DAY
        if self.accelerator.device.type == "cpu" and days > LONG_ON_CPU and not self.told_duration:
            fix = "" if self.config.preset == "quick" else "; --preset quick is made for CPUs"
            self.run.note(f"warning: there is no GPU, and at this rate the run takes {days:.0f} days{fix}")
            self.told_duration = True

    def _status(self) -> dict:
        rates = learning_rates(self.previous, self.config.optimization, self.dataset.epoch)
        return metrics.status(self.state.pairs_seen, self.dataset.epoch, rates, self.state.losses, self.run.clock)

    def sample(self) -> list[Alert]:
        """The grid of test images, translated and back. Returns what their statistics warn of. On rank 0 alone."""
        if not self.run.main:
            return []
        recorder, pairs_seen = self.run.recorder, self.state.pairs_seen
        self.run.screen.doing("translating test images for a sample grid")
        columns = sample_grid.translated(
            self.real_samples, self.config.output.sample_images, self.translate, self.dataset.modes
        )
        with recorder.attempt("the sample grid"):
            recorder.grid(pairs_seen, sample_grid.save_grid(self.run.out, pairs_seen, columns))
        a, fake_b, _, b, fake_a, _ = columns.values()
        if len(a) < 2:
            return []
        statistics = {"a_to_b": sample_statistics(a, fake_b, b), "b_to_a": sample_statistics(b, fake_a, a)}
        line = {"pairs": pairs_seen, "samples": statistics}
        recorder.sample_statistics(line)
        return self.run.health.update(line)

    def evaluate(self, done: bool) -> dict | None:
        """Distances to real images, and the report page. Returns the distance if it is the lowest so far."""
        run, pairs_seen, best = self.run, self.state.pairs_seen, None
        if self.evaluator:
            run.watchdog.progress("evaluation", pairs_seen)
            run.screen.doing("evaluating test images")
            result = broadcast_object_list([self.evaluator(self.translate)])[0]  # one decision on all ranks
            about = {
                "run_seed": self.config.optimization.seed,
                "weights": "ema" if self.state.ema else "raw",
                "precision": self.accelerator.mixed_precision.replace("no", self.config.compute.dtype),
            }
            run.recorder.evaluation({"pairs": pairs_seen, **about, **result})
            metric, features = self.config.evaluation.best_metric, self.config.evaluation.features
            if features == "none":
                metric = "sliced_wasserstein"
            elif metric != "sliced_wasserstein":
                metric = f"{metric}_{features}"
            distance = {
                "pairs": pairs_seen,
                "metric": metric,
                "value": (result["a_to_b"][metric] + result["b_to_a"][metric]) / 2,
                "protocol": {**about, **result["protocol"]},
            }
            best = distance if run.checkpoints.improves(distance) else None
        if not done:  # the end of the run renews the page
            run.renew_page()
        return best

    def save(self, *, due: bool, last: bool, best: dict | None) -> None:
        """Write a checkpoint if one is due or this is the end; else see whether the one before is written."""
        run = self.run
        run.watchdog.progress("save", self.state.pairs_seen)
        with run.clock.saving_state():
            if due or last:
                # The first one, before any step, shows that a checkpoint can be written.
                run.checkpoints.save(self.state, best=best, wait=last or run.checkpoints.newest < 0)
            else:
                run.checkpoints.poll()

    def _due(self, before: int, now: int) -> Due:
        """What a step from pair `before` to `now` makes due: at the end all, else what it reached a multiple of."""
        output, evaluation, checkpointing = self.config.output, self.config.evaluation, self.config.checkpointing
        intervals = (
            output.log_every, output.sample_every, evaluation.evaluate_every, checkpointing.checkpoint_every
        )  # fmt: skip
        batch, done = self.config.optimization.batch, now >= self.state.total_pairs
        early = any(before < step * batch <= now for step in EARLY)
        return Due(*(done or now // every > before // every for every in intervals), early)

    def _advance(self, after: int) -> None:
        self.previous, self.state.pairs_seen = self.state.pairs_seen, after
        self.run.clock.pairs += self.config.optimization.batch
        self.run.screen.advance(self.state.pairs_seen)

    def _micro_batches(self) -> Iterator[dict]:
        """The micro-batches of one step."""
        for _ in range(self.config.compute.grad_accum_steps):
            with self.run.clock.waiting_for_data():
                pairs = next(self.batches)
            self.quarantine.take(pairs)
            yield pairs

    def _batches(self) -> Iterator[dict]:
        """The stream of micro-batches from this pair on. Unreadable samples are counted, and too many stop the run."""
        run, dataset, data = self.run, self.dataset, self.config.data
        if "://" in data.path and dataset.needs_cached > data.cache_gb * 1e9:
            run.note(
                f"warning: --cache-gb {data.cache_gb:g} does not hold this data set, so most of it is fetched again in "
                f"each epoch; with --cache-gb {dataset.needs_cached / 1e9:.3g}, or a copy on a disk, it is fetched once"
            )
        samples = {"a": len(dataset.train_a), "b": len(dataset.train_b)}
        warn = run.note if run.main else log.warning
        self.quarantine = Quarantine(run.out, self.accelerator.process_index, samples, warn)
        return pair_batches(
            dataset, self.config.images, self.state.rank_slice, seed=self.config.optimization.seed,
            lanes=self.state.lanes, start=self.state.pairs_seen, workers=data.workers,
            pin=self.accelerator.device.type == "cuda", warn=warn,
        )  # fmt: skip

    def _evaluator(self) -> Evaluation | None:
        """What measures translations of the test images; None where there are too few."""
        if reason := too_few(self.dataset):
            self.run.note(f"no evaluation: {reason}")
            return None
        options, accelerator = self.config.evaluation, self.accelerator
        network = None
        if options.features != "none":
            load = partial(feature_network, options.features, options.feature_weights, accelerator.device)
            network = rank0_first(load, accelerator)
        return Evaluation(
            self.dataset, self.config.eval_size, self.state.rank_slice,
            lambda values: accelerator.gather(values.to(accelerator.device)).cpu(),
            network=network, most=options.evaluate_images,
        )  # fmt: skip
