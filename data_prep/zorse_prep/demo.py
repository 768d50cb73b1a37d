"""Draw the demo data set: plain horses (A) and striped zebras (B), unpaired, in a few seconds and without a download.

  zorse demo OUT

Every picture is a function of (seed, split, number) alone. Both kinds share poses, sizes and surroundings: only the
coat tells them apart, which is what a CycleGAN is to learn.
"""

import io
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageDraw

from zorse.command_help import parse_options
from zorse.errors import UserError
from zorse.files import load_json, write_json, write_quickly
from zorse.invocation import command_line, usage
from zorse.terminal import run_command
from zorse_prep.images import JPEG_OPTIONS

COUNTS = {"trainA": 300, "trainB": 360, "testA": 64, "testB": 64}
DRAWING = 1  # to be raised whenever the pictures change
DETAIL = 4  # drawn this many times larger, then reduced
# InstanceNorm takes much of an image's colour away, and what a translation cannot show, such as the coat of the horse
# that a zebra was, CycleGANs hide in patterns (arXiv 1712.02950). So colours vary, but less than in nature.
COATS = (  # red, green, blue; how often
    ((122, 72, 38), 4),  # bay
    ((156, 82, 40), 4),  # chestnut
    ((92, 58, 38), 2),  # dark brown
    ((188, 146, 92), 1),  # palomino
)
GROUNDS = ((108, 148, 72), (132, 160, 84), (160, 158, 92))  # grass, meadow, savanna
SKIES = ((132, 180, 228), (176, 204, 232), (196, 208, 220))  # blue, pale, hazy

Point = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """A polygon of the animal, in picture widths, and the direction in which its stripes follow each other."""

    outline: list[Point]
    along: float  # radians


@dataclass(frozen=True)
class Animal:
    """Coated parts from back to front, the hair of mane and tail, dark spots (hooves, muzzle, eye)."""

    parts: list[Part]
    hair: list[list[Point]]
    dark: list[list[Point]]


def draw(seed: int, split: str, number: int, size: int) -> Image.Image:
    """One picture, size x size, RGB: a zebra where the split ends in B, else a horse."""
    rng = random.Random(f"{seed}/{split}/{number}")
    pixels = _scene(rng, size * DETAIL)
    animal = _animal(rng)
    mirrored = rng.random() < 0.5
    coat, hair, dark = _zebra(rng) if split.endswith("B") else _horse(rng)
    for part in animal.parts:
        _fill(pixels, part.outline, mirrored, lambda x, y, along=part.along: coat(x, y, along))
    for outlines, colour in ((animal.hair, hair), (animal.dark, dark)):
        for outline in outlines:
            _fill(pixels, outline, mirrored, lambda x, y, colour=colour: colour)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def _scene(rng: random.Random, side: int) -> np.ndarray:
    """Sky over ground with a soft, uneven texture; [side, side, 3], float."""
    noise = np.random.default_rng(rng.getrandbits(64))
    sky, ground = (_jitter(rng, rng.choice(colours), 12) for colours in (SKIES, GROUNDS))
    x = np.linspace(0, 1, side, dtype=np.float32)
    y = x[:, None, None]  # [side, 1, 1]
    horizon = rng.uniform(0.25, 0.55) + rng.uniform(0.01, 0.05) * np.sin(x * rng.uniform(3, 9) + rng.uniform(0, 6))
    above = y < horizon[:, None]  # [side, side, 1]
    pixels = np.where(above, sky + 25 * y, ground * (1.15 - 0.3 * y))
    for cells, strength in ((8, 5), (32, 5)):
        coarse = Image.fromarray(noise.standard_normal((cells, cells), dtype=np.float32))
        fine = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        pixels += fine[..., None] * np.where(above, np.float32(0.4 * strength), np.float32(strength))
    return pixels


def _animal(rng: random.Random) -> Animal:
    """A pose; the animal looks to the right, x and y in picture widths, y downwards."""
    # Trunk and pose.
    scale = rng.uniform(0.85, 1.12)
    x, y = rng.uniform(0.42, 0.48), rng.uniform(0.47, 0.55)  # middle of the trunk
    length, depth = rng.uniform(0.20, 0.24) * scale, rng.uniform(0.095, 0.12) * scale  # half axes
    pitch = rng.uniform(-0.08, 0.08)
    foot = y + depth + rng.uniform(0.19, 0.23) * scale
    # Four legs, from hip over knee to hoof.
    legs, hooves = [], []
    for hip, thick in ((-0.78, 0.034), (-0.55, 0.036), (0.55, 0.03), (0.76, 0.032)):
        hip_x, toe_x = x + hip * length, x + hip * length + rng.uniform(-0.045, 0.045) * scale
        knee = ((hip_x + toe_x) / 2 + rng.uniform(-0.012, 0.012), (y + depth + foot) / 2)
        legs.append(
            _limb([(hip_x, y + 0.3 * depth), knee, (toe_x, foot)], [thick * 1.6, thick * 0.75, thick * 0.6], scale)
        )
        hooves.append(_limb([(toe_x, foot - 0.012), (toe_x + 0.004, foot + 0.016)], [thick * 0.62, thick * 0.8], scale))
    # Neck and head, raised or grazing.
    raised = rng.uniform(0.55, 1.1) if rng.random() < 0.8 else rng.uniform(-0.75, -0.2)  # else it grazes
    withers = (x + 0.72 * length, y - 0.35 * depth)
    reach = rng.uniform(0.2, 0.24) * scale
    poll = (withers[0] + reach * math.cos(raised), withers[1] - reach * math.sin(raised))
    nod = raised - rng.uniform(1.2, 1.6) if raised > 0.2 else rng.uniform(-1.3, -0.9)
    muzzle = (poll[0] + 0.135 * scale * math.cos(nod), poll[1] - 0.135 * scale * math.sin(nod))
    neck = _limb([withers, poll], [0.095, 0.052], scale)
    head = _limb([poll, _between(poll, muzzle, 0.45), muzzle], [0.05, 0.046, 0.027], scale)
    # The trunk of three ellipses, ear, tail, mane, and what is dark.
    trunk = _ellipse((x, y), length, depth, pitch)
    rump = _ellipse((x - 0.6 * length, y - 0.08 * depth), 0.5 * length, depth * 1.02, pitch)
    chest = _ellipse((x + 0.6 * length, y), 0.46 * length, depth * 1.02, pitch)
    ear = _limb([poll, _aside(poll, raised, -0.045, 0.085, scale)], [0.022, 0.006], scale)
    dock = (x - 1.0 * length, y - 0.4 * depth)
    swing = rng.uniform(-0.02, 0.07) * scale
    end = (dock[0] - 0.05 * scale - swing, dock[1] + rng.uniform(0.15, 0.2) * scale)
    tail = _limb([dock, (dock[0] - 0.045 * scale, dock[1] + 0.05 * scale), end], [0.016, 0.026, 0.012], scale)
    up = _aside(withers, raised, -0.075, 0.03, scale), _aside(poll, raised, -0.045, 0.015, scale)
    mane = _limb(list(up), [0.026, 0.022], scale)
    nose = _ellipse(muzzle, 0.026 * scale, 0.024 * scale, 0)
    eye = _ellipse(_between(poll, muzzle, 0.3), 0.009 * scale, 0.009 * scale, 0)
    # Stripes follow each other along each part.
    upright = math.pi / 2
    parts = [Part(leg, upright) for leg in legs] + [Part(neck, -raised), Part(ear, -raised)]
    parts += [Part(outline, 0.0) for outline in (rump, chest, trunk)] + [Part(head, -nod)]
    return Animal(parts, [tail, mane], [*hooves, nose, eye])


def _horse(rng: random.Random):
    """(coat, hair colour, dark colour); a coat gives the colours [N, 3] at x, y [N], for the stripes' direction."""
    colours, weights = zip(*COATS, strict=True)
    colour = _jitter(rng, rng.choices(colours, weights)[0], 18)
    hair = colour * rng.uniform(0.35, 0.6) if rng.random() < 0.75 else np.minimum(colour * 1.5, 235)
    return (lambda x, y, along: colour), hair, colour * 0.35


def _zebra(rng: random.Random):
    """Like `_horse`, with stripes of its own width, tilt and bend."""
    light, dark = _jitter(rng, (234, 230, 220), 10), _jitter(rng, (34, 30, 32), 8)
    period, share = rng.uniform(0.062, 0.08), rng.uniform(0.42, 0.54)
    tilt, bend, start = rng.uniform(-0.35, 0.35), rng.uniform(-1.2, 1.2), rng.random()

    def coat(x, y, along):
        angle = along + tilt
        ahead = (x - 0.45) * math.cos(angle) + (y - 0.5) * math.sin(angle)
        across = (y - 0.5) * math.cos(angle) - (x - 0.45) * math.sin(angle)
        phase = (ahead + bend * across**2) / period + start
        return np.where((phase % 1 < share)[..., None], dark, light)

    return coat, dark * 1.3, dark


def _fill(pixels: np.ndarray, outline: list[Point], mirrored: bool, paint) -> None:
    """Paint a polygon, lit from above; paint(x, y) gives the colours [N, 3], or one for all, at N points."""
    side = len(pixels)
    mask = Image.new("1", (side, side))
    ImageDraw.Draw(mask).polygon([((1 - x if mirrored else x) * side, y * side) for x, y in outline], fill=1)
    row, column = np.nonzero(np.asarray(mask))
    x, y = (column + 0.5) / side, (row + 0.5) / side
    pixels[row, column] = paint(1 - x if mirrored else x, y) * (1.1 - 0.35 * y[:, None])


def _limb(points: list[Point], widths: list[float], scale: float) -> list[Point]:
    """The outline of a bent, tapering bar through the points, with pointed ends; widths are half widths."""
    left, right, tips = [], [], []
    for i, ((x, y), width) in enumerate(zip(points, widths, strict=True)):
        before, after = points[max(i - 1, 0)], points[min(i + 1, len(points) - 1)]
        angle = math.atan2(after[1] - before[1], after[0] - before[0])
        ahead, aside = width * scale * math.cos(angle), width * scale * math.sin(angle)
        left.append((x - aside, y + ahead))
        right.append((x + aside, y - ahead))
        tips = [tips[0] if tips else (x - ahead, y - aside), (x + ahead, y + aside)]
    return [tips[0], *left, tips[1], *reversed(right)]


def _ellipse(centre: Point, half_length: float, half_depth: float, pitch: float) -> list[Point]:
    outline = []
    for step in range(32):
        along, down = half_length * math.cos(step * math.pi / 16), half_depth * math.sin(step * math.pi / 16)
        x = centre[0] + along * math.cos(pitch) - down * math.sin(pitch)
        outline.append((x, centre[1] + along * math.sin(pitch) + down * math.cos(pitch)))
    return outline


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])


def _aside(point: Point, raised: float, forward: float, up: float, scale: float) -> Point:
    """A point moved along the neck's lower side (forward) and along the neck (up)."""
    x = point[0] + scale * (up * math.cos(raised) + forward * math.sin(raised))
    return x, point[1] + scale * (-up * math.sin(raised) + forward * math.cos(raised))


def _jitter(rng: random.Random, colour: tuple[int, int, int], spread: int) -> np.ndarray:
    """A colour, mostly made lighter or darker and a little of another hue."""
    shift = rng.uniform(-spread, spread)
    return np.array([channel + shift + rng.uniform(-spread, spread) / 3 for channel in colour], dtype=np.float32)


def draw_all(out: Annotated[Path, tyro.conf.arg(metavar="OUT")], /, seed: int = 0, size: int = 64) -> None:
    """Draw the demo data set into OUT/trainA, trainB, testA, testB. Run again, it does nothing.

    Args:
        out: The folder to fill.
        seed: Another seed gives other pictures.
        size: Width and height of a picture, in pixels.
    """
    wanted = {"drawing": DRAWING, "seed": seed, "size": size, "counts": COUNTS}
    if not 16 <= size <= 2048:
        raise UserError(f"--size {size}: give 16 to 2048 pixels")
    made = load_json(out / "demo.json") or {}
    if made == wanted:
        print(f"{out} is complete")
        return
    if out.exists() and not (out.is_dir() and ({"drawing", "complete"} & made.keys() or not any(out.iterdir()))):
        raise UserError(f"{out} holds other files; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "demo.json", {"complete": False})  # claims the folder, and is none of the wanted
    for split, count in COUNTS.items():
        (out / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw(seed, split, number, size).save(picture := io.BytesIO(), **JPEG_OPTIONS)
            write_quickly(out / split / f"{number:04d}.jpg", picture.getvalue())
    write_json(out / "demo.json", wanted)
    print(f"drew {sum(COUNTS.values())} pictures in {out}")
    print(f"next: {command_line('shard', '--source', out)}")


def run() -> None:
    """Draw what the command line says."""
    parse_options(draw_all, sys.argv[1:], prog=usage("demo"), description=__doc__)


def main() -> None:
    """Exit codes: 0 done, 2 a mistake in the options or a folder that cannot be written, 130 Ctrl-C."""
    run_command(run)
