"""Runs driven into each state that training can end in, and one that is well."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from running import TINY, shard, train
from runs import refused

from zorse.cyclegan.step import measures
from zorse.runs.health import STOPS_AT, Health, sample_statistics

EVERY = ["--log-every", "20", "--sample-every", "100", "--evaluate-every", "1000000", "--decay-epochs", "0"]


def warnings(done):
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("warning: ")]


def test_a_healthy_run_raises_none(shards, tmp_path):
    assert warnings(train("--data", shards, "--out", tmp_path, *TINY, *EVERY, "--epochs", "40")) == []
    assert len((tmp_path / "sample_stats.jsonl").read_text().splitlines()) == 6
    told = [json.loads(line)["text"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    with_what = "1 process on CPU (1 thread), batch 1, float32"
    assert [told[0], *told[2:]] == [with_what, f"starting {tmp_path}, at 0 of 440 pairs", "finished"]
    assert told[1].startswith("made by train.py --data ")


@pytest.mark.slow
def test_a_discriminator_that_has_won(shards, tmp_path):
    options = [
        "--lr-g",
        "1e-9",
        "--lr-d",
        "1e-3",
        "--discriminator-channels",
        "16",
        "--image-pool-size",
        "0",
        "--epochs",
        "60",
    ]
    found = warnings(train("--data", shards, "--out", tmp_path, *TINY, *EVERY, *options))
    assert any("the discriminator of b is saturated" in line and "lower --lr-d" in line for line in found)
    told = (tmp_path / "events.jsonl").read_text()
    assert all(json.dumps(line)[1:-1] in told for line in found)


def test_outputs_that_are_stuck_and_all_alike(shards, tmp_path):
    options = ["--data", shards, *TINY, *EVERY, "--lr-g", "1", "--epochs", "30"]
    found = warnings(train(*options, "--out", tmp_path / "warned", "--on-collapse", "warn"))
    assert any("are black or white" in line and "since pair 100;" in line for line in found)
    assert any("times as diverse as real images" in line for line in found)
    dead = next(line for line in found if "is dead" in line)
    assert "of its output values are where tanh has no slope, since pair " in dead and "--lr (0.5)" in dead
    assert int(dead.partition("since pair ")[2].partition(";")[0]) <= 60
    assert len(found) == len(set(found)) <= 10  # each once

    done = train(*options, "--out", tmp_path / "stopped")
    refused(done, "is dead", "--on-collapse warn continues nevertheless")
    assert json.loads((tmp_path / "stopped" / "stats.jsonl").read_text().splitlines()[-1])["pairs"] <= 100


@pytest.mark.slow
def test_a_loss_that_drifts_up_and_a_stop_on_all_ranks(shards, tmp_path):
    """Sound at first; then the cycle no longer counts. The signs of before a resume are still known after it."""
    options = ["--data", shards, "--out", tmp_path, *TINY, *EVERY, "--batch", "2", "--checkpoint-every", "100"]
    assert warnings(train(*options, "--epochs", "60", "--lr", "2e-3")) == []
    options += ["--allow-change", "epochs", "cycle_weight", "lr", "--cycle-weight", "0", "--lr", "5e-3"]
    done = train(*options, "--epochs", "160", "--on-collapse", "stop", ranks=2)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "times its lowest, since pair" in errors[0] and "--on-collapse warn" in errors[0]
    stopped = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[-1])["pairs"]
    newest = max(path.name for path in (tmp_path / "checkpoints").glob("pairs-*"))
    assert int(newest.removeprefix("pairs-")) < stopped  # nothing was saved after it


@pytest.mark.slow
def test_light_and_dark_exchanged(tmp_path):
    """B is the negative of A, and the generators find that out."""
    rng = np.random.default_rng(0)
    for name, count in (("trainA", 24), ("trainB", 24), ("testA", 8), ("testB", 8)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(count):
            y, x = np.mgrid[:40, :40]
            image = rng.normal(20, 5, (40, 40, 3))
            for _ in range(3):
                top, left, radius = rng.uniform(5, 35), rng.uniform(5, 35), rng.uniform(5, 10)
                image[(y - top) ** 2 + (x - left) ** 2 < radius**2] = rng.uniform(170, 250)
            image = image.clip(0, 255).astype(np.uint8)
            image = 255 - image if name.endswith("B") else image
            Image.fromarray(image).save(tmp_path / "images" / name / f"{number:03d}.png")
    data = shard(tmp_path / "images", tmp_path / "shards", "--workers", "1")
    options = [*TINY, "--generator-channels", "8", "--discriminator-channels", "8", "--identity-weight", "0"]
    options += ["--cycle-weight", "0.1", "--lr", "2e-3", *EVERY, "--epochs", "14"]
    found = warnings(train("--data", data, "--out", tmp_path / "run", *options))
    assert any("light and dark are swapped in translations a to b" in line for line in found)


def test_what_sample_statistics_measure():
    rng = torch.Generator().manual_seed(0)
    real, target = (torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=rng) for _ in range(2))
    same = sample_statistics(real, real, target)
    assert same["luminance"] == pytest.approx(1) and same["diversity"] == pytest.approx(1, abs=0.1)
    assert abs(same["saturation"]) < 0.02
    assert sample_statistics(real, 255 - real, target)["luminance"] == pytest.approx(-1)
    one = sample_statistics(real, real[:1].expand(6, -1, -1, -1), target)
    assert one["diversity"] == 0
    black = sample_statistics(real, torch.zeros_like(real), target)
    assert black["saturation"] > 0.95 and black["diversity"] == 0 and black["luminance"] == 0


def told(health, *lines):
    """The kinds of alerts that begin with each line, of which every value but the given ones is sound."""
    sound = {"lr_g": 2e-4, "flat_a_to_b": 0.0, "response_a_to_b": 0.8, "change_a_to_b": 0.6}
    return [[alert.kind for alert in health.update(sound | {"pairs": 50 * n, **line})] for n, line in enumerate(lines)]


def test_a_generator_that_cannot_learn_ignores_or_returns_its_input():
    dead, same, deaf = {"flat_a_to_b": 1.0}, {"change_a_to_b": 0.01}, {"response_a_to_b": 0.001}
    assert told(Health(), {}, dead, dead, dead) == [[], ["flat"], ["dead"], []]
    assert told(Health(), {}, same, same, {}, same, same) == [[], [], ["returns_input"], [], [], ["returns_input"]]
    assert told(Health(), deaf, {}, deaf, deaf) == [[], [], [], ["ignores_input"]]
    early = Health()
    first = [alert for pairs in (5, 20, 50) for alert in early.update_early({"pairs": pairs, "lr_g": 1e-3, **dead})]
    assert [(alert.kind, alert.since) for alert in first] == [("flat", 5), ("dead", 5)]
    assert "lower --lr (0.0005)" in str(first[1]) and told(early, dead, dead) == [[], []]  # each once


def test_a_resumed_run_repeats_only_what_stops_it():
    dead, dark = {"flat_a_to_b": 1.0}, {"response_b_to_a": 0.0}
    health = Health()
    assert told(health, dead | dark, dead | dark)[1] == ["dead", "ignores_input"]
    health.forget(STOPS_AT["dead"])
    assert told(health, dead | dark) == [["dead"]]
    health.forget(STOPS_AT["warn"])
    assert told(health, dead | dark) == [[]]
    health.forget(STOPS_AT["stop"])
    assert told(health, dead | dark) == [["flat", "dead", "ignores_input"]]


def test_what_a_step_measures_of_a_generator():
    a, b, fake = torch.rand(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    same = measures("a_to_b", (a, b, fake), (a, b, fake))
    assert same == {"flat_a_to_b": 0, "response_a_to_b": 1, "change_a_to_b": 0}
    white = measures("a_to_b", (a, b, fake), (torch.ones(2, 3, 8, 8),) * 3)
    assert white["flat_a_to_b"] == 1 and white["response_a_to_b"] == 0 and white["change_a_to_b"] > 0.5
    half = measures("b_to_a", (b, a, fake), (-b, torch.ones(2, 3, 8, 8), -fake))
    assert half["flat_b_to_a"] == pytest.approx(1 / 3) and half["response_b_to_a"] == pytest.approx(1)
    assert "flat_a_to_b" not in measures("a_to_b", (a, b, fake), (b, a), with_tanh=False)
    assert "change_a_to_b" not in measures("a_to_b", (a, b[:, :1], fake), (b[:, :1], b[:, :1]))


def test_an_alert_is_raised_once_and_again_when_it_comes_back():
    def line(pairs, value):
        return {"pairs": pairs, "cycle_a": value, "discriminator_a": 0.2}

    values = [1.0] * 10 + [2.5] * 30 + [1.0] * 20 + [2.5] * 20
    health = Health()
    told = [(i, sign.since) for i, value in enumerate(values) for sign in health.update(line(i, value))]
    assert [since for _, since in told] == [9, 9] and 10 < told[0][0] < 20 and told[1][0] > 60
    again = Health(line(i, value) for i, value in enumerate(values[:30]))
    assert again.update(line(30, 2.5)) == []  # it was told before a resume
