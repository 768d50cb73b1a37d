"""What a run says of itself: losses over a window, non-finite ones, the lines of stats.jsonl, the learning rate."""

import errno
import json
import os
import resource
import signal

import pytest
import torch

from zorse.config.schema import Optimization
from zorse.errors import UserError
from zorse.files import append
from zorse.runs import records
from zorse.runs.metrics import LossWindow
from zorse.runs.records import Recorder
from zorse.training.schedule import learning_rates, total_pairs


def step(window, *micro_steps):
    for cycle, adversarial in micro_steps:
        window.add({"cycle_a": torch.tensor(cycle), "adversarial_a_to_b": torch.tensor(adversarial)})


def test_window_means_over_steps_and_micro_steps():
    window = LossWindow(batch=4, accumulate=2)
    step(window, (1.0, 0.0), (3.0, 0.0))
    window.collect(lambda x: x)
    step(window, (4.0, 1.0), (4.0, 2.0))
    window.collect(lambda x: x)
    assert window.means() == {"cycle_a": 3.0, "adversarial_a_to_b": 0.75}
    window.restart()
    assert window.start == 8 and window.rows == []


def test_window_of_version_0_1_goes_on_with_more_columns():
    window = LossWindow(batch=1, accumulate=1)
    window.load({"start": 0, "names": ["cycle_a"], "rows": [[1.0]]})
    step(window, (3.0, 0.5))
    window.collect(lambda x: x)
    assert window.means() == {"cycle_a": 2.0, "adversarial_a_to_b": 0.5}


def test_window_goes_through_a_checkpoint():
    window = LossWindow(batch=1, accumulate=1)
    step(window, (0.1, 0.2))
    window.collect(lambda x: x)
    other = LossWindow(batch=1, accumulate=1)
    other.load(json.loads(json.dumps(window.state())))
    for each in (window, other):
        step(each, (0.3, 0.4))
        each.collect(lambda x: x)
    assert other.means() == window.means()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_loss_stops_with_its_pair_and_name(value):
    window = LossWindow(batch=4, accumulate=1)
    step(window, (1.0, 0.0), (1.0, 0.0), (1.0, value), (value, 0.0))
    with pytest.raises(UserError, match=r"adversarial_a_to_b is (nan|inf) in the step that began at pair 8;"):
        window.collect(lambda x: x)


class Tracked:
    """A tracker that keeps at which pairs it was told something."""

    name = "tracked"

    def __init__(self, steps):
        self.steps = steps

    def log(self, values, step):
        self.steps.append(step)


def test_records_after_the_resumed_pair_are_removed(tmp_path):
    stats = tmp_path / "stats.jsonl"
    stats.write_text('{"pairs": 10}\n{"pairs": 20}\n{"pairs": 30}\n{"pai')
    for name in ("eval/000000020.json", "eval/000000030.json", "samples/000000020.png", "samples/000000030.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    tracked = []
    record = Recorder(tmp_path, 20, [Tracked(tracked)], print, enabled=True)
    assert [path.stem for path in sorted(tmp_path.glob("*/*"))] == ["000000020", "000000020"]
    record.status({"pairs": 30, "new": True})
    assert [json.loads(line) for line in stats.read_text().splitlines()] == [
        {"pairs": 10},
        {"pairs": 20},
        {"pairs": 30, "new": True},
    ]
    assert tracked == [30]


def test_a_line_that_could_not_be_written_comes_with_the_next(tmp_path, monkeypatch):
    told, tracked = [], []
    record = Recorder(tmp_path, 0, [Tracked(tracked)], told.append, enabled=True)
    record.status({"pairs": 10})
    with monkeypatch.context() as patch:
        patch.setattr(records, "append", half_an_append)
        record.status({"pairs": 20})
    record.status({"pairs": 30})
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["pairs"] for line in lines] == tracked == [10, 20, 30]
    assert len(told) == 1 and "No space left on device" in told[0]


def half_an_append(path, text):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_append_is_whole_or_nothing(tmp_path):
    path = tmp_path / "lines"
    append(path, "first\n")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, limit[1]))
    try:
        with pytest.raises(OSError, match="lines"):
            append(path, "second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    append(path, "third\n")
    assert path.read_text() == "first\nthird\n"


def test_learning_rates_are_constant_and_then_fall_to_zero():
    """The paper's 100 + 100 epochs."""
    optimization, epoch = Optimization(epochs=100, decay_epochs=100, lr=2e-4, batch=1), 1334
    assert total_pairs(optimization, epoch) == 200 * epoch
    assert learning_rates(0, optimization, epoch) == learning_rates(100 * epoch, optimization, epoch) == (2e-4, 2e-4)
    assert learning_rates(150 * epoch, optimization, epoch) == pytest.approx((1e-4, 1e-4))
    assert learning_rates(200 * epoch, optimization, epoch) == (0, 0)
    assert learning_rates(10**9, Optimization(decay_epochs=0, batch=1), epoch) == (2e-4, 2e-4)


def test_learning_rates_of_each_side_of_large_batches_and_in_the_warm_up():
    def at(pairs_seen, **options):
        return learning_rates(pairs_seen, Optimization(decay_epochs=0, lr=1e-3, batch=16, **options), 1000)

    assert at(0, lr_d=4e-3) == (1e-3, 4e-3) and at(0, lr_g=5e-4) == (5e-4, 1e-3)
    assert at(0, lr_scaling="sqrt") == pytest.approx((4e-3, 4e-3))
    assert at(0, lr_scaling="linear", lr_g=1e-4) == pytest.approx((1.6e-3, 1.6e-2))
    warming = [at(pairs, warmup_pairs=64)[0] for pairs in (0, 16, 48, 64, 10**6)]
    assert warming == pytest.approx([2.5e-4, 5e-4, 1e-3, 1e-3, 1e-3])
