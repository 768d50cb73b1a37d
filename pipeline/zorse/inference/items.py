"""One image on its way: read as the networks see it, and written as what it becomes."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zorse.data.pixels import ends, image_of, numbers_of, of_numbers, pixels_of, to_rgb
from zorse.data.samples import CorruptSample
from zorse.errors import first_sentence
from zorse.inference import image_files
from zorse.inference.array_files import write_planes
from zorse.inference.image_files import Picture
from zorse.inference.options import Options
from zorse.inference.places import Places, output_files
from zorse.inference.summary import Done
from zorse.inference.translator import Translator
from zorse_prep.arrays import read_planes
from zorse_prep.format import Arrays, Mode
from zorse_prep.images import BadImage
from zorse_prep.items import NO_WHITE
from zorse_prep.ranges import decode_npy

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other file can be written, either


class Item(NamedTuple):
    """An image to translate. where: its name in messages. read: gives its bytes and the file for its translation.
    is_sample: of shards."""

    direction: str
    where: str
    read: Callable[[], tuple[bytes, Path]]
    is_sample: bool = False

    def result(self, **what: str | bool | float) -> Done:
        return Done(self.direction, self.where, **what)


class Loaded(NamedTuple):
    """pixels: [n, C, H, W] of the domain's mode, n slices of a volume, or 1. outputs: the files to write, see
    output_files. source: the file's bytes, where the translation is put into a file of the kind. clipped: the share of
    its values that lie outside the range of the domain."""

    item: Item
    picture: Picture
    pixels: Tensor
    outputs: dict[str, Path]
    source: bytes | None = None
    clipped: float = 0.0


def load_item(options: Options, translators: dict[str, Translator], places: Places, item: Item) -> Loaded | Done:
    """Read and decode an image. Raises UserError for shards that cannot be read."""
    modes = translators[item.direction].modes
    try:
        data, target = item.read()
        if options.skip_existing and places.there(item.where, target, options.also, modes):
            return item.result(skipped=True)
        if isinstance(modes[0], Arrays):
            return load_numbers(options, item, data, target, modes)
        picture = image_files.read_picture(data, modes[0])
        outputs = output_files(target, options.also, modes, picture.alpha is not None)
        return Loaded(item, picture, pixels_of(picture.image, modes[0])[None], outputs)
    except (BadImage, CorruptSample, OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "not enough memory"
        return item.result(failed=reason.replace(NO_WHITE, "the model takes photographs"))


def load_numbers(options: Options, item: Item, data: bytes, target: Path, modes: tuple[Arrays, Mode]) -> Loaded:
    """Read an image of a domain of arrays. Raises BadImage."""
    mode = modes[0]
    numbers = decode_npy(data)[None] if item.is_sample else read_planes(data, len(mode.channels), mode.axis).values
    try:
        pixels, (low, high) = of_numbers(numbers, mode), ends(mode)
    except ValueError as error:
        raise BadImage(f"{error}") from None
    shown = Picture(image_of(to_rgb(pixels[:1], mode)[0], "rgb"))
    clipped = float(((numbers < low) | (numbers > high)).mean())
    outputs = output_files(target, options.also, modes, stack=len(pixels) > 1)
    return Loaded(item, shown, pixels, outputs, None if item.is_sample else data, clipped)


def encoded(pixels: Tensor, modes: tuple[Mode, Mode], back: bool, path: Path, loaded: Loaded) -> bytes:
    """The bytes of a file of a translation, pixels [n, C, H, W], or of what it becomes when it is translated back."""
    source, mode = modes[0], modes[0 if back else 1]
    if isinstance(mode, Arrays) or len(pixels) > 1:
        numbers = numbers_of(pixels, mode) if isinstance(mode, Arrays) else _levels(pixels)
        how = (len(source.channels), source.axis) if isinstance(source, Arrays) else ()
        return write_planes(numbers, path, loaded.source, *how)
    return image_files.encode(image_files.with_alpha(image_of(pixels[0], mode), loaded.picture.alpha), path)


def _levels(pixels: Tensor) -> np.ndarray:
    """The levels of photographs, slices of a volume."""
    return pixels.numpy() if pixels.dtype == torch.uint8 else pixels.numpy().astype(np.uint16)


def write(loaded: Loaded, made: dict[str, Tensor], modes: tuple[str, str]) -> Done:
    """Encode and write all that an image becomes, or nothing. Raises OSError where no other could be written."""
    try:
        files = {}
        for name, path in loaded.outputs.items():
            if name == "pair":
                other = image_of(to_rgb(made[""][:1], modes[1])[0], "rgb")
                files[path] = image_files.encode(image_files.side_by_side(loaded.picture.image, other), path)
            else:
                files[path] = encoded(made[name], modes, name == "cycle", path, loaded)
    except Exception as error:  # PIL raises nearly anything where a kind of file cannot hold an image
        return loaded.item.result(failed=f"cannot be written ({first_sentence(error)})")
    try:
        for path, data in files.items():
            image_files.save(data, path)
    except OSError as error:
        if error.errno in FULL:
            raise
        return loaded.item.result(failed=f"{error.filename or path}: {error.strerror or error}")
    return loaded.item.result(first_frame=loaded.picture.first_frame, clipped=loaded.clipped)
