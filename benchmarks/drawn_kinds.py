"""Pictures of every kind of TIFF, PNG, BMP and WebP, drawn at random, and what each of them shows."""

import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from drawn_files import COMPRESS, Tiff, bmp, png, tiff
from PIL import Image

LUMA = np.array([0.299, 0.587, 0.114])
SIZE = (37, 53)  # height and width, of which none is a whole number of tiles or bytes


class Drawn(NamedTuple):
    """kind: its row in the table. truth: RGBA [H, W, 4], 0 to 1, alpha straight. allowed: mean difference in levels of
    8 bits that the kind itself brings, beyond what 8 bits lose."""

    kind: str
    data: bytes
    truth: np.ndarray
    allowed: float = 0.0


def picture(rng: np.random.Generator) -> np.ndarray:
    """Smooth colours with some noise, and alpha from 0 to 1 with plateaus at both ends; [H, W, 4], 0 to 1."""
    down, across = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = [np.sin(down / rng.uniform(5, 15) + across / rng.uniform(5, 15) + phase) for phase in (0, 2, 4)]
    colours = np.clip(0.5 + 0.45 * np.dstack(waves) + rng.normal(0, 0.03, (*SIZE, 3)), 0, 1)
    return np.dstack([colours, np.clip(1.5 - 2 * across / SIZE[1], 0, 1)])


class Numbers(NamedTuple):
    """How the numbers of a TIFF are stored."""

    bits: int
    kind: str  # "unsigned", "signed", "float"

    def of(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers to store for values of 0 to 1, and what they stand for."""
        if self.kind == "float":
            stored = values.astype(f"f{self.bits // 8}")
            return stored, stored.astype(float)
        is_signed = self.kind == "signed"
        most = 2 ** (self.bits - is_signed) - 1
        type_ = next(size for size in (8, 16, 32, 64) if size >= self.bits)
        stored = np.minimum(np.rint(values * min(most, 65535)), most).astype(f"{'i' if is_signed else 'u'}{type_ // 8}")
        # Signed numbers, and those of 32 bits, have no white of their own: they are taken for 8 or 16 bits.
        white = (255 if self.bits == 8 else 65535) if is_signed or self.bits >= 32 else most
        return stored, stored / white


def draw_tiff(rng: np.random.Generator) -> Drawn:
    """A TIFF of a kind that the specification allows, drawn from all its properties at once."""
    what, numbers, meaning = _draw_colours(rng)
    stored, truth, allowed, palette = _tiff_pixels(rng, what, numbers, meaning)
    photometric = {"white is 0": 0, "palette": 3, "CMYK": 5, "YCbCr": 6}.get(what, 2 if what.startswith("RGB") else 1)
    # How it is laid out and compressed changes no pixel, but where JPEG does.
    compression = str(rng.choice([name for name in COMPRESS if name != "JPEG"]))
    if what in ("black is 0", "RGB") and numbers == (8, "unsigned") and rng.random() < 0.3:
        compression, allowed = "JPEG", 6.0
    predicts = compression in ("LZW", "deflate", "Zstandard", "LZMA") and numbers.bits in (8, 16, 32, 64)
    how = Tiff(
        *numbers,
        photometric=photometric,
        extra={"": (), "nothing": (0,), "premultiplied": (1,), "straight": (2,)}[meaning],
        compression=compression,
        predictor=int(rng.choice([1, 3] if numbers.kind == "float" else [1, 2])) if predicts else 1,
        planar=int(rng.choice([1, 2])) if stored.shape[2] > 1 else 1,
        tile=(16, 32) if rng.random() < 0.4 else None,
        rows=int(rng.choice([7, 16, 1000])),
        order=str(rng.choice(["<", ">"])),
        big=bool(rng.random() < 0.2),
        fill=2 if compression != "JPEG" and rng.random() < 0.1 else 1,
        orientation=int(rng.choice([1, 1, 1, *range(1, 9)])),
        pages=int(rng.choice([1, 1, 1, 2])),
        palette=palette,
    )
    kind = f"TIFF, {what}{meaning and f' ({meaning})'}, {numbers.kind} {numbers.bits}"
    return Drawn(kind, tiff(stored, how), turned(with_alpha(truth), how.orientation), allowed)


def _draw_colours(rng: np.random.Generator) -> tuple[str, Numbers, str]:
    """What the channels are, how their numbers are stored, and what the fourth or second means, if there is one."""
    what = str(rng.choice(["black is 0", "white is 0", "RGB", "palette", "CMYK", "YCbCr", "grey, alpha", "RGB, alpha"]))
    kind, depths = "unsigned", [8, 16]
    if what in ("black is 0", "white is 0"):
        kind = str(rng.choice(["unsigned", "unsigned", "signed", "float"]))
        depths = {"unsigned": [*range(1, 17), 32], "signed": [8, 16, 32], "float": [16, 32, 64]}[kind]
    elif what.startswith("RGB"):
        kind = str(rng.choice(["unsigned", "unsigned", "float"]))
        depths = [16, 32, 64] if kind == "float" else [2, 4, 8, 10, 12, 16, 32]
    elif what in ("palette", "YCbCr"):
        depths = [1, 2, 4, 8, 16] if what == "palette" else [8]
    meaning = str(rng.choice(["nothing", "premultiplied", "straight"])) if "alpha" in what else ""
    return what, Numbers(int(rng.choice(depths)), kind), meaning


def _tiff_pixels(rng: np.random.Generator, what: str, numbers: Numbers, meaning: str):
    """The levels to store [H, W, C]; what they show; the allowed difference; the palette."""
    seen = picture(rng)
    grey = (seen[..., :3] @ LUMA)[..., None]
    # Kinds without alpha, each with a meaning of its own.
    if what in ("black is 0", "white is 0"):
        stored, truth = numbers.of(1 - grey if what == "white is 0" else grey)
        return stored, (1 - truth if what == "white is 0" else truth).repeat(3, 2), 0.0, None
    if what == "palette":
        palette = rng.integers(0, 65536, (2**numbers.bits, 3), dtype=np.uint16)
        stored = rng.integers(0, 2**numbers.bits, (*SIZE, 1)).astype(np.uint16 if numbers.bits == 16 else np.uint8)
        return stored, (palette >> 8)[stored[..., 0]] / 255, 0.0, palette
    if what == "CMYK":
        stored, inks = numbers.of(np.dstack([1 - seen[..., :3], seen[..., 3] / 4]))
        return stored, (1 - inks[..., :3]) * (1 - inks[..., 3:]), 1.0, None
    if what == "YCbCr":
        image = Image.fromarray(np.rint(seen[..., :3] * 255).astype(np.uint8)).convert("YCbCr")
        return np.asarray(image), seen[..., :3], 1.5, None
    # RGB or grey; with alpha, the colours may be multiplied by it, and what is read divides again.
    colours = seen[..., :3] if what.startswith("RGB") else grey
    if not meaning:
        return *numbers.of(colours), 0.0, None
    times = seen[..., 3:] if meaning == "premultiplied" else 1
    stored, back = numbers.of(np.dstack([colours * times, seen[..., 3]]))
    shown, alpha = back[..., :-1], back[..., -1:]
    if meaning == "premultiplied":
        shown = np.where(alpha > 0, shown / np.maximum(alpha, 1e-9), 0).clip(0, 1)
    shown = shown if shown.shape[2] == 3 else shown.repeat(3, 2)
    return (
        stored,
        shown if meaning == "nothing" else np.dstack([shown, alpha]),
        3.0 * (meaning == "premultiplied"),
        None,
    )


def draw_png(rng: np.random.Generator) -> Drawn:
    seen, interlaced = picture(rng), bool(rng.random() < 0.3)
    what = str(rng.choice(["grey", "RGB", "palette", "grey, alpha", "RGBA"]))
    depth = int(rng.choice({"grey": [1, 2, 4, 8, 16], "palette": [1, 2, 4, 8]}.get(what, [8, 16])))
    most, type_ = 2**depth - 1, np.uint16 if depth == 16 else np.uint8
    is_clear = what in ("grey", "RGB", "palette") and rng.random() < 0.5
    if what == "palette":
        palette = rng.integers(0, 256, (2**depth, 3), dtype=np.uint8)
        levels = rng.integers(0, 2**depth, (*SIZE, 1), dtype=np.uint8)
        alphas = rng.integers(0, 256, int(rng.integers(1, 2**depth + 1)), dtype=np.uint8) if is_clear else None
        table = np.pad(alphas if is_clear else [], (0, 2**depth - len(alphas if is_clear else [])), constant_values=255)
        truth = np.dstack([palette[levels[..., 0]], table[levels[..., 0]]]) / 255
        data = png(levels, depth, interlaced, palette, alphas)
    else:
        grey = seen[..., :3] @ LUMA
        values = {"grey": grey[..., None], "RGB": seen[..., :3], "RGBA": seen}.get(
            what, np.dstack([grey, seen[..., 3]])
        )
        levels = np.rint(values * most).astype(type_)
        colour = levels[5, 7].tolist() if is_clear else None
        data = png(levels, depth, interlaced, None, colour)
        truth = levels / most
        truth = truth.repeat(3, 2) if what == "grey" else truth[..., [0, 0, 0, 1]] if what == "grey, alpha" else truth
        if is_clear:
            truth = np.dstack([truth, (levels != colour).any(2)])
    kind = f"PNG, {what}, {depth}{', one colour clear' if is_clear else ''}{', interlaced' if interlaced else ''}"
    return Drawn(kind, data, with_alpha(truth))


def draw_bmp(rng: np.random.Generator) -> Drawn:
    bits = int(rng.choice([1, 4, 8, 16, 24, 32]))
    top_down = bool(rng.random() < 0.3)
    if bits <= 8:
        palette = rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
        levels = rng.integers(0, 2**bits, SIZE)
        runs = bits >= 4 and bool(rng.random() < 0.4)
        data = bmp(levels, bits, (), palette, top_down, runs)
        return Drawn(f"BMP, palette, {bits}{', runs' if runs else ''}", data, with_alpha(palette[levels] / 255))
    seen, masks = picture(rng), ()
    widths = {16: [(5, 5, 5), (5, 6, 5)][int(rng.integers(2))], 24: (8, 8, 8), 32: (8, 8, 8)}[bits]
    with_mask = bits == 32 and rng.random() < 0.5
    widths = (*widths, 8) if with_mask else widths
    shifts = [sum(widths[n + 1 : 3]) for n in range(3)] + [24] * with_mask
    if with_mask or widths == (5, 6, 5):
        masks = tuple((2**width - 1) << shift for width, shift in zip(widths, shifts, strict=True))
    levels = np.zeros(SIZE, np.int64)
    truth = np.empty((*SIZE, len(widths)))
    for n, (width, shift) in enumerate(zip(widths, shifts, strict=True)):
        level = np.rint(seen[..., n] * (2**width - 1)).astype(np.int64)
        levels |= level << shift
        truth[..., n] = level / (2**width - 1)
    kind = f"BMP, {bits}, {'-'.join(map(str, widths))}"
    return Drawn(kind, bmp(levels, bits, masks, None, top_down), with_alpha(truth), 3.0 if bits == 16 else 0.0)


def draw_webp(rng: np.random.Generator) -> Drawn:
    seen = picture(rng)
    lossless, alpha, animated = (bool(rng.random() < 0.5) for _ in range(3))
    levels = np.rint((seen if alpha else seen[..., :3]) * 255).astype(np.uint8)
    image = Image.fromarray(levels)
    more = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]} if animated else {}
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, exact=True, quality=95, **more)
    words = ["lossless" if lossless else "lossy", *["alpha"] * alpha, *["animated"] * animated]
    return Drawn("WebP, " + ", ".join(words), buffer.getvalue(), with_alpha(levels / 255), 0.0 if lossless else 8.0)


def with_alpha(colours: np.ndarray) -> np.ndarray:
    return colours if colours.shape[2] == 4 else np.dstack([colours, np.ones(colours.shape[:2])])


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What a file of this orientation shows."""
    ways: dict[int, Callable] = {
        2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1], 5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(p, 2).swapaxes(0, 1), 8: np.rot90,
    }  # fmt: skip
    return ways.get(orientation, lambda p: p)(pixels)


def expected(truth: np.ndarray, mode: str) -> np.ndarray:
    """What should be stored in a mode, 0 to 1."""
    if mode == "rgba":
        return truth
    colours = truth[..., :3] * truth[..., 3:] + 1 - truth[..., 3:]
    return colours if mode == "rgb" else colours @ LUMA


def drawn_files(count: int, seed: int) -> Iterator[Drawn]:
    rng = np.random.default_rng(seed)
    makers = [draw_tiff] * 6 + [draw_png] * 2 + [draw_bmp, draw_webp]
    for number in range(count):
        yield makers[number % len(makers)](rng)
