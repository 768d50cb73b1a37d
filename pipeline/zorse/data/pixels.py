"""Pixels: from an image file to a tensor, to what the networks see, and back.

The mode of a domain says what its pixels [C, H, W] are: "rgb" (C = 3), "grey" (1) and "rgba" (4) are uint8, "grey16"
(1) is int32 of 0 to 65535. The networks see [-1, 1]. Of a domain of arrays the pixels are float32 in [-1, 1] from the
start, clipped; `numbers_of` gives them their own units again.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from zorse_prep.format import Arrays, Mode, PixelMode, full_level
from zorse_prep.images import read_plain
from zorse_prep.ranges import as_type, decode_npy

FULL = {torch.uint8: full_level("rgb"), torch.int32: full_level("grey16")}  # the highest value


def decode(data: bytes, size: tuple[int, int], mode: Mode = "rgb") -> Tensor:
    """An encoded image as [C, *size] of a mode, resized bicubically with antialiasing."""
    if isinstance(mode, Arrays):
        image = of_numbers(decode_npy(data), mode)
        return image if image.shape[1:] == size else _resized(image, size)
    with read_plain(data) as opened:
        image = pixels_of(opened, mode)
    if image.shape[1:] == size:
        return image
    return _resized(image, size)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, as Pillow and torchvision do it; [C, H, W] to [C, *size] of the same type."""
    resize = partial(F.interpolate, size=size, mode="bicubic", antialias=True)
    if image.dtype == torch.uint8:
        return resize(image[None])[0]
    # Bicubic overshoots at edges, and only uint8 is clamped by torch itself.
    if image.is_floating_point():
        return resize(image[None])[0].clamp_(-1, 1)
    # Other integers by way of floats.
    return resize(image[None].float())[0].round_().clamp_(0, FULL[image.dtype]).to(image.dtype)


def of_numbers(numbers: np.ndarray, mode: Arrays) -> Tensor:
    """Numbers [..., C, H, W] in stored units to pixels. Raises ValueError for another number of channels, and NaN."""
    if numbers.shape[-3] != len(mode.channels):
        raise ValueError(f"it has {numbers.shape[-3]} channels, not {len(mode.channels)}")
    if not np.isfinite(numbers).all():
        raise ValueError("NaN or infinite values; replace them by numbers first, as numpy.nan_to_num does")
    low, high = ends(mode)
    scaled = (numbers.astype(np.float64) - low) * (2 / (high - low)) - 1
    return torch.from_numpy(scaled.clip(-1, 1).astype(np.float32))


def numbers_of(pixels: Tensor, mode: Arrays) -> np.ndarray:
    """The inverse of `of_numbers`, rounded and clipped to the type of the domain."""
    low, high = ends(mode)
    return as_type((pixels.double().numpy() + 1) * ((high - low) / 2) + low, mode.dtype)


def ends(mode: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The range of a domain of arrays by channel: what the networks see as -1 and as 1, each [C, 1, 1]."""
    return tuple(np.array(end)[:, None, None] for end in (mode.low, mode.high))


def pixels_of(image: Image.Image, mode: PixelMode) -> Tensor:
    """[C, H, W] of a mode; an image of another kind is converted."""
    deep = image.mode.startswith("I")  # 16 bits, which Pillow's own conversion would cut at 255
    if mode == "grey16":
        grey = np.asarray(image).astype(np.int32) if deep else np.asarray(image.convert("L")).astype(np.int32) * 257
        return torch.from_numpy(grey)[None]
    if deep:
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    pixels = torch.from_numpy(np.array(image.convert({"rgb": "RGB", "grey": "L", "rgba": "RGBA"}[mode])))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def image_of(pixels: Tensor, mode: PixelMode) -> Image.Image:
    """The inverse of `pixels_of`."""
    if mode == "grey16":
        return Image.fromarray(pixels[0].numpy().astype(np.uint16))
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy())


def augment(
    image: Tensor, crop: tuple[int, int], flip: bool, bits: int, *, flip_vertical: bool = False, rotate90: bool = False
) -> Tensor:
    """A crop of [C, H, W], mirrored and rotated as allowed, all chosen by 64 random bits. [C, *crop].

    rotate90: by 0 to 3 quarter turns, after the flips; the crop is square then.
    """
    height, width = crop
    top = (bits & 0xFFFFFF) % (image.shape[1] - height + 1)
    left = (bits >> 24 & 0xFFFFFF) % (image.shape[2] - width + 1)
    image = image[:, top : top + height, left : left + width]
    if flip and bits >> 48 & 1:
        image = image.flip(2)
    if flip_vertical and bits >> 49 & 1:
        image = image.flip(1)
    return image.rot90(bits >> 50 & 3, (1, 2)) if rotate90 else image


def to_network(images: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Pixels [n, C, H, W] to [-1, 1] on the device; integers travel as they are, and are scaled there."""
    if images.is_floating_point():
        return images.to(device, non_blocking=True).to(dtype)
    return images.to(device, non_blocking=True).to(dtype).div_(FULL[images.dtype] / 2).sub_(1)


def to_pixels(images: Tensor, mode: Mode = "rgb") -> Tensor:
    """[-1, 1] to the pixels of a mode, on the host; integers are rounded to the nearest."""
    if isinstance(mode, Arrays):
        return images.detach().float().clamp(-1, 1).cpu()
    kind = torch.int32 if mode == "grey16" else torch.uint8
    full = FULL[kind]
    return images.detach().float().add(1).mul(full / 2).round().clamp(0, full).to("cpu", kind)


def full_range(pixels: Tensor) -> int:
    """The difference between the highest value that pixels can have and the lowest."""
    return 2 if pixels.is_floating_point() else FULL[pixels.dtype]


def to_rgb(pixels: Tensor, mode: Mode = "rgb") -> Tensor:
    """Pixels of a mode [n, C, H, W] for the eye: uint8 [n, 3, H, W]; what is transparent lies on white. Of arrays the
    channels that are to be shown."""
    if isinstance(mode, Arrays):
        pixels = to_pixels(pixels[:, list(mode.shown)])
    if pixels.dtype != torch.uint8:
        pixels = (pixels / 257).round().to(torch.uint8)
    if pixels.shape[1] == 4:
        opaque = pixels[:, 3:] / 255
        pixels = (pixels[:, :3] * opaque + 255 * (1 - opaque)).round().to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1)
