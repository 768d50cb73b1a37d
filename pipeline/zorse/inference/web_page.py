"""A page in the browser on which an image is dropped and its translation appears, and the server of that page.

What visitors send lies in a folder of its own that no other user can read, for some minutes. One large image is
translated at a time, beside small ones, so that none makes everybody wait.
"""

import html
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from zorse.checkpoints.load import Weights
from zorse.directions import Direction
from zorse.errors import UserError
from zorse.files import remove_stale, temporary_for
from zorse.inference.translator import Translator, with_newest
from zorse.interop.model_card import text_alone
from zorse_prep.format import Arrays
from zorse_prep.images import BadImage, read_as
from zorse_prep.pictures import formats_for

KEPT_SECONDS, KEPT_BYTES = 600, 10**9  # of the files of all visitors
SWEEP_SECONDS = 10
LARGEST_FILE = 64 * 2**20  # bytes
LARGE = 2**20  # pixels, of which one image at a time is translated
AT_ONCE = 2  # images
WAITING = 32  # requests


def load(model: Path, names: dict[str, str], device: str, weights: Weights) -> dict[str, Translator]:
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
            f"{model}: is for arrays, which the page does not show; use pipeline/translate.py or Translator"
        )
    if problem:
        print(f"one direction alone: {problem}", file=sys.stderr)
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


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that this user alone can read, for what visitors send. Old files go from it, at the end all of it.

    gradio is to be imported within, since it reads the environment variable only then.
    """
    base = Path(tempfile.gettempdir(), f"zorse-app-{os.getuid()}")
    with suppress(OSError):  # of servers that were killed
        remove_stale(base)
    folder, over = temporary_for(base), threading.Event()
    folder.mkdir(mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    sweeper = threading.Thread(target=_sweep, args=(folder, over), daemon=True)
    sweeper.start()
    try:
        yield folder
    finally:
        over.set()
        sweeper.join()
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path, over: threading.Event) -> None:
    while not over.wait(SWEEP_SECONDS):
        with suppress(OSError):  # a file that went meanwhile
            remove_old(folder)


def remove_old(folder: Path) -> None:
    """Remove files of before KEPT_SECONDS, and the oldest ones while all have more than KEPT_BYTES."""
    os.utime(folder)  # it is in use
    files = [(path.lstat(), path) for path in folder.rglob("*") if not path.is_dir()]
    files = sorted((status.st_mtime, status.st_size, path) for status, path in files)
    total, now = sum(size for _, size, _ in files), time.time()
    for written, size, path in files:
        if total > KEPT_BYTES or now - written > KEPT_SECONDS:
            path.unlink(missing_ok=True)
            total -= size


def page(translators: dict[str, Translator], title: str, most_pixels: int):
    """A gradio.Blocks; nothing on it is fetched from elsewhere. most_pixels: of an image."""
    import gradio as gr

    desk = Desk(translators, most_pixels)

    def translate(file: str | None, way: str) -> tuple[tuple[Image.Image, Image.Image] | None, str]:
        if file is None:
            return None, ""
        try:
            image, fake = desk.translate(Path(file), way)
        except (Refused, UserError, OSError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None
        return (viewable(image), viewable(fake)), f"{text_alone(way)}, {fake.width} x {fake.height} pixels"

    # The image and the direction on the left, before and after on the right.
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {text_alone(title)}")
        gr.Markdown("Drop an image on the left. On the right, drag the handle to compare before and after.")
        with gr.Row():
            with gr.Column():
                given = gr.File(type="filepath", label="image", elem_id="given")  # as it is; gr.Image would decode it
                way = gr.Radio(list(translators), value=next(iter(translators)), label="direction", elem_id="way")
            with gr.Column():
                both = gr.ImageSlider(label="before and after", format="png", interactive=False, elem_id="both")
                message = gr.Markdown(elem_id="message")
        # A change of either translates; images of other visitors wait in a queue.
        for change in (given.change, way.change):
            change(
                translate, [given, way], [both, message], show_progress="minimal", api_name=False,
                concurrency_limit=AT_ONCE, concurrency_id="translate",
            )  # fmt: skip
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
    quiet = {"theme": plain, "footer_links": [], "quiet": True, "prevent_thread_lock": True}
    quiet["max_file_size"] = LARGEST_FILE
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends in order, and leaves no file
    blocks.launch(server_name=host, server_port=port or None, **quiet)
    print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
    blocks.block_thread()
