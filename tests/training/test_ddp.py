"""What two ranks send each other in a step: each gradient once, while the backward pass runs."""

import json
import sys

import pytest
from running import ROOT, command


@pytest.mark.slow
@pytest.mark.parametrize(("grad_comm_dtype", "item"), [("float32", 4), ("bfloat16", 2)])
def test_each_gradient_is_reduced_once_a_step(tmp_path, grad_comm_dtype, item):
    script = [sys.executable, ROOT / "benchmarks" / "scaling.py", "--ranks", 2, "--grad-accum-steps", 2, "--size", 32]
    options = ["--channels", 24, "--blocks", 2, "--rounds", 2, "--grad-comm-dtype", grad_comm_dtype]
    done = command([*script, *options, "--json", tmp_path / "out.json"])
    assert done.returncode == 0, done.stderr
    (measured,) = json.loads((tmp_path / "out.json").read_text())
    assert measured["ranks"] == 2 and measured["batch"] == 4
    reductions = measured["reductions"]
    assert sum(entry["bytes"] for entry in reductions) == item * measured["parameters"]
    # DDP's first bucket is of 1 MiB, the others are of 25.
    assert len(reductions) == 2
    assert all(0 < entry["launched"] < entry["done"] for entry in reductions)
    assert reductions[0]["launched"] < 0.8 * measured["backward"]  # the discriminators', long before the generators'
