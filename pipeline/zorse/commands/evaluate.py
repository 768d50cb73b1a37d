"""Evaluate a CycleGAN: [accelerate launch] pipeline/evaluate.py RUN_OR_CHECKPOINT [--data SHARDS] [options]."""

import json
import os

from zorse.config.command_line import options_of
from zorse.files import write_durably
from zorse.inference.evaluate_checkpoint import Options, evaluate
from zorse.invocation import command_line, usage
from zorse.runs.summary import distance_table
from zorse.terminal import plain_console, run_command
from zorse.training.launch import start_accelerator


def run() -> None:
    """Evaluate, write the record and show it."""
    renamed = {"--class-a": "--imagenet-class-a", "--class-b": "--imagenet-class-b"}  # as version 0.1 called them
    is_first = os.environ.get("RANK", "0") == "0"
    options = options_of(Options, usage("evaluate"), renamed, console_outputs=is_first)
    accelerator = start_accelerator()
    record, out = evaluate(options, accelerator)
    if record:
        write_durably(out, json.dumps(record, indent=2) + "\n")
        columns = {"untranslated": record["untranslated"], "real images": record["real"], "translated": record}
        title = f"{options.model} at {record['pairs']} pairs, {record['weights']} weights"
        plain_console().print(distance_table(f"{title}, compared with {options.real} images", columns))
        print(f"written to {out}")
        if options.out is None:  # in the run, whose page shows it
            print(f"next: {command_line('report', out.parents[1])}")
    accelerator.end_training()


def main() -> None:
    """Exit codes: 0 done, 1 data that could not be reached for a while, 2 a mistake in options, checkpoint or data, 130
    Ctrl-C."""
    run_command(run)
