"""Options: every wrong one is told by its name, in one line, before torch is loaded."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from running import ROOT, command, script

from zorse.config.command_line import parse
from zorse.config.resolve import ADDED, changes, from_dict, to_json
from zorse.config.schema import Config
from zorse.errors import UserError
from zorse.option_mistakes import options_of_kind
from zorse.typed_json import Mismatch
from zorse.version import __version__

WRONG = """
--load-size x              | --load-size 0           | --load-size 100        | --crop-size 0
--crop-size -256           | --crop-size 255         | --crop-size 20 --load-size 20 | --crop-size 300
--no-flipp                 | --generator-channels 0  | --generator-channels 1.5 | --generator-blocks -1
--discriminator-channels 0 | --discriminator-layers 0 | --discriminator-layers 8 | --cycle-weight -1
--cycle-weight nan         | --identity-weight -0.5  | --identity-weight inf  | --image-pool-size -1
--image-pool-size many             | --batch 0               | --batch -4             | --batch 1.5
--epochs -1                | --epochs nan            | --epochs 0 --decay-epochs 0 | --decay-epochs 1e12
--lr 0                     | --lr -1                 | --lr nan               | --lr inf
--beta1 1                  | --beta1 -0.1            | --beta2 1.5            | --seed -1
--grad-accum-steps 0             | --workers -1            | --log-every 0       | --sample-every -5
--sample-images 0          | --evaluate-every 0      | --checkpoint-every 0   | --keep 0
--keep-every 0             | --dtype float16         | --step-timeout 0         | --allow-change seed
--allow-change speed       | --preset papr           | --preset               | --learning 1
--cycle-wieght 3           | --data                  | somewhere              | --keep two
--cache-gb 0               | --cache-gb nan          | --read-timeout 0       | --flip-a no
--data file:/x             | --data s3:/bucket/set   | --generator-blocks 1000000 | --crop-size 100000
--generator-channels 100000 | --discriminator-channels 100000 | --load-width 100000
--flip-vertical-a yes      | --rotate90-b 90         | --rotate90-a on --crop-width 128
"""


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    "arguments", [value.strip() for line in WRONG.strip().splitlines() for value in line.split("|")]
)
def test_a_wrong_option_is_named(arguments):
    name = arguments.split()[0].split("=")[0]
    with pytest.raises(UserError) as error:
        parse(arguments.split())
    assert name in str(error.value) and "\n" not in str(error.value)


LINES = {
    "train --lr x": "--lr needs a number, not x",
    "train --keep 1.5": "--keep needs a whole number, not 1.5",
    "train --seed": "--seed needs a value: --seed INT",
    "train --preset fancy": "--preset fancy: choose one of paper, demo, quick",
    "train --mixed-precision x": "--mixed-precision x: choose one of no, bf16, fp16",
    "train --batch_siz 3": "no such option: --batch_siz (did you mean --batch-size?)",
    "train --cycle-wieght 3": "no such option: --cycle-wieght (did you mean --cycle-weight?)",
    "train --bogus": "no such option: --bogus",
    "train --no-lr": "no such option: --no-lr",
    f"train --{'x' * 999}": f"no such option: --{'x' * 78}...",
    "train runs/horse": "unexpected: runs/horse",
    "translate": "missing: MODEL, --direction {a2b,b2a,both}",
    "translate run in out --direction c": "--direction c: choose one of a2b, b2a, both",
    "export --what run out": "no such option: --what",
    "translate run in --diraction a2b": "no such option: --diraction (did you mean --direction?)",
    "demo --sed 3": "no such option: --sed (did you mean --seed?)",
    "demo": "missing: OUT",
    "train --dry-run=3": "--dry-run takes no value; leave out =3",
    "train --help=3": "--help takes no value; leave out =3",
    "shard --a x --b y --range-a": "--range-a needs a value; give one, or leave it out",
    "shard --a x --b y --range-a --range-b 0 1": "--range-a needs a value; give one, or leave it out",
    "train --n-epochs 3": "--n-epochs is an option of junyanz's code; here it is --epochs",
}


@pytest.mark.fault(20)
@pytest.mark.parametrize("arguments", LINES)
def test_options_that_cannot_be_read_are_told_in_a_line(arguments):
    name, *options = arguments.split()
    program = f"{'data_prep' if name in ('demo', 'shard') else 'pipeline'}/{name}.py"
    done = script(program, *options)
    hint = f"; python {program} --help explains the options"
    assert done.stderr.removesuffix("\n").removesuffix(hint) == f"error: {LINES[arguments]}"
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.fault(20)
@pytest.mark.parametrize("closed", ["stdout", "stderr", "full"])
def test_what_is_wrong_reaches_torchruns_report_whoever_reads_the_terminal(closed, tmp_path):
    end = {"stdout": ">&-", "stderr": "2>&-", "full": "2>/dev/full"}[closed]
    program = shlex.join([sys.executable, str(ROOT / "pipeline/train.py"), "--a\nb"])
    report = tmp_path / "error.json"
    done = command(["sh", "-c", f"{program} {end}"], TORCHELASTIC_ERROR_FILE=str(report))
    told = json.loads(report.read_text())["message"]["message"]
    assert done.returncode == 2 and told.startswith("error: no such option: '--a b'") and "\n" not in told
    assert done.stderr == (f"{told}\n" if closed == "stdout" else "")


@pytest.mark.parametrize("program", ["pipeline/train.py", "data_prep/shard.py", "pipeline/report.py"])
def test_every_command_tells_its_version(program):
    assert script(program, "--version").stdout == f"zorse {__version__}\n"


def test_the_help_begins_with_the_options_that_most_runs_need():
    shown = script("pipeline/train.py", "--help").stdout
    first = shown[: shown.index("All options")]
    named = re.findall(r"--[a-z-]+", first)
    assert 8 <= len(named) <= 16 and set(named) <= set(options_of_kind(Config))
    assert max(map(len, first.splitlines())) < 80 and all(f" {name}" in shown[len(first) :] for name in named)


@pytest.mark.fault(20)
def test_options_are_checked_before_torch_is_loaded():
    program = "import sys, zorse.commands.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("script", "option", "code"),
    [("pipeline/train.py", "--help", 0), ("pipeline/train.py", "--wrong", 2), ("data_prep/demo.py", "--help", 141)],
)
def test_a_reader_that_has_gone(script, option, code):
    reads, writes = os.pipe()
    os.close(reads)
    closed, other = ("stdout", "stderr") if option == "--help" else ("stderr", "stdout")
    try:
        how = {closed: writes, other: subprocess.PIPE, "text": True}
        done = subprocess.run([sys.executable, ROOT / script, option], cwd=ROOT, **how)
    finally:
        os.close(writes)
    assert (done.returncode, getattr(done, other)) == (code, "")


def test_right_options_are_taken():
    config = parse(["--preset", "quick", "--lr", "1e-3", "--batch-size", "4", "--keep-every", "1000", "--no-flip"])
    assert (config.optimization.lr, config.optimization.batch, config.checkpointing.keep_every) == (1e-3, 4, 1000)
    assert config.images.crop_size == 64 and not config.images.flip


OLD = {
    "--history 3": ("losses", "image_pool_size", 3),
    "--accumulate=2": ("compute", "grad_accum_steps", 2),
    "--recompute": ("compute", "activation_checkpointing", True),
    "--no-recompute": ("compute", "activation_checkpointing", False),
    "--reduce-in bfloat16": ("compute", "grad_comm_dtype", "bfloat16"),
    "--hang-after 5": ("compute", "step_timeout", 5.0),
    "--status-every 7": ("output", "log_every", 7),
    "--reduce_in bfloat16": ("compute", "grad_comm_dtype", "bfloat16"),
    "--best-by fid": ("evaluation", "best_metric", "fid"),
}


@pytest.mark.parametrize("arguments", OLD)
def test_the_names_of_version_0_1_are_still_taken(arguments):
    group, name, value = OLD[arguments]
    assert getattr(getattr(parse(arguments.split()), group), name) == value


def test_the_help_shows_the_new_names_alone(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    assert "--image-pool-size" in shown and "--history" not in shown and "--recompute" not in shown


def test_records_without_the_options_that_came_later_are_read(tmp_path):
    """Of version 0.1 and since: nothing was flipped upside down or rotated, and other values are a change."""
    old = ROOT / "tests" / "fixtures" / "f2899e9" / "run" / "config.json"
    later = json.loads(to_json(parse(["--generator-blocks", "9", "--rotate90-a", "on"])))
    for name in ADDED["images"]:
        del later["images"][name]
    for values in (json.loads(old.read_text()), later):
        config = from_dict(values)
        assert [getattr(config.images, name) for name in ADDED["images"]] == ["off"] * 4
    turned = replace(
        config, images=replace(config.images, rotate90_b="on"), output=replace(config.output, out=tmp_path)
    )
    with pytest.raises(UserError, match=r"--rotate90-b off -> on.*--allow-change rotate90_b"):
        changes(config, turned)
    assert from_dict(json.loads(to_json(turned))) == turned
    del later["images"]["flip"]
    with pytest.raises(Mismatch, match=r"images\.flip is missing"):
        from_dict(later)


def test_rotation_by_quarter_turns_needs_square_crops():
    parse(["--rotate90-a", "on", "--load-width", "500"])
    with pytest.raises(
        UserError, match=r"^--rotate90-b on: needs square crops, not 128 x 256; drop it or --crop-width$"
    ):
        parse(["--rotate90-b", "on", "--crop-width", "128"])
