"""--profile: a trace of some steps that Perfetto and Chrome can read, also of a run that ends before they are over."""

import gzip
import json

import pytest
from running import TINY, train


@pytest.mark.parametrize(("steps", "traced", "ends_at"), [(2, 2, 7), (50, 4, 9)])
def test_steps_are_traced(shards, tmp_path, steps, traced, ends_at):
    epochs = ["--epochs", "0.8", "--decay-epochs", "0"]  # 9 pairs of 11
    done = train(*TINY, *epochs, "--profile", steps, "--data", shards, "--out", tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (file,) = tmp_path.glob("trace-*")
    assert file.name == f"trace-{ends_at:09d}.json.gz" and f"{file}: open it" in done.stdout
    names = [event.get("name", "") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]]
    assert names.count("aten::_fused_adam_") == 2 * traced  # one for the generators, one for the discriminators


def test_a_trace_of_too_many_steps_is_refused(shards, tmp_path):
    done = train(*TINY, "--profile", 5000, "--data", shards, "--out", tmp_path)
    assert done.returncode == 2 and "--profile 5000: must be at most 1000" in done.stderr
