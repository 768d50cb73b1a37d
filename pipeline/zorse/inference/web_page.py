"""A page in the browser on which an image is dropped and its translation appears, and the server of that page."""

import html
import socket
import sys
from pathlib import Path

from PIL import Image

from zorse.checkpoints.load import Weights
from zorse.directions import Direction
from zorse.errors import UserError
from zorse.inference.translator import Translator
from zorse.interop.model_card import text_alone
from zorse_prep.images import BadImage, read_as


def load(model: Path, names: dict[str, str], device: str, weights: Weights) -> dict[str, Translator]:
    """The translators of a model, by the names that the page shows. Raises UserError if it has none.

    names: what the domains "a" and "b" are called on the page.
    """
    if names["a"] == names["b"]:
        raise UserError(f"--class-a and --class-b are both {names['a']}; give two names")
    found, problem = {}, None
    for direction in (each.option for each in Direction):
        try:
            translator = Translator(model, direction, device, weights)
        except UserError as error:
            problem = error
            continue
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
            raise gr.Error(f"this image cannot be read: {html.escape(str(error))}", print_exception=False) from None
        fake = translator(image)
        return (viewable(image), viewable(fake)), f"{text_alone(way)}, {fake.width} x {fake.height} pixels"

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {text_alone(title)}")
        gr.Markdown("Drop an image on the left. On the right, pull the handle to see before and after.")
        with gr.Row():
            with gr.Column():
                given = gr.File(type="filepath", label="image", elem_id="given")  # as it is; gr.Image would decode it
                way = gr.Radio(list(translators), value=next(iter(translators)), label="direction", elem_id="way")
            with gr.Column():
                both = gr.ImageSlider(label="before and after", format="png", interactive=False, elem_id="both")
                message = gr.Markdown(elem_id="message")
        for change in (given.change, way.change):
            change(translate, [given, way], [both, message], show_progress="minimal", api_name=False)
    return blocks


def viewable(image: Image.Image) -> Image.Image:
    """What a browser shows: 16 bits as 8."""
    return image.point(lambda value: value / 257).convert("L") if image.mode.startswith("I") else image


def serve(blocks, host: str, port: int) -> None:
    """Serve the page until Ctrl-C. Raises UserError if it cannot listen there."""
    import gradio as gr

    try:
        if not 0 <= port < 2**16:
            raise OSError(0, "no such port")
        socket.create_server((host, port)).close()
    except OSError as error:
        where = f"--host {host} --port {port}"
        raise UserError(f"{where}: cannot listen there ({error.strerror}); give others") from None
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # which need no network
    quiet = {"theme": plain, "footer_links": [], "quiet": True, "prevent_thread_lock": True}
    blocks.launch(server_name=host, server_port=port or None, **quiet)
    print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
    blocks.block_thread()
