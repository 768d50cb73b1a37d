"""The image policy: which bytes go into a shard as they are, which are converted and how, and which are bad.

A good RGB or grey JPEG is copied byte for byte. Everything else becomes a JPEG of quality 95 without chroma
subsampling, and each conversion is named, so that the manifest can count it.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# A short list keeps PIL away from formats which run other programs (EPS) or hold no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
JPEG_OPTIONS = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
POLICY = "good JPEG copied; others JPEG 95 4:4:4, sRGB, upright, on white, bicubic"
ORIENTATION = 0x0112  # EXIF tag
ICC_TOLERANCE = 2  # mean 8-bit levels: profiles which call themselves sRGB stay below, Display P3 and Adobe RGB do not


class BadImage(Exception):
    """The bytes are not a usable image; the message is the reason."""


class Prepared(NamedTuple):
    """One sample: JPEG bytes, names of the conversions, (width, height), and exact 8-bit sums for r, g, b."""

    data: bytes
    conversions: list[str]
    size: tuple[int, int]
    rgb_sum: list[int]
    rgb_square_sum: list[int]


def prepare(data: bytes, max_side: int, min_side: int) -> Prepared:
    """Judge and, where it must be, convert one image file.

    data: the file as found; its name and extension play no part. max_side: a longer side (pixels) is reduced to
    this. min_side: an image with a shorter side, after that, is bad. Raises BadImage(reason).
    """
    with _reasons(data):
        return _prepare(data, max_side, min_side)


@contextmanager
def _reasons(data: bytes) -> Iterator[None]:
    """Turn whatever PIL raises for broken files into BadImage."""
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd metadata; what counts is judged here
            yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(f"not an image ({', '.join(FORMATS)} are read)") from None
    except Image.DecompressionBombError:
        raise BadImage(f"more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels") from None
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        raise BadImage(f"cannot be decoded: {error or type(error).__name__}") from None


def read_rgb(data: bytes) -> Image.Image:
    """An image file as the networks are to see it: upright, opaque, 8 bits, sRGB, mode RGB. Raises BadImage(reason)."""
    with _reasons(data):
        image, _ = _normalised(Image.open(io.BytesIO(data), formats=FORMATS))
        return image.convert("RGB")


def _prepare(data: bytes, max_side: int, min_side: int) -> Prepared:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = _reduced(image.size, max_side)
    if min(width, height) < min_side:
        raise BadImage(f"{image.width}x{image.height} is too small (a side under {min_side} px)")
    image, conversions = _normalised(image)
    if max(image.size) > max_side:
        image = image.resize(_reduced(image.size, max_side), Image.Resampling.BICUBIC, reducing_gap=3.0)
        conversions.append("reduced")
    if conversions:
        data = _encode(image)
        image = Image.open(io.BytesIO(data))  # the statistics are those of what is stored
    return Prepared(data, conversions, image.size, *_sums(image))


def _normalised(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The decoded image, mode L or RGB, and what had to be converted."""
    # A phone's MPO is a JPEG with further pictures after it, which no JPEG decoder reads.
    is_jpeg = image.format in ("JPEG", "MPO")
    conversions = [] if is_jpeg else [image.format.lower()]
    if not is_jpeg and getattr(image, "is_animated", False):
        conversions.append("first_frame")
    rotated = image.getexif().get(ORIENTATION, 1) in range(2, 9)  # asked before load(): TIFF turns itself there
    image.load()
    icc = image.info.get("icc_profile")
    image = _upright(image, conversions, rotated)
    image = _opaque_8_bit(image, conversions)
    return _srgb(image, icc, conversions), conversions


def _reduced(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _upright(image: Image.Image, conversions: list[str], rotated: bool) -> Image.Image:
    if not rotated:
        return image
    conversions.append("exif_rotated")
    return ImageOps.exif_transpose(image)


def _opaque_8_bit(image: Image.Image, conversions: list[str]) -> Image.Image:
    """Scale deep pixels to 8 bits and put what is transparent on white. Gives L, RGB or CMYK."""
    if image.mode.startswith("I") or image.mode == "F":
        conversions.append("deep_grey")
        return _scaled_grey(np.asarray(image, dtype=np.float64), full=1 if image.mode == "F" else 65535)
    if image.has_transparency_data:
        conversions.append("alpha")
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _scaled_grey(pixels: np.ndarray, full: int) -> Image.Image:
    """Grey [H, W] of range 0 .. full -> mode L; PIL's own convert() would cut at 255 and give a white image."""
    if not (pixels.min() >= 0 and pixels.max() <= full):  # NaN fails too
        raise BadImage(f"grey values outside 0 .. {full}")
    return Image.fromarray(np.rint(pixels * (255 / full)).astype(np.uint8))


def _srgb(image: Image.Image, icc: bytes | None, conversions: list[str]) -> Image.Image:
    """Bring other colour spaces to sRGB by the embedded profile, or CMYK without one by PIL's formula."""
    if image.mode == "CMYK":
        conversions.append("cmyk")
    transform = _to_srgb(icc, image.mode) if icc else None
    if transform is not None:
        conversions.append("icc")
        return ImageCms.applyTransform(image, transform)
    return image.convert("RGB") if image.mode == "CMYK" else image


@lru_cache(maxsize=64)
def _to_srgb(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None where it changes nothing or the profile does not fit the pixels."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == "CMYK":
        return transform
    levels = range(0, 256, 15)
    colours = [(r, g, b) for r in levels for g in levels for b in levels] if mode == "RGB" else [(v,) for v in levels]
    probe = Image.frombytes(mode, (len(colours), 1), bytes(v for colour in colours for v in colour))
    after = np.asarray(ImageCms.applyTransform(probe, transform), dtype=int)
    return transform if abs(after - np.asarray(probe.convert("RGB"), dtype=int)).mean() > ICC_TOLERANCE else None


def _encode(image: Image.Image) -> bytes:
    image.info = {}  # PIL would carry comments over
    buffer = io.BytesIO()
    image.save(buffer, **JPEG_OPTIONS)
    return buffer.getvalue()


def _sums(image: Image.Image) -> tuple[list[int], list[int]]:
    """Sums and sums of squares of the 8-bit r, g, b values, as integers, so that no order of adding matters."""
    counts = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)  # [C, 256], C = 3 or 1
    levels = np.arange(256, dtype=np.int64)
    channels = [0, 1, 2] if len(counts) == 3 else [0, 0, 0]
    return (counts @ levels)[channels].tolist(), (counts @ levels**2)[channels].tolist()
