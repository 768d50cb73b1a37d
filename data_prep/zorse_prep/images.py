"""The image policy: which bytes go into a shard as they are, which are converted and how, and which are bad.

A good JPEG is copied byte for byte, and so is a good PNG where PNG is what the policy stores. Everything else becomes
a JPEG of quality 95 without chroma subsampling, or a PNG, and each conversion is named, so that the manifest can
count it:

  bmp, gif, jpeg, png, ...  the file's format, where it could not be kept
  first_frame               of an animation, or of a file of many pages
  exif_rotated              turned upright
  deep_colour               more than 8 bits a channel in colour or with alpha: the upper 8; floats: 0 to 1, scaled
  deep_grey                 grey of more than 8 bits or of floats, scaled to what is stored
  shallow_grey              8-bit grey where 16 bits are stored: times 257
  alpha                     transparent pixels put on white
  opaque                    no transparency where alpha is stored: full alpha added
  cmyk, colour              CMYK to RGB; colour to grey
  icc, icc_ignored          a colour profile other than sRGB applied; left out, as it cannot be applied to 16-bit grey
  reduced                   made smaller
  low_contrast              grey of more than 8 bits that uses less than a quarter of the range it is stored in
  slices                    of a volume, each a sample
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zorse.errors import UserError
from zorse_prep.bmp import is_runs, read_runs
from zorse_prep.format import PixelMode
from zorse_prep.items import TIFF, what_else
from zorse_prep.pixels import MOST_PIXELS, BadImage, bands_of, convert, sums
from zorse_prep.planes import Numbers
from zorse_prep.whole import JXL, check_decoded, check_size, check_whole

# A short list keeps PIL away from formats which run other programs (EPS) or hold no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
BY_PIL = tuple(name for name in FORMATS if name != "TIFF")
JPEG_OPTIONS = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
POLICY = "good JPEG copied; others JPEG 95 4:4:4 or PNG, sRGB, upright, on white or with alpha, bicubic"
PNG_OPTIONS = {"format": "PNG"}
PNG_MODES = ("rgba", "grey16")  # what no JPEG holds
# PIL's names of the pixels in a PNG that may be copied.
PNG_KEPT = {"rgb": ("RGB", "L"), "grey": ("L",), "rgba": ("RGBA",), "grey16": ("I;16B",)}
BOXES = (b"ftyp", b"JXL ", b"jP  ")  # in bytes 4 to 8 of AVIF, HEIC, JPEG XL and JPEG 2000
ORIENTATION = 0x0112  # EXIF tag
SHALLOW_GREY = {"L;2": 85, "L;4": 17}  # PIL's names of grey PNGs' pixels, and what it multiplies their levels by


@dataclass(frozen=True)
class ImagePolicy:
    """What every image is held to. A longer side than `max_side` is reduced to it; a shorter one, after that, than
    `min_side` is bad; both in pixels. `lossless`: PNG instead of JPEG for what must be converted, good PNGs copied."""

    max_side: int
    min_side: int
    lossless: bool = False


class Prepared(NamedTuple):
    """One sample: the bytes of a member and its extension, "jpg", "png" or "npy"; names of the conversions; (width,
    height); exact sums over the pixels and over their squares, per channel of the mode, in stored levels. Of an array
    these are empty, and `numbers` has them."""

    data: bytes
    extension: str
    conversions: list[str]
    size: tuple[int, int]
    sums: list[int]
    square_sums: list[int]
    numbers: Numbers | None = None


def prepare(data: bytes, policy: ImagePolicy, mode: PixelMode = "rgb") -> Prepared:
    """Judge and, where it must be, convert one image file.

    data: the file as found; its name and extension play no part. mode: the pixels to store: 8-bit sRGB (grey may stay
    one channel, and counts as three), 8-bit grey, 8-bit sRGB with straight alpha, or 16-bit grey. Raises
    BadImage(reason).
    """
    with reasons(data):
        return _prepare(data, policy, mode)


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


def read_as(data: bytes, mode: PixelMode) -> Image.Image:
    """An image file as `prepare` would store it, but at its own size. Raises BadImage(reason)."""
    return read_noted(data, mode)[0]


def read_noted(data: bytes, mode: PixelMode) -> tuple[Image.Image, list[str]]:
    """Like `read_as`, and the names of the conversions."""
    with reasons(data):
        return _normalised(data, *open_picture(data), mode, lossless=False)


def read_plain(data: bytes) -> Image.Image:
    """An image of a tar that another program made: decoded, and no more than PIL's modes make it be converted."""
    if not data.startswith(TIFF):
        return Image.open(io.BytesIO(data), formats=BY_PIL)
    with reasons(data):
        image = open_picture(data)[0]
        return convert(image, None, "grey16", []) if image.mode in ("F", "I") else image


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
        _load_plugin("pillow_jxl", "JPEG XL", "jxl")
        return ("JXL",)
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf") and b"avif" not in data[:64]:
        _load_plugin("pillow_heif", "HEIC", "heif").register_heif_opener(thumbnails=False)
        return ("HEIF",)
    return BY_PIL


def _load_plugin(module: str, name: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        fix = f"install it with: pip install 'zorse[{extra}]'"
        raise BadImage(f"a {name} image, of which the reader is not installed; {fix}") from None


def _prepare(data: bytes, policy: ImagePolicy, mode: PixelMode) -> Prepared:
    image, conversions = open_picture(data)
    size = _reduced(image.size, policy.max_side)
    if min(size) < policy.min_side:
        reduced = f", once --max-side has reduced it to {size[0]}x{size[1]}" if size != image.size else ""
        raise BadImage(f"{image.width}x{image.height} is too small (a side under {policy.min_side} px{reduced})")
    image, conversions = _normalised(data, image, conversions, mode, policy.lossless)
    if max(image.size) > policy.max_side:
        # Reducing in two steps is quicker, but PIL has no first step for 16 bits.
        gap = None if image.mode == "I;16" else 3.0
        image = image.resize(_reduced(image.size, policy.max_side), Image.Resampling.BICUBIC, reducing_gap=gap)
        conversions.append("reduced")
    if conversions:
        extension = "png" if policy.lossless or mode in PNG_MODES else "jpg"
        data = _encode(image, extension)
        if extension == "jpg":
            image = Image.open(io.BytesIO(data))  # the statistics are those of what is stored
    else:
        extension = "png" if image.format == "PNG" else "jpg"
    return Prepared(data, extension, conversions, image.size, *sums(image, mode))


def _normalised(
    data: bytes, image: Image.Image, conversions: list[str], mode: PixelMode, lossless: bool
) -> tuple[Image.Image, list[str]]:
    """The image in the pixels that `mode` stores, and the conversions it took: none where a copy will do.

    image, conversions: as `open_picture` returns them.
    """
    icc = image.info.get("icc_profile")
    if not conversions:
        if not _is_kept_format(image, mode, lossless):
            conversions.append(image.format.lower())
        image, icc = load_picture(data, image, conversions)
    return convert(image, icc, mode, conversions), conversions


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


def _is_kept_format(image: Image.Image, mode: PixelMode, lossless: bool) -> bool:
    """Whether a file of this format is copied, if nothing else about it must change."""
    if image.format == "PNG":
        return (lossless or mode in PNG_MODES) and image.tile[0].args in PNG_KEPT[mode]
    return image.format in ("JPEG", "MPO") and mode not in PNG_MODES


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


def _reduced(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _encode(image: Image.Image, extension: str) -> bytes:
    image.info = {}  # PIL would carry comments over
    buffer = io.BytesIO()
    image.save(buffer, **(JPEG_OPTIONS if extension == "jpg" else PNG_OPTIONS))
    return buffer.getvalue()
