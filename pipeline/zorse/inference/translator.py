"""A trained generator as a function of images, for use in Python: Translator("runs/x")(image)."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn

from zorse.checkpoints.format import followed
from zorse.checkpoints.load import Weights, with_checkpoint
from zorse.checkpoints.records import STATE
from zorse.cyclegan.resnet import Generator
from zorse.data.pixels import to_network, to_pixels
from zorse.errors import UserError, first_sentence
from zorse.inference.banded import rows_that_fit, translate_in_bands, unseen
from zorse.inference.pictures import Picture, like, pixels_like
from zorse.interop import saved_model
from zorse.interop.model_card import model_card
from zorse_prep.format import in_range

AT_ONCE = 2**20  # pixels of images that share a call
OF_HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Precision = Literal["float32", "bfloat16", "float16"]
T = TypeVar("T")


class Translator(ModelHubMixin):
    """One direction of a CycleGAN: an image of any size to the other domain, at the same size.

    model: run directory, whose newest checkpoint is taken, one checkpoint, a directory of `save_pretrained`, or weights
    of junyanz's code (interop/junyanz.py).
    direction: "a2b" or "b2a"; by default a2b, or the one that a saved model has. device: by default a GPU where there
    is one. weights: see load_trained.
    precision: the weights are float32 in each case. "bfloat16" and "float16" compute under autocast, as training with
    mixed precision does: convolutions are narrow, and what torch holds unsafe then stays wide. float16 is the finer of
    both, but ends at 65504; bfloat16 cannot overflow.
    tile: rows that are computed at once (banded.py), with the same result; "auto" takes as many as fit into the memory
    that is free, and images that fit whole; "off" takes each image whole. Floats are always taken whole.

    Takes and gives, alone or as a list:
        a PIL image                      of the mode `modes[1]`, see data/pixels.py; one of another kind is converted
        an array uint8 [H, W(, C)]       the same, as an array (of a grey16 domain: uint16 [H, W])
        an array [H, W], [(N, )C, H, W]  of a domain of arrays, in its own units, as `modes` has them
        a tensor [C, H, W], [N, C, H, W] of the mode's channels: its integers, or floats in [-1, 1], where it lies

    `save_pretrained(directory)`, `push_to_hub("OWNER/NAME")` and `from_pretrained(either)` are those of
    huggingface_hub.ModelHubMixin; model_card_kwargs={"license": "mit"} names the licence in the card. The card is
    written anew each time, and shows sample images of the run if it has drawn any. Raises UserError where the model or
    an option cannot be used.
    """

    def __init__(
        self,
        model: str | Path,
        direction: Literal["a2b", "b2a"] | None = None,
        device: torch.device | str | None = None,
        weights: Weights = "auto",
        precision: Precision = "float32",
        tile: int | Literal["auto", "off"] = "auto",
    ):
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision}: must be one of {', '.join(PRECISIONS)}")
        if weights not in get_args(Weights):
            raise UserError(f"weights {weights}: must be one of {', '.join(get_args(Weights))}")
        if tile not in ("auto", "off") and (type(tile) is not int or tile < 1):
            raise UserError(f"tile {tile}: must be auto, off, or a number of rows")
        self.device, self.precision = usable(device), precision
        loaded = saved_model.load_one_way(Path(model), direction, weights)
        self.about, self.sample = loaded.about, loaded.sample
        self.modes = self.about["modes"]["from"], self.about["modes"]["to"]
        self.generator = loaded.generator.to(self.device)
        self.tile, self.progress = tile, unseen
        if isinstance(tile, int) and not isinstance(self.generator, Generator):
            raise UserError(f"--tile {tile}: a U-Net sees the whole image at once; give auto or off")

    def __repr__(self) -> str:
        ends = " to ".join(in_range(mode) for mode in self.modes)
        return f"Translator({self.about['direction']}, {ends}, on {self.device})"

    def __call__(self, image: Picture | list[Picture]) -> Picture | list[Picture]:
        """Images of one size in a list share calls of the generator. Raises TypeError for anything but the above."""
        images = image if isinstance(image, list) else [image]
        batches = [pixels_like(each, self.modes[0]) for each in images]
        whole = [isinstance(each, Tensor) and each.is_floating_point() for each in images]
        made = self._translate(batches, whole)
        fakes = [like(each, fake, self.modes[1]) for each, fake in zip(images, made, strict=True)]
        return fakes if isinstance(image, list) else fakes[0]

    def translate_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels [n, C, H, W] of the mode `modes[0]` to those of `modes[1]`, on the host."""
        count, _, height, width = pixels.shape
        if not (rows := self._rows(count * height, width)):
            return to_pixels(self._generate(self._to_network(pixels)), self.modes[1])
        if count > 1:
            return torch.cat([self.translate_pixels(one[None]) for one in pixels])
        with self._autocast():
            made = translate_in_bands(self.generator, pixels[0], self.modes[1], rows, progress=self.progress)
        return made[None]

    def _rows(self, height: int, width: int) -> int | None:
        """Rows of a band; None to translate the image whole."""
        if self.tile == "off" or not isinstance(self.generator, Generator):
            return None
        return rows_that_fit(self.generator, height, width) if self.tile == "auto" else self.tile

    def _translate(self, batches: list[Tensor], whole: list[bool]) -> list[Tensor]:
        """Batches [n, C, H, W] of pixels or of [-1, 1] -> float32 on the device, in [-1, 1], or pixels on the host.

        whole: which of them are never cut into bands.
        """
        places = defaultdict(list)
        fakes = [[None] * len(batch) for batch in batches]
        for number, batch in enumerate(batches):
            if not whole[number] and self._rows(*batch.shape[2:]):
                fakes[number] = list(self.translate_pixels(batch))
            else:
                places[batch.shape[2:]] += [(number, one) for one in range(len(batch))]
        for size, those in places.items():
            count = max(1, AT_ONCE // size.numel())
            for part in (those[start : start + count] for start in range(0, len(those), count)):
                real = torch.cat([self._to_network(batches[number][one : one + 1]) for number, one in part])
                for (number, one), fake in zip(part, self._generate(real), strict=True):
                    fakes[number][one] = fake
        return [torch.stack(fake) for fake in fakes]

    def _to_network(self, pixels: Tensor) -> Tensor:
        if pixels.is_floating_point():
            return pixels.to(self.device, torch.float32)
        return to_network(pixels, self.device, torch.float32)

    @torch.no_grad()
    def _generate(self, real: Tensor) -> Tensor:
        height, width = real.shape[2:]
        with self._autocast():
            fake = self.generator(pad_for(self.generator, real))[..., :height, :width].float()
        if self.precision == "float16" and not fake.isfinite().all():
            raise UserError("precision float16: activations exceed its range; use bfloat16 or float32")
        return fake

    def _autocast(self) -> torch.autocast:
        narrow = self.precision != "float32"
        return torch.autocast(self.device.type, PRECISIONS[self.precision] if narrow else None, enabled=narrow)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options) -> "Translator":
        """A directory that the constructor takes, or a model of the Hugging Face hub.

        options: those of the constructor, and the hub's revision, token, cache_dir, local_files_only, force_download.
        """
        # Not by the mixin, which would read config.json before it is judged.
        model, of_hub = pretrained_model_name_or_path, {name: options.pop(name) for name in OF_HUB if name in options}
        if not Path(model).is_dir():
            files = [saved_model.MODEL, saved_model.CONFIG, saved_model.SAMPLE]
            try:
                model = snapshot_download(str(model), allow_patterns=files, **of_hub)
            except (OSError, HFValidationError) as error:
                raise UserError(
                    f"{model}: no directory, and not to be had from the hub ({first_sentence(error)}); give a "
                    "directory, or OWNER/NAME"
                ) from error
        return cls(model, **options)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        model_card_kwargs: dict | None = None,
        **push_to_hub_kwargs,
    ) -> str | None:
        """Write the model into a directory, a new one or that of a model, and return what the mixin's method does.

        The mixin's own begins by removing any config.json. Raises UserError for files that were not written here.
        """
        generator = extract_model_from_parallel(self.generator, keep_torch_compile=False)
        card = self.generate_model_card(**(model_card_kwargs or {}))
        saved_model.write(Path(save_directory), generator, self.about, self.sample, str(card))
        if not push_to_hub:
            return None
        name = repo_id or Path(save_directory).name
        return self.push_to_hub(name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

    def generate_model_card(self, license: str | None = None) -> ModelCard:
        return model_card(self.about, saved_model.SAMPLE if self.sample else None, license)


def usable(device: torch.device | str | None) -> torch.device:
    """A device, by default a GPU where there is one. Raises UserError where it cannot be used."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # what torch raises for an unknown and for an absent device
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device}: cannot be used ({reason}); give cpu, or leave it out") from None
    return torch.device(device)


def with_newest(model: Path, load: Callable[[Path], T]) -> T:
    """load(path) of the latest checkpoint of a run directory, or of the one that `best` names, so that all is of one;
    of any other path as it is."""
    if (model / "checkpoints").is_dir() or (followed(model) / STATE).exists():
        return with_checkpoint(model, load, saved_model.TAKEN)
    return load(model)


def pad_for(generator: nn.Module, image: Tensor) -> Tensor:
    """Repeat the right and lower edges of [N, C, H, W] up to a size that the generator keeps."""
    multiple, smallest = generator.multiple, generator.smallest
    height, width = (max(smallest, -(-size // multiple) * multiple) for size in image.shape[2:])
    return F.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]), mode="replicate")
