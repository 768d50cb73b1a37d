"""fp16 and its loss scale, in whole runs: on a CPU, with the scaler that a GPU has (half_on_cpu.py)."""

import json
import sys

import pytest
import torch
from running import ROOT, TINY, command, script, train
from safetensors.torch import load_file

from zorse.checkpoints import format as checkpoint
from zorse.errors import UserError
from zorse.runs import metrics

ONE_BY_ONE = ["--log-every", "1", "--sample-images", "1", "--tracker", "none", "--evaluate-every", "1000"]
EIGHT_PAIRS = ["--epochs", "0.73", "--decay-epochs", "0"]  # epochs of 11


def start(shards, out, *options, scale=2.0**6):
    program = [sys.executable, ROOT / "tests" / "helpers" / "half_on_cpu.py", scale]
    return command([*program, *TINY, *ONE_BY_ONE, "--data", shards, "--out", out, *options], PYTHONPATH=str(ROOT))


def half(shards, out, *options, **how):
    done = start(shards, out, *options, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


def state(out):
    newest = checkpoint.latest_valid(out)
    return {
        name: {key: tensor.clone() for key, tensor in load_file(newest / f"{name}.safetensors").items()}
        for name in ("networks", "optimizer")
    }, json.loads((newest / "state.json").read_text())["loss_scale"]


@pytest.mark.slow
def test_it_trains_and_a_resume_goes_on_with_the_same_scale(shards, tmp_path):
    whole = half(shards, tmp_path / "whole", *EIGHT_PAIRS)
    # Doubled after each 3 steps without an overflow, in the steps that follow.
    assert [line["loss_scale"] for line in whole] == [2.0**6] * 2 + [2.0**7] * 3 + [2.0**8] * 3
    part = tmp_path / "part"
    half(shards, part, "--epochs", "0.36", "--decay-epochs", "0")
    allowed = ["--allow-change", "epochs"]
    assert [line["loss_scale"] for line in half(shards, part, *EIGHT_PAIRS, *allowed)][4:] == [2.0**7] + 3 * [2.0**8]
    (tensors, scale), (others, other) = state(tmp_path / "whole"), state(part)
    assert scale == other and scale["scale"] == 2.0**8 and scale["_growth_tracker"] == 2
    for name in tensors:
        for key, tensor in tensors[name].items():
            assert torch.equal(tensor, others[name][key]), key


@pytest.mark.slow
def test_losses_are_those_of_float32_but_for_rounding(shards, tmp_path):
    narrow = half(shards, tmp_path / "narrow", *EIGHT_PAIRS)
    done = train(*TINY, *ONE_BY_ONE, *EIGHT_PAIRS, "--data", shards, "--out", tmp_path / "wide")
    assert done.returncode == 0, done.stderr
    wide = [json.loads(line) for line in (tmp_path / "wide" / "stats.jsonl").read_text().splitlines()]
    # Adam's first steps are as large for a small gradient as for a large one, so that rounding grows from step to step.
    for one, other, rel in zip(narrow[:4], wide[:4], [1e-3, 0.02, 0.02, 0.02], strict=True):
        names = [name for name in other if name.startswith(("adversarial", "cycle", "identity", "discriminator"))]
        assert [one[name] for name in names] == pytest.approx([other[name] for name in names], rel=rel)
        assert any(one[name] != other[name] for name in names)  # it is fp16


def test_a_step_that_overflows_is_left_out_and_the_scale_halved(shards, tmp_path):
    two_pairs = ["--epochs", "0.18", "--decay-epochs", "0", "--checkpoint-every", "1", "--keep", "9"]
    lines = half(shards, tmp_path / "run", *two_pairs, scale=2.0**100)
    assert [line["loss_scale"] for line in lines] == [2.0**99, 2.0**98]
    before, after = (
        load_file(tmp_path / "run" / "checkpoints" / f"pairs-{pairs:012d}" / "networks.safetensors") for pairs in (0, 2)
    )
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_gradients_that_overflow_at_any_scale_are_told():
    scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    with pytest.raises(UserError, match=r"overflow float16.*lower the learning rate"):
        metrics.loss_scale(scaler)
    assert metrics.loss_scale(None) == {}


@pytest.mark.slow
def test_r1_excludes_it(shards, tmp_path):
    done = start(shards, tmp_path / "run", "--r1-weight", "1")
    assert (done.returncode, done.stderr.count("\n")) == (
        2,
        1,
    ) and "--r1-weight and mixed precision fp16" in done.stderr


@pytest.mark.slow
def test_a_resume_at_a_lower_rate_gets_a_new_start(shards, tmp_path):
    out = tmp_path / "run"
    half(shards, out, "--epochs", "0.18", "--decay-epochs", "0")
    newest = checkpoint.latest_valid(out)
    stored = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(stored | {"loss_scale": stored["loss_scale"] | {"scale": 0.25}}))
    manifest = json.loads((newest / checkpoint.MANIFEST).read_text())
    manifest["state.json"] |= checkpoint.describe(newest / "state.json")
    (newest / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    lines = half(shards, out, *EIGHT_PAIRS, "--allow-change", "epochs")
    assert [line["loss_scale"] for line in lines][2:4] == [2, 2]  # from 1, doubled after three steps


@pytest.mark.parametrize("name", ["train.py", "doctor.py", "evaluate.py"])
def test_without_a_gpu_it_is_refused(shards, trained, tmp_path, name):
    options = [trained, "--data", shards] if name == "evaluate.py" else [*TINY, "--data", shards, "--out", tmp_path]
    done = script(f"pipeline/{name}", *options, ACCELERATE_MIXED_PRECISION="fp16")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1 and "fp16 needs a GPU" in done.stderr and "Traceback" not in done.stderr
