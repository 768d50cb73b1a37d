"""pipeline/doctor.py says before a run what would fail in it."""

import re
import sys

import pytest
from running import ROOT, TINY, command, script


def doctor(*options, ranks=1, **environment):
    if ranks == 1:
        return script("pipeline/doctor.py", *TINY, *options, **environment)
    how = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    return command([*how, ROOT / "pipeline" / "doctor.py", *TINY, *options], **environment)


def verdicts(done):
    *rows, closing = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()]
    assert ("checks failed" in closing[0]) == (done.returncode == 1), closing
    return {what: verdict for verdict, what, *_ in rows}


@pytest.mark.slow
def test_two_ranks_that_are_well(shards, tmp_path):
    out = tmp_path / "run"
    done = doctor("--data", shards, "--out", out, "--workers", "1", "--grad-accum-steps", "2", ranks=2)
    assert done.returncode == 0, done.stderr
    found = verdicts(done)
    assert set(found) == {
        *("devices", "versions", "data", "all-reduce", "a step", "data loading"),
        *("memory", "length", "disk", "evaluation"),
    }
    assert "FAIL" not in found.values()
    assert "113 MB over 2 processes" in done.stdout and "2200 pairs = 550 steps" in done.stdout
    assert not out.exists()


def test_what_would_fail_is_named(shards, tmp_path):
    (tmp_path / "file").touch()
    options = ["--data", shards, "--out", tmp_path / "run", "--lr", "1e30", "--crop-size", "64", "--load-size", "64"]
    options += ["--features", "inception_v3", "--feature-weights", tmp_path / "absent.pth", "--keep", "100000000"]
    done = doctor(*options)
    assert done.returncode == 1, done.stderr
    found = verdicts(done)
    assert found["a step"] == found["evaluation"] == "FAIL" and found["disk"] == "WARN"
    assert "--feature-weights" in done.stdout and "losses are not finite" in done.stdout


def test_a_mistake_in_one_line(tmp_path):
    done = doctor("--data", tmp_path / "nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_records_without_a_checkpoint(shards, tmp_path):
    (tmp_path / "stats.jsonl").write_text("{}\n")
    done = doctor("--data", shards, "--out", tmp_path)
    assert done.returncode == 2 and "records of a run but no checkpoint" in done.stderr and done.stderr.count("\n") == 1
