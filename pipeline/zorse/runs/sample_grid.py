"""The sample grid: what the networks do to the same test images, from the first pair of a run to its last."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zorse.data.dataset import Shards, whole_images
from zorse.data.pixels import to_rgb
from zorse.files import write_durably
from zorse.typed_json import read_bytes
from zorse_prep.format import Mode

TITLES = ("a", "a to b", "a to b to a", "b", "b to a", "b to a to b")
GAP, HEADER = 4, 24  # pixels


def test_pictures(shards: Shards, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The images of the sample grid, the same from first to last: pixels [n, C, *size] of both domains."""
    a, b = shards.test_a or shards.train_a, shards.test_b or shards.train_b
    count = min(count, len(a), len(b))
    return whole_images(a, range(count), size), whole_images(b, range(count), size)


def translated(
    pictures: tuple[Tensor, Tensor], rows: int, translate: Callable[[str, Tensor], Tensor], modes: dict[str, Mode]
) -> dict:
    """Columns of RGB images uint8 [n, 3, H, W] by title: real, translated, and back for the first `rows` of them.

    translate(direction, pixels) -> pixels.
    """
    a, b = pictures
    fake_b, fake_a = translate("a_to_b", a), translate("b_to_a", b)
    back_a, back_b = translate("b_to_a", fake_b[:rows]), translate("a_to_b", fake_a[:rows])
    columns = zip(TITLES, (a, fake_b, back_a, b, fake_a, back_b), "ababab", strict=True)
    return {title: to_rgb(column, modes[domain]) for title, column, domain in columns}


def save_grid(out: Path, pairs_seen: int, columns: dict[str, Tensor]) -> np.ndarray:
    """samples/N.png, and what it shows: uint8 [H, W, 3]."""
    (out / "samples").mkdir(exist_ok=True)
    grid = sample_grid(columns)
    png = io.BytesIO()
    grid.save(png, "png")
    write_durably(out / "samples" / f"{pairs_seen:09d}.png", png.getvalue())
    return np.asarray(grid)


def save_strip(out: Path, size: tuple[int, int], times: int = 8, rows: int = 3) -> None:
    """samples/strip.png: a column for each of at most so many sample grids through time, of their first images.

    size: height and width that the grids' images had.
    """
    found = {path: grid for path in through_time(out, times) if (grid := opened(path))}
    if not found:
        return
    grids = list(found.values())
    width = (grids[0].width - GAP) // len(TITLES) - GAP
    height = width * size[0] // size[1]
    rows = min(rows, (grids[0].height - HEADER) // (height + GAP))
    titles = [f"{int(path.stem):,} pairs" for path in found]
    strip, paste = empty(["real", *titles], 2 * rows, (width, height))
    for y in range(2 * rows):
        first = len(TITLES) // 2 * (y // rows)  # of a direction
        for x in range(len(grids) + 1):
            left, top = GAP + (first + (x > 0)) * (width + GAP), HEADER + y % rows * (height + GAP)
            paste(x, y, grids[max(0, x - 1)].crop((left, top, left + width, top + height)))
    png = io.BytesIO()
    strip.save(png, "png")
    write_durably(out / "samples" / "strip.png", png.getvalue())


def opened(grid: Path, warn: Callable[[str], None] = lambda line: None) -> Image.Image | None:
    """Open a sample grid; None if it cannot be read, which is told to `warn`."""
    try:
        image = Image.open(io.BytesIO(read_bytes(grid)), formats=["PNG"])
        image.load()
    except FileNotFoundError:  # a run that resumes draws it again
        return None
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        problem = str(error).partition(" <_io")[0] or type(error).__name__  # without the address of a buffer
        warn(f"{grid}: cannot be read ({problem}); it is skipped")
        return None
    return image


def through_time(out: Path, most: int) -> list[Path]:
    """Sample grids of a run, evenly chosen, the first and the last among them."""
    grids = sorted(path for path in (out / "samples").glob("*.png") if path.stem.isdecimal())
    if len(grids) <= most:
        return grids
    return [grids[round(i * (len(grids) - 1) / (most - 1))] for i in range(most)]


def sample_grid(pictures: dict[str, Tensor]) -> Image.Image:
    """Columns of images under titles. pictures: {title: uint8 [n, 3, H, W]}; small ones are enlarged to 128 pixels."""
    columns = list(pictures.values())
    rows, (height, width) = min(len(column) for column in columns), columns[0].shape[2:]
    times = max(1, 128 // max(height, width))
    tile = width * times, height * times
    grid, paste = empty(list(pictures), rows, tile)
    for x, column in enumerate(columns):
        for y in range(rows):
            picture = Image.fromarray(column[y].permute(1, 2, 0).numpy())
            paste(x, y, picture.resize(tile, Image.Resampling.NEAREST))
    return grid


def empty(
    titles: list[str], rows: int, tile: tuple[int, int]
) -> tuple[Image.Image, Callable[[int, int, Image.Image], None]]:
    """A grid of tiles (width, height) under titles, and what puts one into a column and a row."""
    across, down = tile[0] + GAP, tile[1] + GAP
    grid = Image.new("RGB", (len(titles) * across + GAP, HEADER + rows * down), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(size=14)
    for x, title in enumerate(titles):
        draw.text((GAP + x * across + tile[0] / 2, HEADER / 2), title, fill="black", font=font, anchor="mm")
    return grid, lambda x, y, picture: grid.paste(picture, (GAP + x * across, HEADER + y * down))
