"""The zoo of drawn data sets: what it draws never changes, and the quick preset learns on what killed it once."""

import json

import numpy as np
import pytest
from drawn_sets import SETS, draw, encoded
from running import script, train

from zorse.directions import Direction

# Mean of the first scene as each domain shows it: results are compared across versions, so sets must stay the same.
MEANS = {
    "maps": (97.7658, 232.571),
    "fluorescence": (117.401, 259.334),
    "fields": (1644.73, -12.6007),
    "thermal": (136.641, 28294.9),
    "stains": (233.428, 221.782),
    "digits": (30.6198, 137.056),
    "line-art": (158.014, 242.257),
    "day-night": (141.078, 45.8806),
    "leaves": (150.104, 162.789),
    "prints": (139.611, 149.457),
    "showers": (0.0602486, 0.0759007),
    "simulation": (140.215, 128.984),
    "head": (-521.249, 83.5962),
    "animals": (134.677, 149.576),
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_stays_what_it_is(name):
    drawn = SETS[name]
    rng = np.random.default_rng([drawn.number, 0, 0])
    both = drawn.draw(rng, drawn.sizes[0])
    assert [float(values.mean()) for values in both] == pytest.approx(MEANS[name], rel=1e-3)
    for values, end in zip(both, drawn.ends, strict=True):
        assert encoded(values, end)


def test_quick_learns_on_bright_maps(tmp_path):
    """With --norm none and a rate of 4e-4 its generator was dead within 50 pairs: all outputs white."""
    draw("maps", tmp_path / "images")
    made = script("data_prep/shard.py", "--source", tmp_path / "images", "--out", tmp_path / "shards")
    assert made.returncode == 0, made.stderr
    options = ["--preset", "quick", "--data", tmp_path / "shards", "--epochs", 60 / 90, "--decay-epochs", 0]
    options += ["--features", "none", "--workers", 0, "--log-every", 20, "--sample-images", 1]
    done = train(*options, "--out", tmp_path / "run")
    assert done.returncode == 0 and "warning: " not in done.stdout, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert all(line[f"response_{direction}"] > 0.05 for line in lines for direction in Direction)
    assert lines[-1]["cycle_a"] < lines[0]["cycle_a"]
