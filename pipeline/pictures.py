"""The sample grid: what the networks do to the same test images, from the first pair of a run to its last."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.data import Shards, whole_images
from pipeline.pixels import to_rgb
from pipeline.rundir import write_durably

TITLES = ("a", "a to b", "a to b to a", "b", "b to a", "b to a to b")
GAP, HEADER = 4, 24  # pixels


def test_pictures(shards: Shards, count: int, size: int) -> tuple[Tensor, Tensor]:
    """The images of the sample grid, the same from first to last: pixels [n, C, size, size] of both domains."""
    a, b = shards.test_a or shards.train_a, shards.test_b or shards.train_b
    count = min(count, len(a), len(b))
    return whole_images(a, range(count), size), whole_images(b, range(count), size)


def translated(pictures: tuple[Tensor, Tensor], rows: int, translate: Callable[[str, Tensor], Tensor]) -> dict:
    """Columns of RGB images uint8 [n, 3, H, W] by title: real, translated, and back for the first `rows` of them.

    translate(way, pixels) -> pixels.
    """
    a, b = pictures
    fake_b, fake_a = translate("a_to_b", a), translate("b_to_a", b)
    back_a, back_b = translate("b_to_a", fake_b[:rows]), translate("a_to_b", fake_a[:rows])
    columns = (a, fake_b, back_a, b, fake_a, back_b)
    return {title: to_rgb(column) for title, column in zip(TITLES, columns, strict=True)}


def save_grid(out: Path, pairs_seen: int, columns: dict[str, Tensor]) -> np.ndarray:
    """samples/N.png, and what it shows: uint8 [H, W, 3]."""
    (out / "samples").mkdir(exist_ok=True)
    grid = sample_grid(columns)
    png = io.BytesIO()
    grid.save(png, "png")
    write_durably(out / "samples" / f"{pairs_seen:09d}.png", png.getvalue())
    return np.asarray(grid)


def sample_grid(pictures: dict[str, Tensor]) -> Image.Image:
    """Columns of images under titles. pictures: {title: uint8 [n, 3, H, W]}; small ones are enlarged to 128 pixels."""
    titles, columns = list(pictures), list(pictures.values())
    rows, size = min(len(column) for column in columns), columns[0].shape[-1]
    tile = size * max(1, 128 // size)
    grid = Image.new("RGB", (len(columns) * (tile + GAP) + GAP, HEADER + rows * (tile + GAP)), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(size=14)
    for x, (title, column) in enumerate(zip(titles, columns, strict=True)):
        left = GAP + x * (tile + GAP)
        draw.text((left + tile / 2, HEADER / 2), title, fill="black", font=font, anchor="mm")
        for y in range(rows):
            picture = Image.fromarray(column[y].permute(1, 2, 0).numpy()).resize((tile, tile), Image.Resampling.NEAREST)
            grid.paste(picture, (left, HEADER + y * (tile + GAP)))
    return grid
