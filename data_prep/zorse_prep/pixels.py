"""From the pixels that files have to the pixels that shards store: colour, grey, alpha, depth, colour profiles."""

import io
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from zorse_prep.format import PixelMode

MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # of an image that is decoded, PIL's own limit
BAND = 1 << 22  # pixels that are converted at once, so that a large image is not held several times
LOW_CONTRAST = 0.25  # of the range: what uses less of it leaves fewer than 64 of 256 levels
ICC_TOLERANCE = 2  # mean 8-bit levels: profiles which call themselves sRGB stay below, Display P3 and Adobe RGB do not


class BadImage(Exception):
    """The bytes are not a usable image; the message is the reason."""


def convert(image: Image.Image, icc: bytes | None, mode: PixelMode, conversions: list[str]) -> Image.Image:
    """A decoded image in the PIL mode that is stored: L or RGB for "rgb", L, RGBA, I;16.

    icc: the file's colour profile. What had to be done is appended to `conversions`. Raises BadImage for grey values
    without a known white.
    """
    converted = _in_bands(image, icc, mode, conversions)
    if "deep_grey" in conversions and _is_deep_grey(image):
        low, high = image.getextrema()
        if high - low < LOW_CONTRAST * (1 if image.mode == "F" else 65535):
            conversions.append("low_contrast")
    return converted


def _in_bands(image: Image.Image, icc: bytes | None, mode: PixelMode, conversions: list[str]) -> Image.Image:
    way = {"rgb": _rgb_or_grey, "grey": _grey, "rgba": _rgba, "grey16": _grey16}[mode]
    bands = list(bands_of(image))
    if len(bands) == 1:
        return way(image, icc, conversions)
    # Every conversion is one of single pixels, so that bands give what the whole gives.
    first = image.crop(bands[0])
    converted = way(first, icc, conversions)
    if converted is first:
        return image
    result = Image.new(converted.mode, image.size)
    result.paste(converted, bands[0])
    for band in bands[1:]:
        result.paste(way(image.crop(band), icc, []), band)
    return result


def bands_of(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows, from top to bottom; one for most images."""
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def sums(image: Image.Image, mode: PixelMode) -> tuple[list[int], list[int]]:
    """Sums and sums of squares of the stored levels, as integers, so that no order of adding matters."""
    if mode == "grey16":
        total = squares = 0  # Python's integers, which have no end
        for band in bands_of(image):
            levels = np.asarray(image.crop(band)).astype(np.int64)
            total, squares = total + int(levels.sum()), squares + int((levels**2).sum())
        return [total], [squares]
    counts = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)  # [C, 256]
    if mode == "rgb" and len(counts) == 1:
        counts = counts.repeat(3, 0)
    levels = np.arange(256, dtype=np.int64)
    return (counts @ levels).tolist(), (counts @ levels**2).tolist()


def _rgb_or_grey(image: Image.Image, icc: bytes | None, conversions: list[str]) -> Image.Image:
    """Convert to RGB or L."""
    if _is_deep_grey(image):
        conversions.append("deep_grey")
        image = Image.fromarray(_scaled_grey(image, 255, conversions).astype(np.uint8))
    return to_srgb(_opaque(image, conversions), icc, conversions)


def _grey(image: Image.Image, icc: bytes | None, conversions: list[str]) -> Image.Image:
    """Convert to L."""
    if image.mode not in ("1", "L", "LA") and not _is_deep_grey(image):
        conversions.append("colour")
    image = _rgb_or_grey(image, icc, conversions)
    return image if image.mode == "L" else image.convert("L")


def _rgba(image: Image.Image, icc: bytes | None, conversions: list[str]) -> Image.Image:
    """Convert to RGBA."""
    if _is_deep_grey(image) and "transparency" in image.info:  # a PNG's one level that means transparent
        alpha = Image.fromarray(np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8))
        image = image.copy()
        del image.info["transparency"]
        image = _rgb_or_grey(image, icc, conversions).convert("RGBA")
        image.putalpha(alpha)
        return image
    if not image.has_transparency_data or _is_deep_grey(image):
        conversions.append("opaque")
        return _rgb_or_grey(image, icc, conversions).convert("RGBA")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    if icc:
        alpha = image.getchannel("A")
        colours = image.convert("RGB")
        converted = to_srgb(colours, icc, conversions)
        if converted is not colours:
            converted.putalpha(alpha)
            return converted
    return image


def _grey16(image: Image.Image, icc: bytes | None, conversions: list[str]) -> Image.Image:
    """Convert to I;16."""
    if not _is_deep_grey(image):
        conversions.append("shallow_grey")
        return Image.fromarray(np.asarray(_grey(image, icc, conversions), dtype=np.uint16) * 257)
    if icc and _transform(icc, "L"):
        conversions.append("icc_ignored")
    if image.mode == "I;16" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        conversions.append("deep_grey")
    return Image.fromarray(_scaled_grey(image, 65535, conversions).astype(np.uint16))


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _scaled_grey(image: Image.Image, full: int, conversions: list[str]) -> np.ndarray:
    """16-bit or float grey to whole numbers in 0 .. full, [H, W]; PIL's convert() would cut at 255, and give white."""
    pixels, most = np.asarray(image, dtype=np.float64), 1 if image.mode == "F" else 65535
    if not (pixels.min() >= 0 and pixels.max() <= most):  # NaN fails too
        raise BadImage(f"grey values outside 0 .. {most}")
    if "transparency" in image.info:  # a PNG's one level that means transparent
        conversions.append("alpha")
        pixels[pixels == image.info["transparency"]] = most
    return np.rint(pixels * (full / most))


def _opaque(image: Image.Image, conversions: list[str]) -> Image.Image:
    """Convert to L, RGB or CMYK, with what is transparent on white."""
    if image.has_transparency_data:
        conversions.append("alpha")
        grey = image.mode in ("L", "LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if grey else "RGB")
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def to_srgb(image: Image.Image, icc: bytes | None, conversions: list[str]) -> Image.Image:
    """Bring other colour spaces to sRGB by the embedded profile, or CMYK without one by PIL's formula."""
    if image.mode == "CMYK":
        conversions.append("cmyk")
    transform = _transform(icc, image.mode) if icc else None
    if transform is not None:
        conversions.append("icc")
        return ImageCms.applyTransform(image, transform)
    return image.convert("RGB") if image.mode == "CMYK" else image


@lru_cache(maxsize=64)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
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
