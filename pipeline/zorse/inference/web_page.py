"""A page in the browser on which an image is dropped and its translation appears, and the server of that page.

Programs send an image to its endpoint /translate, and get a file back. One large image is translated at a time, beside
small ones, so that none makes everybody wait.
"""

import html
import io
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from zorse.checkpoints.load import Weights
from zorse.directions import Direction
from zorse.errors import UserError
from zorse.inference.private_folder import KEPT_SECONDS, PrivateFolder
from zorse.inference.translator import Translator, with_newest
from zorse.interop.model_card import text_alone
from zorse_prep.format import Arrays
from zorse_prep.images import BadImage, read_as
from zorse_prep.pictures import formats_for

log = logging.getLogger(__name__)

THUMBNAIL = 256  # pixels of an example
LARGEST_FILE = 64 * 2**20  # bytes
LARGE = 2**20  # pixels, of which one image at a time is translated
AT_ONCE = 2  # images
WAITING = 32  # requests


def load(model: Path, names: dict[str, str], device: str | None, weights: Weights) -> dict[str, Translator]:
    """The translators of a model, by the names that the page shows. Raises UserError if it has none.

    names: what the domains "a" and "b" are called on the page.
    """
    if names["a"] == names["b"]:
        raise UserError(f"--name-a and --name-b are both {names['a']}; give two names")

    def load_both(path: Path) -> tuple[dict[str, Translator], UserError | None]:
        found, problem = {}, None
        for direction in (each.option for each in Direction):
            try:
                translator = Translator(path, direction, device, weights)
            except UserError as error:
                problem = error
                continue
            found[f"{names[direction[0]]} to {names[direction[-1]]}"] = translator
        if not found:
            raise problem
        return found, problem

    found, problem = with_newest(model, load_both)
    if any(isinstance(mode, Arrays) for translator in found.values() for mode in translator.modes):
        raise UserError(
            f"{model}: is for arrays, which the page does not show; use zorse translate, or Translator in Python"
        )
    if problem:
        log.warning(f"one direction alone: {problem}")
    return found


class Refused(Exception):
    """An image that is not translated; the message says why, in a sentence for the visitor."""


class Desk:
    """Takes images of at most so many pixels, and has one large one translated at a time."""

    def __init__(self, translators: dict[str, Translator], most_pixels: int):
        self.translators, self.most_pixels = translators, most_pixels
        self._large = threading.Lock()

    def translate(self, file: Path, way: str) -> tuple[Image.Image, Image.Image]:
        """An image file as the networks see it, and its translation. Raises Refused."""
        translator = self.translators[way]
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise Refused(f"images are deleted after {KEPT_SECONDS // 60} minutes; drop this one again") from None
        with self._admitted(size_of(data)):
            try:
                image = read_as(data, translator.modes[0])
            except BadImage as error:
                raise Refused(f"this image cannot be read: {error}") from None
            if image.width * image.height > self.most_pixels:  # of a kind whose size does not show before
                raise Refused(self._too_large(image.size))
            return image, translator(image)

    @contextmanager
    def _admitted(self, size: tuple[int, int]) -> Iterator[None]:
        if size[0] * size[1] > self.most_pixels:
            raise Refused(self._too_large(size))
        if size[0] * size[1] <= LARGE:
            yield
        elif self._large.acquire(blocking=False):
            try:
                yield
            finally:
                self._large.release()
        else:
            raise Refused("a large image is being translated; try again in a minute, or give a smaller one")

    def _too_large(self, size: tuple[int, int]) -> str:
        most = f"{self.most_pixels / 1e6:g} million pixels"
        return f"this image has {size[0]} x {size[1]} pixels, and {most} are allowed; give a smaller one"


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height by an image's header, nothing decoded; (0, 0) where it has none."""
    with suppress(Exception):  # broken files make PIL raise nearly anything
        return Image.open(io.BytesIO(data), formats=("TIFF", *formats_for(data))).size
    return 0, 0


class Example(NamedTuple):
    """An image that is offered to visitors. way: the direction that it is for. name, content: of its file."""

    way: str
    name: str
    content: bytes
    thumbnail: Image.Image


def examples_for(
    translators: dict[str, Translator], images: dict[str, list[tuple[str, bytes]]], most_pixels: int
) -> list[Example]:
    """Those of the images of each domain that have a translator, can be read, and are not too large."""
    found = []
    for way, translator in translators.items():
        for name, content in images[translator.about["direction"][0]]:
            width, height = size_of(content)
            with suppress(BadImage):
                if width * height > most_pixels:
                    continue
                thumbnail = viewable(read_as(content, translator.modes[0]))
                thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
                found.append(Example(way, name, content, thumbnail))
    return found


def page(
    translators: dict[str, Translator], title: str, most_pixels: int, folder: PrivateFolder, examples: list[Example]
):
    """A gradio.Blocks; nothing on it is fetched from elsewhere. most_pixels: of an image."""
    import gradio as gr

    desk = Desk(translators, most_pixels)

    def translated(file: str, way: str) -> tuple[Image.Image, Image.Image]:
        try:
            return desk.translate(Path(file), way)
        except (Refused, UserError, OSError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    def translate(file: str | None, way: str) -> tuple[tuple[Image.Image, Image.Image] | None, str]:
        if file is None:
            return None, ""
        image, fake = translated(file, way)
        return (viewable(image), viewable(fake)), f"{text_alone(way)}, {fake.width} x {fake.height} pixels"

    def translate_file(file: str | None, way: str) -> str:
        """What programs call: a PNG as translate.py writes it, of 16 bits, too."""
        if file is None:
            raise gr.Error("no image was sent", print_exception=False)
        made = folder.path / f"{secrets.token_hex(8)}.png"
        translated(file, way)[1].save(made)
        return str(made)

    def choose(chosen: gr.SelectData) -> tuple[str, str]:
        example = examples[chosen.index]
        file = folder.path / secrets.token_hex(8) / example.name
        file.parent.mkdir()
        file.write_bytes(example.content)
        return str(file), example.way

    # The image and the direction on the left, before and after on the right.
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {text_alone(title)}")
        gr.Markdown("Drop an image on the left. On the right, drag the handle to compare before and after.")
        with gr.Row():
            with gr.Column():
                given = gr.File(type="filepath", label="image", elem_id="given")  # as it is; gr.Image would decode it
                way = gr.Radio(list(translators), value=next(iter(translators)), label="direction", elem_id="way")
                if examples:
                    offered = gr.Gallery(
                        [(each.thumbnail, each.way) for each in examples], label="or take one of these",
                        elem_id="examples", columns=4, height=40 + 142 * -(-len(examples) // 4), buttons=[],
                        allow_preview=False, interactive=False,
                    )  # fmt: skip
                    offered.select(choose, None, [given, way], api_name=False, show_progress="hidden")
            with gr.Column():
                both = gr.ImageSlider(label="before and after", format="png", interactive=False, elem_id="both")
                message = gr.Markdown(elem_id="message")
        # A change of either translates; images of other visitors wait in a queue.
        for change in (given.change, way.change):
            change(
                translate, [given, way], [both, message], show_progress="minimal", api_name=False,
                concurrency_limit=AT_ONCE, concurrency_id="translate",
            )  # fmt: skip
        # For programs: POST /gradio_api/call/translate, or gradio_client.
        gr.Button(visible=False).click(
            translate_file, [given, way], gr.File(visible=False, label="translation"), api_name="translate",
            concurrency_limit=AT_ONCE, concurrency_id="translate",
        )  # fmt: skip
    folder.own.update(path for path in folder.path.rglob("*") if path.is_file())
    return blocks.queue(max_size=WAITING)


def viewable(image: Image.Image) -> Image.Image:
    """What a browser shows: 16 bits as 8."""
    return image.point(lambda value: value / 257).convert("L") if image.mode.startswith("I") else image


def serve(blocks, host: str, port: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises UserError if it cannot listen there."""
    import gradio as gr

    try:
        if not 0 <= port < 2**16:
            raise OSError(0, "no such port")
        socket.create_server((host, port)).close()
    except OSError as error:
        where = f"--host {host} --port {port}"
        raise UserError(f"{where}: cannot listen there ({error.strerror}); give others") from None
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # which need no network
    quiet = {"theme": plain, "footer_links": ["api"], "quiet": True, "prevent_thread_lock": True}
    quiet["max_file_size"] = LARGEST_FILE
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends in order, and leaves no file
    blocks.launch(server_name=host, server_port=port or None, **quiet)
    print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)
