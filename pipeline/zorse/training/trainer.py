"""The training loop: one run, from its newest checkpoint to its last pair."""

import dataclasses
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast_object_list

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.writer import Saver
from zorse.config.resolve import resolve, run_directory
from zorse.config.schema import Config
from zorse.cyclegan.ema import Average
from zorse.data import order
from zorse.data.loader import pair_batches
from zorse.data.quarantine import Quarantine
from zorse.errors import UserError
from zorse.evaluation.evaluator import Evaluation, too_few, translation
from zorse.evaluation.features import feature_network_together
from zorse.processes import ignore_signals
from zorse.runs import metrics, progress, records, sample_grid
from zorse.runs.directory import journal, start_run_directory
from zorse.runs.health import LOOKED_AT, Health, Sign, looks
from zorse.runs.lock import Ownership
from zorse.runs.report_page import write_report
from zorse.runs.signals import StopRequest
from zorse.runs.summary import print_summary
from zorse.runs.watchdog import Watchdog
from zorse.training.devices import check_graph, check_launch, check_precision, exchange_of_gradients, use_hardware
from zorse.training.init_from import begin_with
from zorse.training.plan import print_plan
from zorse.training.schedule import learning_rates, total_pairs
from zorse.training.state import build_adam, build_history, build_model, open_together
from zorse.training.update import Update


def train(config: Config) -> int:
    """One run from its newest checkpoint, or from nothing, to its last pair or a signal. Returns the exit code."""
    check_launch()
    accelerator = Accelerator(
        log_with=[name for name in config.run.tracker if name != "none"] or None,
        project_config=ProjectConfiguration(run_directory(config), logging_dir=run_directory(config) / "tensorboard"),
        kwargs_handlers=[exchange_of_gradients(config.run)],
    )
    check_precision(accelerator)
    code = _train(config, accelerator)
    # First what holds the gradients' exchange: were that the last to hold the process group, it would end it with
    # Python's lock in hand, which a thread of the group may be waiting for: both for ever (pytorch#56297; torch 2.11).
    accelerator.free_memory()
    with suppress(OSError):  # of TensorBoard's last lines, on a disk that was full
        accelerator.end_training()
    return code


def _train(config: Config, accelerator: Accelerator) -> int:
    """The run itself. All that it holds, DDP included, is gone when it returns."""
    device, main, scaler = accelerator.device, accelerator.is_main_process, accelerator.scaler
    shards = open_together(config.run, accelerator)
    config = resolve(config, accelerator.num_processes, accelerator.mixed_precision)
    run, optimization, out = config.run, config.optimization, config.run.out
    batch, seed = optimization.batch, optimization.seed
    share = order.Share(accelerator.process_index, accelerator.num_processes, run.accumulate, batch)
    end = total_pairs(optimization, shards.epoch)

    watchdog = Watchdog(share.rank, run.hang_after)
    model = build_model(config, shards.modes, device)
    if run.dry_run:
        if run.init_from and not checkpoint.all_of(out):
            begin_with(run.init_from, model, config.networks, shards.modes)
        if main:
            print_plan(config, shards, share, model, accelerator.mixed_precision)
        return 0
    if run.cuda_graph:
        check_graph(accelerator)
    use_hardware(model, device, run)
    screen = progress.Display(end, enabled=main)
    owner = Ownership(out, screen.note) if main else None
    adam = build_adam(config, model)
    size = config.tested
    history = build_history(config, shards.modes, share, device)
    average = Average(model.generators, optimization.ema_pairs) if optimization.ema_pairs else None
    window = metrics.LossWindow(batch, run.accumulate)

    constants, lanes = checkpoint.constants(shards), batch
    how = {"processes": share.world_size, "accumulate": run.accumulate, "workers": run.workers}
    told: list[str] = []  # before there is a record of what happens

    def early(line: str) -> None:
        screen.note(line)
        told.append(line)

    pairs_seen, state, resumed = 0, None, checkpoint.newest_for_all(out, accelerator, early)
    if resumed:
        state, changed, safe = checkpoint.read_state(resumed, config, constants)
        checkpoint.restore(resumed, model, average, adam, history)
        if scaler and (stored := state.get("loss_scale")):  # which a run that was not in fp16 has none of
            scaler.load_state_dict(stored | {"scale": max(stored["scale"], metrics.LOWEST_SCALE)})
        pairs_seen, lanes = state["pairs_seen"], state["lanes"]
        if state["how"] != how:
            other = [f"{name} {state['how'][name]} -> {how[name]}" for name in how if state["how"][name] != how[name]]
            early(f"computed in another way than before, on the same samples: {', '.join(other)}")
        if safe:
            early(f"changed, with no effect but rounding on what is learned: {', '.join(safe)}")
        if changed:
            early(f"changed from pair {pairs_seen} on: {', '.join(changed)}")
            window.start = pairs_seen
        else:
            window.load(state["window"])
        if run.init_from:
            early(f"--init-from {run.init_from} is not used: this run goes on from its own checkpoint")
    elif run.init_from:
        early(begin_with(run.init_from, model, config.networks, shards.modes))
        if average:
            average.generators.load_state_dict(model.generators.state_dict())
    if pairs_seen >= end:
        if main:
            journal(f"finished {pairs_seen}")
            print_summary(screen.console, out, pairs_seen)
        return 0
    if main:
        start_run_directory(config, resumed)

    update = Update(accelerator, model, *accelerator.prepare(model, adam), average, history, share, run.cuda_graph)
    records.start_trackers(accelerator, config, pairs_seen)
    record = records.Recorder(out, pairs_seen, accelerator.trackers, screen.note, enabled=main)

    def note(line: str) -> None:
        screen.note(line)
        record.event(pairs_seen, line)

    for line in told:
        record.event(pairs_seen, line)
    note(f"{f'resuming {resumed}' if resumed else f'starting {out}'}, at {pairs_seen} of {end} pairs")
    health = Health(record.past)
    if run.on_collapse == "stop":
        health.active.clear()  # a sign that was warned of before stops now
    reals = sample_grid.test_pictures(shards, max(run.sample_images, LOOKED_AT), size) if main else None
    evaluation, metric = None, "sliced_wasserstein"
    if metric != run.best_by and run.features != "none":
        metric = f"{run.best_by}_{run.features}"
    if reason := too_few(shards):
        note(f"no evaluation: {reason}")
    else:
        network = feature_network_together(run.features, run.feature_weights, accelerator)
        evaluation = Evaluation(
            shards, size, share, lambda x: accelerator.gather(x.to(device)).cpu(),
            network=network, most=run.evaluate_images,
        )  # fmt: skip
    if "://" in run.data and shards.needs_cached > run.cache_gb * 1e9:
        note(
            f"warning: --cache-gb {run.cache_gb:g} does not hold this data set, so most of it is fetched again in "
            f"each epoch; with --cache-gb {shards.needs_cached / 1e9:.3g}, or a copy on a disk, it is fetched once"
        )
    batches = pair_batches(
        shards, config.images, share, seed=seed, lanes=lanes, start=pairs_seen, workers=run.workers,
        pin=device.type == "cuda",
    )  # fmt: skip

    samples = {"a": len(shards.train_a), "b": len(shards.train_b)}
    quarantine = Quarantine(out, share.rank, samples, note if main else partial(print, file=sys.stderr))

    translate = translation(average.generators if average else model.generators, accelerator, shards.modes)
    what = {"run_seed": seed, "weights": "ema" if average else "raw"}
    what["precision"] = accelerator.mixed_precision.replace("no", run.dtype)

    def taken() -> Iterator[dict]:
        """The micro-batches of a step."""
        for _ in range(run.accumulate):
            with watch.waiting_for_data():
                pairs = next(batches)
            quarantine.take(pairs)
            yield pairs

    start = pairs_seen
    request, watch = StopRequest(accelerator.num_processes), metrics.Stopwatch()
    before = pairs_seen if resumed else -1
    saver = Saver(out, accelerator, owner, note, keep=run.keep, keep_every=run.keep_every, resumed=state)
    if main:
        journal(f"started {pairs_seen}")

    def page() -> None:
        if main:
            with record.attempt("strip.png", Exception):
                sample_grid.save_strip(out, size)
            with record.attempt("report.html", Exception):
                write_report(out)

    def heed(signs: list[Sign]) -> None:
        """Tell them; with --on-collapse stop, raise UserError on all ranks."""
        for sign in signs:
            note(f"warning: {sign}")
        if run.on_collapse == "stop" and (worst := broadcast_object_list([next(map(str, signs), None)])[0]):
            record.event(pairs_seen, "stopped")
            page()
            raise UserError(f"stopped before saving any more: {worst}; --on-collapse warn goes on in spite of it")

    with screen:
        while True:
            done, stop = pairs_seen >= end, request.agreed()
            due = {
                task: done or pairs_seen // every > before // every
                for task, every in (
                    ("status", run.status_every),
                    ("sample", run.sample_every),
                    ("evaluate", run.evaluate_every),
                    ("checkpoint", run.checkpoint_every),
                )
            }
            if any(due.values()) or stop:
                watchdog.progress("status", pairs_seen)
                window.collect(lambda x: accelerator.reduce(x, "mean"))
                watch.pause()
                if main:
                    owner.check()
                signs = []
                if due["status"] and window.rows:
                    rates = learning_rates(before, optimization, shards.epoch)
                    status = metrics.status(pairs_seen, shards.epoch, rates, window, watch) | metrics.loss_scale(scaler)
                    record.status(status)
                    signs += health.take(status)
                    screen.status(status)
                if due["sample"] and main:
                    columns = sample_grid.translated(reals, run.sample_images, translate)
                    with record.attempt("the sample grid"):
                        record.grid(pairs_seen, sample_grid.save_grid(out, pairs_seen, columns))
                    a, fake_b, _, b, fake_a, _ = columns.values()
                    if len(a) > 1:
                        line = {
                            "pairs": pairs_seen,
                            "looks": {"a_to_b": looks(a, fake_b, b), "b_to_a": looks(b, fake_a, a)},
                        }
                        record.looks(line)
                        signs += health.take(line)
                heed(signs)
                best = None
                if due["evaluate"] and evaluation:
                    watchdog.progress("evaluation", pairs_seen)
                    result = broadcast_object_list([evaluation(translate)])[0]  # and one decision below
                    record.evaluation({"pairs": pairs_seen, **what, **result})
                    value = (result["a_to_b"][metric] + result["b_to_a"][metric]) / 2
                    distance = {"pairs": pairs_seen, "metric": metric, "value": value}
                    distance["protocol"] = {**what, **result["protocol"]}
                    best = distance if saver.improves(distance) else None
                if due["evaluate"] and not done:
                    page()

                # Last, so that a checkpoint stands for everything up to this pair.
                watchdog.progress("save", pairs_seen)
                with watch.saving_state():
                    if due["checkpoint"] or stop or best:
                        state = {"pairs_seen": pairs_seen, "lanes": lanes, "constants": constants, "how": how}
                        state |= {"window": window.state(), "config": dataclasses.asdict(config)}
                        state["loss_scale"] = scaler and scaler.state_dict()
                        # The first one, before any step, shows that one can be written.
                        must = done or stop or saver.newest < 0
                        saver.save(state, model, average, adam, history, best=best, wait=must)
                    else:
                        saver.poll()
                watch.resume()
            elif saver.writing and pairs_seen // batch % 16 == 0:  # so that a written one is soon there
                saver.poll()
            if done or stop:
                break

            watchdog.progress("first step" if pairs_seen == start else "step", pairs_seen)
            rates = learning_rates(pairs_seen, optimization, shards.epoch)
            for named in update(taken(), pairs_seen, rates):
                window.add(named)
            before, pairs_seen = pairs_seen, pairs_seen + batch
            watch.pairs += batch
            screen.advance(pairs_seen)
    ignore_signals()  # one that comes again would kill this process while Python ends
    if main:
        journal(f"{'finished' if done else 'stopped'} {pairs_seen}")
    if main and stop and not done:
        note(f"stopped by {signal.Signals(stop).name} at {pairs_seen} pairs; the same command goes on")
    elif main:
        record.event(pairs_seen, "finished")
        print_summary(screen.console, out, pairs_seen)
    page()
    return 0 if done else 128 + stop
