"""What a run is told by its launcher and by accelerate: used and stated, or refused."""

import subprocess
from types import SimpleNamespace

import pytest
import torch
from running import ROOT, TINY, train
from runs import refused

from zorse.config.presets import PRESETS
from zorse.config.schema import Compute, Config
from zorse.errors import UserError
from zorse.training.launch import (
    WORLD_SIZES,
    about_bf16,
    about_cpu,
    alone_in_a_step,
    asked_of_accelerate,
    check_precision,
    check_processes,
    check_settings,
    commit,
    made_with,
)

ONE_PAIR = ["--epochs", "0.05", "--decay-epochs", "0"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, ["FSDP", "DDP"]),
        ({"ACCELERATE_USE_DEEPSPEED": "True"}, ["DeepSpeed"]),
        ({"ACCELERATE_USE_MEGATRON_LM": "1"}, ["Megatron-LM"]),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, ["parallelism"]),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, ["--grad-accum-steps 4"]),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, ["--dynamo_backend no", "--compile"]),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, ["fp8", "use bf16, fp16 or no"]),
        ({"ACCELERATE_MIXED_PRECISION": "bfloat16"}, ["bfloat16", "use bf16, fp16 or no"]),
        ({"ACCELERATE_USE_CPU": "perhaps"}, ["accelerate", "perhaps"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else "",
)
@pytest.mark.fault(20)
def test_settings_that_are_not_ours_are_refused(shards, tmp_path, setting, words):
    out = tmp_path / "run"
    refused(train(*TINY, "--data", shards, "--out", out, **setting), *words)
    assert not out.exists()


def test_the_first_line_says_what_a_run_computes_with(shards, tmp_path):
    given = {
        "1 process on CPU (1 thread), batch 1, float32": ([], {}),
        "1 process on CPU (1 thread), batch 4, float64": (["--batch", "4", "--dtype", "float64"], {}),
        "1 process on CPU (1 thread), batch 1, mixed precision bf16": ([], {"ACCELERATE_MIXED_PRECISION": "bf16"}),
    }
    for number, (line, (options, setting)) in enumerate(given.items()):
        out = tmp_path / f"run-{number}"
        done = train(*TINY, *options, *ONE_PAIR, "--data", shards, "--out", out, "--tracker", "none", **setting)
        assert done.stdout.splitlines()[0] == line, done.stderr
        assert line in (out / "events.jsonl").read_text().splitlines()[0]


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.device_count() > 1, reason="is about a machine without GPUs")
@pytest.mark.fault(9)
def test_fewer_processes_than_asked_for(shards, tmp_path):
    for how in (["--cpu"], []):
        done = train(*TINY, "--data", shards, "--out", tmp_path / "run", launcher=[*how, "--num_processes", "2"])
        assert done.returncode != 0 and done.stderr.count("error: accelerate launch was asked for 2 processes") == 1
        assert "--multi_gpu" in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "called", [["bin/accelerate", "launch"], ["bin/accelerate-launch"], ["-m", "accelerate.commands.launch"], ["bash"]]
)
def test_what_accelerate_launch_was_given_is_in_its_command_line(monkeypatch, tmp_path, called):
    """Its --gradient_accumulation_steps reaches no environment, and the number of processes may be in a file."""
    config = tmp_path / "config.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 4\n")
    given = ["/usr/bin/python", *called, "--config_file", str(config), "--gradient_accumulation_steps", "8", "train.py"]
    monkeypatch.setattr("psutil.Process.cmdline", lambda self: [*given, "--lr", "1"])
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    if called == ["bash"]:
        assert asked_of_accelerate() is None
        check_settings()
    else:
        assert asked_of_accelerate() == 4
        with pytest.raises(UserError, match="--grad-accum-steps 8"):
            check_settings()


def test_processes_that_did_not_find_each_other(monkeypatch):
    for name in (*WORLD_SIZES, "SLURM_STEP_NUM_TASKS", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    alone = SimpleNamespace(num_processes=1)
    check_processes(alone)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert "srun started 8 tasks" in alone_in_a_step()  # which may be as many runs
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "8")
    with pytest.raises(UserError, match="8 processes were launched, but only 1 of them"):
        check_processes(alone)
    check_processes(SimpleNamespace(num_processes=8))
    assert alone_in_a_step() is None


def test_a_gpu_that_emulates_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    accelerator = SimpleNamespace(mixed_precision="bf16", device=torch.device("cuda"), scaler=None)
    for capability in ((7, 0), (7, 5)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        with pytest.raises(UserError, match=r"Tesla V100 only emulates bf16, .* --mixed-precision fp16"):
            check_precision(accelerator)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_precision(accelerator)


@pytest.mark.parametrize(
    ("capability", "asked", "launched", "said"),
    [
        ((9, 0), None, "no", True),
        ((7, 5), None, "no", False),
        ((9, 0), "no", "no", False),
        ((9, 0), None, "bf16", False),
    ],
)
def test_on_a_gpu_with_bf16_the_default_is_told(monkeypatch, capability, asked, launched, said):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    accelerator = SimpleNamespace(device=torch.device("cuda"), mixed_precision=launched)
    line = about_bf16(Config(compute=Compute(mixed_precision=asked)), accelerator)
    assert (line is not None and "--mixed-precision bf16" in line) == said
    on_cpu = SimpleNamespace(device=torch.device("cpu"), mixed_precision=launched)
    assert about_bf16(Config(), on_cpu) is None


def test_a_run_that_is_long_for_a_cpu_is_told_before_its_first_step():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert "no GPU" in about_cpu(PRESETS["paper"], 266_800, cpu) and "--preset quick" in about_cpu(
        PRESETS["paper"], 266_800, cpu
    )
    assert about_cpu(PRESETS["paper"], 266_800, gpu) is None and about_cpu(PRESETS["quick"], 16_000, cpu) is None


def test_how_a_run_was_made_begins_with_what_was_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/zorse", "--data", "a b"])
    monkeypatch.setattr("zorse.training.launch.by_zorse", lambda: True)
    assert made_with().startswith("zorse train --data 'a b' (zorse ")
    monkeypatch.setattr("zorse.training.launch.by_zorse", lambda: False)
    monkeypatch.setattr("sys.argv", ["pipeline/train.py", "--data", "x"])
    assert made_with().startswith("train.py --data x (zorse ")


def test_the_commit_is_that_of_the_folder_zorse_lies_in(tmp_path, monkeypatch):
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    monkeypatch.chdir(tmp_path)
    if head.returncode:  # no clone, or none that git trusts
        assert commit() is None
    else:
        assert head.stdout.startswith(commit().removesuffix("-dirty"))
