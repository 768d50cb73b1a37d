"""What a Translator takes and gives: PIL images, arrays and tensors, as pixels of a domain and back."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zorse.data.pixels import image_of, numbers_of, of_numbers, pixels_of, to_pixels
from zorse_prep.format import Arrays, Mode, channels_of, in_range

Picture = Image.Image | np.ndarray | Tensor
MOST = 1.5  # of floats that stand for [-1, 1], and may overshoot


def pixels_like(image: Picture, mode: Mode) -> Tensor:
    """The pixels of a mode, or floats in [-1, 1], [n, C, H, W]. Raises TypeError for what is no image."""
    if isinstance(mode, Arrays):
        return numbers_like(image, mode)
    kind, channels = torch.int32 if mode == "grey16" else torch.uint8, channels_of(mode)
    if isinstance(image, Image.Image) and min(image.size) > 0:
        return pixels_of(image, mode)[None]
    if isinstance(image, np.ndarray) and image.size > 0:
        flat = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        grey, coloured = flat.ndim == 2, flat.ndim == 3 and flat.shape[2] in (3, 4)
        if (flat.dtype == np.uint8 and (grey or coloured)) or (flat.dtype == np.uint16 and grey):
            return pixels_of(Image.fromarray(flat), mode)[None]
    if isinstance(image, Tensor) and image.numel() > 0:
        shaped = image.ndim in (3, 4) and image.shape[-3] == channels
        if shaped and (image.is_floating_point() or image.dtype == kind):
            return image.detach() if image.ndim == 4 else image.detach()[None]
    raise TypeError(
        f"cannot translate {described(image)}: give a PIL image, a uint8 array [H, W] or [H, W, C], a tensor [C, H, W] "
        f"or [N, C, H, W] of {channels} channels that is {str(kind).removeprefix('torch.')} or floats in [-1, 1], "
        "or a list of these"
    )


def numbers_like(image: Picture, mode: Arrays) -> Tensor:
    """Numbers in a domain's own units, or floats in [-1, 1], as pixels [n, C, H, W].

    Raises TypeError for others, and ValueError for NaN and for floats that are in no range.
    """
    channels = len(mode.channels)
    if isinstance(image, Tensor) and image.is_floating_point() and image.numel() > 0:
        if (most := image.abs().max().item()) > MOST or most != most:
            raise ValueError(
                f"a tensor's floats are taken for [-1, 1], and these reach {most:g}; give an array in units"
            )
        if image.ndim in (3, 4) and image.shape[-3] == channels:
            return image.detach() if image.ndim == 4 else image.detach()[None]
    elif not isinstance(image, Tensor):
        array = np.asarray(image)
        shaped = array[None] if array.ndim == 2 else array
        if array.size > 0 and array.dtype.kind in "uif" and array.ndim in (2, 3, 4) and shaped.shape[-3] == channels:
            return of_numbers(shaped if array.ndim == 4 else shaped[None], mode)
    raise TypeError(
        f"cannot translate {described(image)}: give an array of numbers [C, H, W] or [N, C, H, W] of {channels} "
        f"channels{', or [H, W],' if channels == 1 else ''} in the units of {in_range(mode)}, a tensor of floats in "
        "[-1, 1] of such a shape, or a list of these"
    )


def described(image: object) -> str:
    """What was given in place of an image."""
    given = type(image).__name__
    return f"{given} {image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray | Tensor) else given


def like(image: Picture, fake: Tensor, mode: Mode) -> Picture:
    """float32 [n, C, H, W] in [-1, 1], or pixels, as what `image` is: PIL image, array or tensor.

    To a domain of arrays, PIL images become arrays, too, [C, H, W].
    """
    wanted = isinstance(image, Tensor) and image.is_floating_point()
    fake = fake if wanted or not fake.is_floating_point() else to_pixels(fake, mode)
    if isinstance(image, Tensor):
        fake = fake.to(image.device, image.dtype if wanted else fake.dtype)
        return fake if image.ndim == 4 else fake[0]
    if isinstance(mode, Arrays):
        made = numbers_of(fake, mode)
        if np.ndim(image) == 4:
            return made
        return made[0, 0] if made.shape[1] == 1 and np.ndim(image) == 2 else made[0]
    if np.ndim(image) == 4:  # several images of a domain of arrays
        return np.stack([np.array(image_of(one, mode)) for one in fake])
    made = image_of(fake[0], mode)
    if isinstance(image, Image.Image):
        return made
    made = np.array(made)
    return made[..., None] if image.ndim == 3 and made.ndim == 2 else made
