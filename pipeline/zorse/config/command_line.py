"""Parse the command line into a configuration."""

import argparse
import os
import sys
from typing import Annotated, TypeVar

import tyro

from zorse.command_help import parse_options, with_new_names
from zorse.config.presets import PRESETS
from zorse.config.resolve import OLD_NAMES
from zorse.config.schema import Config, flag
from zorse.config.validation import check
from zorse.errors import UserError
from zorse.invocation import usage

TRAIN = """Train a CycleGAN on two unpaired domains of images. Run the same command again to resume.

Most runs need no more than these:

 --data, or --a and --b       the images: shards, or two folders
 --out                        where the run is written
 --preset                     quick for a CPU, paper for a GPU
 --load-size, --crop-size     pixels of an image, and of its random crops
 --epochs, --decay-epochs     how long to train
 --batch-size, --processes    pairs per step, and the number of GPUs
 --mixed-precision bf16       less memory, on GPUs that support bf16
 --dry-run                    with --data: show what would be done, and stop

All options, by what they are about:"""
T = TypeVar("T")
OTHER_SPELLINGS = {"AtoB": "a2b", "BtoA": "b2a"}  # of directions, in junyanz's code
# Options of junyanz's code and what takes their place here; docs/from-junyanz.md explains more.
OF_JUNYANZ = {
    "--dataroot": "--a DIR/trainA --b DIR/trainB",
    "--name": "--out runs/NAME",
    "--model": "left out, since every run is a CycleGAN",
    "--checkpoints_dir": "--out runs/NAME",
    "--continue_train": "left out, since the same command resumes",
    "--epoch_count": "left out, since a resumed run knows its epoch",
    "--direction": "left out, since both directions are trained; `zorse translate` has it",
    "--input_nc": "left out, since the shards say how many channels images have",
    "--output_nc": "left out, since the shards say how many channels images have",
    "--init_type": "left out, since the first weights are the paper's, or those that --norm centred needs",
    "--init_gain": "left out, since the first weights are the paper's, or those that --norm centred needs",
    "--preprocess": "--load-size and --crop-size",
    "--serial_batches": "left out, since the order follows from --seed",
    "--max_dataset_size": "left out; make shards of fewer images",
    "--dataset_mode": "left out, since images are always unpaired",
    "--n_epochs": "--epochs",
    "--n_epochs_decay": "--decay-epochs",
    "--gpu_ids": "--processes",
    "--num_threads": "--workers",
    "--netG": "--generator, with --generator-blocks",
    "--netD": "--discriminator, with --discriminator-layers",
    "--ngf": "--generator-channels",
    "--ndf": "--discriminator-channels",
    "--gan_mode": "--adversarial",
    "--lambda_A": "--cycle-weight",
    "--lambda_B": "--cycle-weight",
    "--lambda_identity": "--identity-weight",
    "--pool_size": "--image-pool-size",
    "--print_freq": "--log-every",
    "--display_freq": "--sample-every",
    "--save_latest_freq": "--checkpoint-every",
    "--save_epoch_freq": "--keep-every",
}
# The names that options had in version 0.1.
RENAMED = {
    flag(no + old): flag(no + new) for new, old in OLD_NAMES.items() if new != "path" for no in ("", "no_")
}  # fmt: skip


def options_of(kind: type[T], program: str, renamed: dict[str, str] | None = None, **how) -> T:
    """The options on the command line of `program`; exits after help. Raises UserError for what is wrong.

    renamed: {"--old": "--new"}. how: for tyro.cli.
    """
    arguments = with_new_names(how.pop("args", sys.argv[1:]), renamed or {})
    for number, argument in enumerate(arguments):
        if number and arguments[number - 1] == "--direction":
            arguments[number] = OTHER_SPELLINGS.get(argument, argument)
        elif argument.startswith("--direction="):
            name, _, value = argument.partition("=")
            arguments[number] = f"{name}={OTHER_SPELLINGS.get(value, value)}"
    try:
        try:
            return parse_options(kind, arguments, prog=program, **how)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # of `--help | head`, whose reader has seen enough, or of who reads what is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0 if {"-h", "--help"} & set(arguments) else 2)


def parse(arguments: list[str], command: str = "train", what: str = TRAIN) -> Config:
    """Options of the command line over those of the preset that it names; exits after help.

    Raises UserError for what is wrong, with the nearest name.
    """
    arguments = with_new_names(arguments, RENAMED)
    theirs = {name.replace("_", "-"): ours for name, ours in OF_JUNYANZ.items()}
    for name in (argument.partition("=")[0] for argument in arguments):
        if ours := theirs.get(name.replace("_", "-")):
            raise UserError(f"{name} is an option of junyanz's code; here it is {ours}")
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=PRESETS, default="paper")
    preset = first.parse_known_args(arguments)[0].preset if _valid_preset(arguments) else "paper"
    config = options_of(
        Annotated[Config, tyro.conf.OmitArgPrefixes],
        usage(command),
        default=PRESETS[preset],
        args=arguments,
        console_outputs=os.environ.get("RANK", "0") == "0",
        description=what,
    )
    check(config)
    return config


def _valid_preset(arguments: list[str]) -> bool:
    """Whether reading the preset would succeed; if not, tyro says what is wrong with it in its own words."""
    for this, after in zip(arguments, [*arguments, ""][1:], strict=True):
        name, equals, value = this.partition("=")
        if name == "--preset" and (value if equals else after) not in PRESETS:
            return False
    return True
