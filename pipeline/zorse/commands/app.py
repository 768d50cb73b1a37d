"""A page to try a trained CycleGAN on: python pipeline/app.py RUN_OR_CHECKPOINT, then drop an image on it."""

import importlib.util
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image

from zorse.checkpoints.load import Weights
from zorse.config.command_line import options_of
from zorse.directions import Direction
from zorse.errors import UserError
from zorse.inference.translator import Translator
from zorse.terminal import run_command
from zorse_prep.images import BadImage, read_as


@dataclass(frozen=True)
class Options:
    """A page in the browser: drop an image, choose the direction, see before and after."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """run directory, whose newest checkpoint is taken, one checkpoint, an exported model, or a file or folder of the
    well-known PyTorch code's weights (.pth)"""
    class_a: str = "a"
    """what domain a is called on the page, such as horse"""
    class_b: str = "b"
    """what domain b is called"""
    host: str = "127.0.0.1"
    """address to listen at; 0.0.0.0 lets other machines in"""
    port: int = 7860
    """port to listen at; 0 takes a free one"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """where to compute"""
    weights: Weights = "auto"
    """ema: the average that --ema-pairs made in training. raw: the weights themselves. auto: the average, if any"""


def load(options: Options) -> dict[str, Translator]:
    """The translators of a model, by the names that the page shows. Raises UserError if it has none."""
    if options.class_a == options.class_b:
        raise UserError(f"--class-a and --class-b are both {options.class_a}; give two names")
    found, problem = {}, None
    for direction in (each.option for each in Direction):
        try:
            translator = Translator(options.model, direction, options.device, options.weights)
        except UserError as error:
            problem = error
            continue
        names = {"a": options.class_a, "b": options.class_b}
        found[f"{names[direction[0]]} to {names[direction[-1]]}"] = translator
    if not found:
        raise problem
    if problem:
        print(f"one direction alone: {problem}", file=sys.stderr)
    return found


def page(translators: dict[str, Translator], title: str):
    """A gradio.Blocks; nothing on it is fetched from elsewhere."""
    import gradio as gr

    def translate(file: str | None, way: str) -> tuple[tuple[Image.Image, Image.Image] | None, str]:
        if file is None:
            return None, ""
        translator = translators[way]
        try:
            image = read_as(Path(file).read_bytes(), translator.modes[0])
        except (BadImage, OSError) as error:
            raise gr.Error(f"this image cannot be read: {error}", print_exception=False) from None
        fake = translator(image)
        return (viewable(image), viewable(fake)), f"{way}, {fake.width} x {fake.height} pixels"

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}\nDrop an image on the left. On the right, pull the handle to see before and after.")
        with gr.Row():
            with gr.Column():
                given = gr.File(type="filepath", label="image", elem_id="given")  # as it is; gr.Image would decode it
                way = gr.Radio(list(translators), value=next(iter(translators)), label="direction", elem_id="way")
            with gr.Column():
                both = gr.ImageSlider(label="before and after", format="png", interactive=False, elem_id="both")
                told = gr.Markdown(elem_id="told")
        for change in (given.change, way.change):
            change(translate, [given, way], [both, told], show_progress="minimal", api_name=False)
    return blocks


def viewable(image: Image.Image) -> Image.Image:
    """What a browser shows: 16 bits as 8."""
    return image.point(lambda value: value / 257).convert("L") if image.mode.startswith("I") else image


def serve(blocks, options: Options) -> None:
    """Serve the page until Ctrl-C. Raises UserError if it cannot listen there."""
    import gradio as gr

    try:
        if not 0 <= options.port < 2**16:
            raise OSError(0, "no such port")
        socket.create_server((options.host, options.port)).close()
    except OSError as error:
        where = f"--host {options.host} --port {options.port}"
        raise UserError(f"{where}: cannot listen there ({error.strerror}); give others") from None
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # which need no network
    how = {"theme": plain, "footer_links": [], "quiet": True, "prevent_thread_lock": True}
    blocks.launch(server_name=options.host, server_port=options.port or None, **how)
    print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
    blocks.block_thread()


def run() -> None:
    """Serve the page; Ctrl-C is its usual end."""
    options = options_of(Options, "python pipeline/app.py")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("gradio is not installed; run: pip install 'zorse[app]'")
    with suppress(KeyboardInterrupt):
        serve(page(load(options), f"Zorse: {options.model.resolve().name}"), options)


def main() -> None:
    """Exit codes: 0 ended by Ctrl-C, 2 a mistake in the options."""
    run_command(run)
