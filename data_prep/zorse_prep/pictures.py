"""Photographs as Pillow opens them: which kinds, whether they are whole, and what decoding them takes."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zorse.errors import UserError
from zorse_prep.bmp import is_runs, read_runs
from zorse_prep.items import TIFF, what_else
from zorse_prep.pixels import MOST_PIXELS, BadImage, bands_of
from zorse_prep.whole import JXL, check_decoded, check_size, check_whole

# A short list keeps PIL away from formats which run other programs (EPS) or hold no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
BY_PIL = tuple(name for name in FORMATS if name != "TIFF")
BOXES = (b"ftyp", b"JXL ", b"jP  ")  # in bytes 4 to 8 of AVIF, HEIC, JPEG XL and JPEG 2000
ORIENTATION = 0x0112  # EXIF tag
SHALLOW_GREY = {"L;2": 85, "L;4": 17}  # PIL's names of grey PNGs' pixels, and what it multiplies their levels by


@contextmanager
def reasons(data: bytes) -> Iterator[None]:
    """Turn whatever PIL raises for broken files into BadImage."""
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd metadata; what counts is judged here
            yield
    except (BadImage, UserError, MemoryError):
        raise
    except UnidentifiedImageError:
        if data[4:8] in BOXES:
            raise BadImage("cannot be decoded: its header is damaged, or of an unknown kind") from None
        raise BadImage(what_else(data) or f"not an image ({', '.join(FORMATS)} are read)") from None
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MOST_PIXELS / 1e6:.0f} million pixels") from None
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        raise BadImage(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from None


def open_picture(data: bytes) -> tuple[Image.Image, list[str]]:
    """An image of which the size is known, and the names of conversions that were part of its opening.

    A TIFF is decoded here; the others are when they are loaded.
    """
    if data.startswith(TIFF):
        from zorse_prep.tiff import read_tiff  # of many megabytes, for few

        try:
            image, conversions = read_tiff(data)
        except OSError:
            if data[128:132] == b"DICM":  # DICOM may have anything in front, and some has this
                raise BadImage(what_else(data)) from None
            raise
        return image, ["tiff", *conversions]
    check_size(data)
    image = Image.open(io.BytesIO(data), formats=formats_for(data))
    check_whole(data, image.format)
    return image, []


def formats_for(data: bytes) -> tuple[str, ...]:
    """PIL's names of the formats that a file of these first bytes may have, after the plug-in of HEIF or JPEG XL is
    loaded. Raises BadImage where that is not installed."""
    if data.startswith(JXL):
        _load_plugin("pillow_jxl", "JPEG XL", "pillow-jxl-plugin")
        return ("JXL",)
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf") and b"avif" not in data[:64]:
        _load_plugin("pillow_heif", "HEIC", "pillow-heif").register_heif_opener(thumbnails=False)
        return ("HEIF",)
    return BY_PIL


def _load_plugin(module: str, name: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise BadImage(f"a {name} image, of which the reader is not installed; run: pip install {package}") from None


def load_picture(data: bytes, image: Image.Image, conversions: list[str]) -> tuple[Image.Image, bytes | None]:
    """An image that PIL has opened, decoded and upright, and its colour profile."""
    # A phone's MPO is a JPEG with further pictures after it, which no JPEG decoder reads.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        conversions.append("first_frame")
    is_deep, raw_mode = _is_deep_colour(image, data), image.tile[0].args if image.format == "PNG" else None
    if is_runs(image):
        image = read_runs(data, image)
    image.load()
    check_decoded(data, image)
    icc = image.info.get("icc_profile")
    if is_deep:
        conversions.append("deep_colour")
    # The level or colour that stands for transparent is left as the file has it, where PIL scales the pixels.
    if "transparency" in image.info and raw_mode in SHALLOW_GREY:
        image.info["transparency"] *= SHALLOW_GREY[raw_mode]
    elif "transparency" in image.info and is_deep:
        image = _with_alpha_of_16_bits(data, image)
    if image.format != "JXL" and _orientation(image) in range(2, 9):  # whose decoder turns it
        conversions.append("exif_rotated")
        image = ImageOps.exif_transpose(image)
    return image, icc


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # metadata that cannot be read turns nothing, and spoils no picture
        return 1


def _with_alpha_of_16_bits(data: bytes, image: Image.Image) -> Image.Image:
    """A PNG of which one colour is transparent, and not also those that share its upper 8 bits."""
    low = Image.open(io.BytesIO(data), formats=["PNG"])
    low.tile = [low.tile[0]._replace(args="RGB;16L")]  # as if the lower byte came first, so that PIL keeps that one
    low.load()
    alpha = Image.new("L", image.size)
    for band in bands_of(image):
        levels = np.asarray(image.crop(band)).astype(np.uint16) << 8 | np.asarray(low.crop(band))
        is_clear = (levels == image.info["transparency"]).all(2)
        alpha.paste(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)), band)
    del image.info["transparency"]
    image.putalpha(alpha)
    return image


def _is_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Whether PIL reduces the channels to 8 bits while it decodes, which it does for all but single ones."""
    if image.format in ("AVIF", "HEIF"):
        return _bits_of_boxes(data) > 8
    if image.mode not in ("RGB", "RGBA", "CMYK"):
        return False
    if image.format == "JPEG2000":
        return bits_of_jpeg2000(data) > 8
    if image.format == "PPM":
        return image.tile[0].codec_name != "raw" and image.tile[0].args[1] > 255  # the largest value in the file
    return image.format == "PNG" and "16" in image.tile[0].args


def _bits_of_boxes(data: bytes) -> int:
    """Bits of a channel, by the settings of the codec that an AVIF or HEIC holds; 8 where there are none."""
    av1, hevc = data.find(b"av1C"), data.find(b"hvcC")
    if 0 <= av1 < len(data) - 6:
        return 10 if data[av1 + 6] & 0x40 else 8
    return 8 + (data[hevc + 21] & 7) if 0 <= hevc < len(data) - 21 else 8


def bits_of_jpeg2000(data: bytes) -> int:
    """Bits of the first channel; 0 where there is none."""
    at = data.find(b"\xff\x4f\xff\x51") + 42  # the depths follow the sizes and the number of channels
    return (data[at] & 0x7F) + 1 if 42 <= at < len(data) else 0
