"""A page to try a trained CycleGAN on: python pipeline/app.py RUN_OR_CHECKPOINT, then drop an image on it."""

import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zorse.checkpoints.load import Weights
from zorse.config.command_line import options_of
from zorse.config.schema import optional
from zorse.errors import UserError
from zorse.inference.examples import example_images
from zorse.inference.private_folder import private_folder
from zorse.inference.web_page import examples_for, load, page, serve
from zorse.invocation import usage
from zorse.terminal import run_command


@dataclass(frozen=True)
class Options:
    """A page in the browser: drop an image, choose the direction, compare before and after. Images are kept in a
    private folder and deleted after some minutes."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """run directory (its latest checkpoint is used), a checkpoint, an exported model, or a .pth file or folder of
    junyanz's PyTorch code"""
    name_a: str = "a"
    """what domain a is called on the page, such as horse"""
    name_b: str = "b"
    """what domain b is called"""
    examples: int = 4
    """test images of each domain that visitors without one may take, from the run's shards where they lie in a folder
    here; 0 for none"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 accepts other machines"""
    port: int = 7860
    """port to listen on; 0 picks a free one"""
    device: Annotated[str | None, optional("DEVICE")] = None
    """where to compute; by default on a GPU where there is one"""
    max_megapixels: float = 16.0
    """largest image that is accepted, in million pixels; large ones take memory and minutes"""
    weights: Weights = "auto"
    """ema: the average that --ema-pairs made in training. raw: the weights themselves. auto: the average, if any"""


def run() -> None:
    """Serve the page; Ctrl-C is its usual end."""
    options = options_of(Options, usage("app"), {"--class-a": "--name-a", "--class-b": "--name-b"})
    if importlib.util.find_spec("gradio") is None:
        raise UserError("gradio is not installed; run: pip install gradio")
    with suppress(KeyboardInterrupt):
        if options.examples < 0:
            raise UserError(f"--examples {options.examples}: must be at least 0")
        names = {"a": options.name_a, "b": options.name_b}
        if not options.max_megapixels > 0:
            raise UserError(f"--max-megapixels {options.max_megapixels:g}: must be greater than 0")
        translators = load(options.model, names, options.device, options.weights)
        title, most_pixels = f"Zorse: {options.model.resolve().name}", round(options.max_megapixels * 1e6)
        examples = examples_for(translators, example_images(options.model, options.examples), most_pixels)
        with private_folder() as folder:
            serve(page(translators, title, most_pixels, folder, examples), options.host, options.port)


def main() -> None:
    """Exit codes: 0 ended by Ctrl-C or SIGTERM, 2 a mistake in the options."""
    run_command(run)
