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
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from zorse_prep.format import PixelMode
from zorse_prep.items import TIFF
from zorse_prep.pictures import BY_PIL, load_picture, open_picture, reasons
from zorse_prep.pixels import BadImage, convert, sums
from zorse_prep.planes import Numbers

JPEG_OPTIONS = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
POLICY = "good JPEG copied; others JPEG 95 4:4:4 or PNG, sRGB, upright, on white or with alpha, bicubic"
PNG_OPTIONS = {"format": "PNG"}
PNG_MODES = ("rgba", "grey16")  # what no JPEG holds
# PIL's names of the pixels in a PNG that may be copied.
PNG_KEPT = {"rgb": ("RGB", "L"), "grey": ("L",), "rgba": ("RGBA",), "grey16": ("I;16B",)}


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


def _is_kept_format(image: Image.Image, mode: PixelMode, lossless: bool) -> bool:
    """Whether a file of this format is copied, if nothing else about it must change."""
    if image.format == "PNG":
        return (lossless or mode in PNG_MODES) and image.tile[0].args in PNG_KEPT[mode]
    return image.format in ("JPEG", "MPO") and mode not in PNG_MODES


def _reduced(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _encode(image: Image.Image, extension: str) -> bytes:
    image.info = {}  # PIL would carry comments over
    buffer = io.BytesIO()
    image.save(buffer, **(JPEG_OPTIONS if extension == "jpg" else PNG_OPTIONS))
    return buffer.getvalue()
