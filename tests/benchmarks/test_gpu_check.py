"""The GPU check, rehearsed on a CPU: it runs to its end with what the project is today, and every section reports."""

import json
import os
import sys

import pytest
from running import ROOT, command

STEPS = (
    "fused-graph", "reference", "compile-graph", "eager", "compile-fused-graph", "fused", "fused-graph-packed", "graph",
    "compile", "fused-graph, large batches", "eager-cl",
)  # fmt: skip
SECTIONS = ("machine", "tests", "gate", "draw", "shard", "layers", "norm", "join in last", "run")


@pytest.mark.slow
def test_every_section_of_the_rehearsal_reports(tmp_path):
    check = [sys.executable, ROOT / "benchmarks" / "gpu" / "check.py", "--rehearse"]
    paths = os.pathsep.join(str(ROOT / name) for name in ("pipeline", "data_prep"))
    out, packed = tmp_path / "out", tmp_path / "nothing"
    done = command([*check, "--packed", packed], cwd=tmp_path, timeout=900, OUT=str(out), PYTHONPATH=paths)
    log = out / "details.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-5000:] if log.exists() else "")
    told = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    states = {line["section"]: line["state"] for line in told if "section" in line}
    assert set(states) >= {*SECTIONS, *(f"step {name}" for name in STEPS)}
    assert {states[name] for name in SECTIONS} == {"done"}
    ran = {name.removeprefix("step ") for name, state in states.items() if state == "done" and name not in SECTIONS}
    assert ran >= {"fused-graph", "fused-graph-packed", "fused-graph, large batches", "eager-cl"}
    measured = {(line["variant"], line["batch"]) for line in told if "pairs_per_second" in line}
    assert measured == {("eager", 1), ("packed", 1), ("eager", 3), ("eager", 2), ("eager-cl", 1)}
    assert {line["passed"] for line in told if line.get("kind") == "gate"} == {True}
    assert all(line["same_bits"] for line in told if line.get("kind") == "join in last" and "shape" in line)
    names = {path.name for path in out.iterdir()}
    assert names >= {"results.jsonl", "log.txt", "stats.jsonl", "grid.png", "eval.json"} and len(names) <= 8
