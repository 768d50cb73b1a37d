"""`zorse` and `python -m zorse`: all commands under one name."""

import importlib
import sys

from zorse.invocation import start_by_zorse
from zorse.version import __version__

COMMANDS = {
    "shard": ("zorse_prep.shard", "make shards of two folders of images, or of a known data set"),
    "train": ("zorse.commands.train", "train a CycleGAN; run it again to resume"),
    "translate": ("zorse.commands.translate", "translate images"),
    "evaluate": ("zorse.commands.evaluate", "measure how good a checkpoint's translations are"),
    "report": ("zorse.commands.report", "write the page that shows a run"),
    "export": ("zorse.commands.export", "write a model for use elsewhere: ONNX, .pt2, .pth, safetensors"),
    "doctor": ("zorse.commands.doctor", "check whether a training run would work, and how long it would take"),
    "app": ("zorse.commands.app", "serve a page to drop images on"),
    "demo": ("zorse_prep.demo", "draw a data set of animals, plain and striped"),
}


def main() -> None:
    """The command that the first argument names. Exit codes are that command's; 2 for a name that is none."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: zorse COMMAND [options]; each COMMAND explains its options with --help\n")
        print("\n".join(f"  {command:<10} {what}" for command, (_, what) in COMMANDS.items()))
        sys.exit(0)
    if name == "--version":
        print(f"zorse {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        from zorse.terminal import one_line  # only here, since it takes a moment

        print(f"error: zorse {one_line(name)}: no such command; give one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    start_by_zorse(name)
    try:
        module = importlib.import_module(COMMANDS[name][0])
    except ModuleNotFoundError as missing:
        sys.exit(f"error: {missing.name} is not installed; run make install, or pip install -e . in Zorse's folder")
    module.main()


if __name__ == "__main__":
    main()
