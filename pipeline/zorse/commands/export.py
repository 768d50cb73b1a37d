"""Export a trained generator, to be used without Zorse or without Python: python pipeline/export.py MODEL OUT."""

import json

from zorse.config.command_line import options_of
from zorse.inference.export import Options, export
from zorse.interop.saved_model import CONFIG, MODEL
from zorse.invocation import command_line, usage
from zorse.terminal import run_command


def run() -> None:
    """Export, and say how exact each file is."""
    options = options_of(Options, usage("export"))
    for file, measured in (made := export(options)).items():
        print(f"{options.out / file}: differs from PyTorch in float32 by at most {measured['value']:.2g} on [-1, 1]")
    if MODEL in made:
        direction = json.loads((options.out / CONFIG).read_text())["direction"]
        print(f"next: {command_line('translate', options.out, 'IMAGES', 'TRANSLATED', '--direction', direction)}")


def main() -> None:
    """Exit codes: 0 done, 2 a mistake in the options, or an export that does not compute what it should, 130 Ctrl-C."""
    run_command(run)
