"""A generator to use anywhere: a directory without pickles, that needs nothing of the run it comes from.

DIR/model.safetensors  one generator's weights, named as in cyclegan/resnet.py
DIR/config.json        what they are (`about`); written last, and until then {"zorse": ..., "complete": false}
DIR/README.md          a model card (model_card.py)
DIR/sample.png         test images and their translations, if the run has drawn any

about:
    zorse       the version that wrote it
    direction   "a2b" or "b2a"
    networks    the fields of config.schema.Networks
    modes       {"from", "to"}: of the images it takes and gives, see zorse_prep/format.py
    dtype       of the weights in the file: "float32", "float16" or "bfloat16"
    provenance  data (the shards' fingerprint), pairs_seen, weights ("raw" or "ema"), crop_size, crop_width, evaluation
                (the record in RUN/eval nearest to it, or null)
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NotRequired, TypedDict

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from zorse.checkpoints.load import Trained, Weights, load_trained
from zorse.checkpoints.tensors import load_network
from zorse.config.resolve import stored_networks
from zorse.cyclegan.build import build_generator
from zorse.directions import Direction
from zorse.errors import UserError
from zorse.files import held, load_json, write_durably, write_json
from zorse.interop import junyanz
from zorse.runs.reading import EvaluationRecord, read_evaluation
from zorse.typed_json import Count, Mismatch, plain, read, read_bytes
from zorse.version import __version__
from zorse_prep.format import CHANNELS, Mode, channels_of

MODEL, CONFIG, SAMPLE, CARD = "model.safetensors", "config.json", "sample.png", "README.md"
DIRECTIONS = tuple(direction.option for direction in Direction)
TAKEN = "the directory of a run, a checkpoint, the folder of an exported model, or a file or folder of .pth weights"
LIBRARY = "library_name: zorse"  # a line of the card
EXPORT_AGAIN = "export it again"


class Provenance(TypedDict):
    """What a model was trained on; None for what is not known."""

    data: str | None
    pairs_seen: Count | None
    weights: Literal["raw", "ema"]
    crop_size: Annotated[int, range(1, 2**14 + 1)] | None
    crop_width: NotRequired[Annotated[int, range(1, 2**14 + 1)] | None]
    evaluation: EvaluationRecord | None


class About(TypedDict):
    """config.json."""

    zorse: str
    direction: Literal["a2b", "b2a"]
    networks: dict
    modes: TypedDict("Ends", {"from": Mode, "to": Mode})
    dtype: Literal["float32", "float16", "bfloat16"]
    provenance: Provenance


@dataclass(frozen=True)
class OneWay:
    """generator: float32 on the CPU. about: see above. sample: a picture, if there is one."""

    generator: nn.Module
    about: dict
    sample: Path | None


def load_one_way(model: Path, direction: str | None = None, weights: Weights = "auto") -> OneWay:
    """One direction of a run directory, of a checkpoint, of an exported model, or of junyanz's code's weights.

    direction: by default "a2b", or the one that an exported model has. weights: see load_trained. Raises UserError
    where there is no whole model, or not of that direction or these weights.
    """
    if direction not in (None, *DIRECTIONS):
        raise UserError(f"direction {direction}: must be one of {', '.join(DIRECTIONS)}")
    if (model / MODEL).exists():
        return _read(model, direction, weights)
    if files := junyanz.files(model):
        return _of_reference(model, files, direction, weights)
    trained, direction = load_trained(model, weights, TAKEN), direction or DIRECTIONS[0]
    run = trained.checkpoint.resolve().parents[1] if trained.checkpoint.resolve().parent.name == "checkpoints" else None
    about = _about(trained, direction, nearest_evaluation(run, trained.pairs_seen, trained.weights) if run else None)
    return OneWay(
        trained.generators[Direction.of(direction)],
        about,
        nearest_sample(run, trained.pairs_seen) if run else None,
    )


def _about(trained: Trained, direction: str, evaluation: dict | None) -> dict:
    return {
        "zorse": __version__,
        "direction": direction,
        "networks": dataclasses.asdict(trained.config.networks),
        "modes": {"from": trained.modes[direction[0]], "to": trained.modes[direction[-1]]},
        "dtype": "float32",
        "provenance": {
            "data": trained.data,
            "pairs_seen": trained.pairs_seen,
            "weights": trained.weights,
            "crop_size": trained.config.images.crop_size,
            "crop_width": trained.config.images.crop_width,
            "evaluation": evaluation,
        },
    }


def nearest_evaluation(run: Path, pairs: int, weights: str) -> dict | None:
    """The record in RUN/eval nearest to a number of pairs; of equally near ones, that of the same weights."""
    found = [record for path in sorted((run / "eval").glob("*.json")) if (record := read_evaluation(path))]
    return min(found, key=lambda record: (abs(record["pairs"] - pairs), record["weights"] != weights), default=None)


def nearest_sample(run: Path, pairs: int) -> Path | None:
    """The sample grid of a run nearest to a number of pairs."""
    found = [path for path in sorted((run / "samples").glob("*.png")) if path.stem.isdecimal()]
    return min(found, key=lambda path: abs(int(path.stem) - pairs), default=None)


def _read(model: Path, direction: str | None, weights: Weights) -> OneWay:
    try:
        about = read(model / CONFIG, About, EXPORT_AGAIN)
        networks = stored_networks(about["networks"])
    except FileNotFoundError:
        raise UserError(f"{model / CONFIG}: is missing; {EXPORT_AGAIN}") from None
    except Mismatch as error:
        raise UserError(f"{model / CONFIG}: {error}; {EXPORT_AGAIN}") from None
    has, of = about["direction"], about["provenance"]["weights"]
    if direction not in (None, has):
        raise UserError(f"{model}: translates {has}, not {direction}; give another model, or {has}")
    if weights not in ("auto", of):
        raise UserError(f"--weights {weights}: {model} has {of} weights alone; give another model, or leave it out")
    build = partial(build_generator, networks, *(channels_of(about["modes"][end]) for end in ("from", "to")))
    dtypes = (getattr(torch, about["dtype"]),)
    generator, sample = load_network(build, model / MODEL, EXPORT_AGAIN, dtypes=dtypes), model / SAMPLE
    return OneWay(generator.eval().requires_grad_(False), about, sample if sample.exists() else None)


def _of_reference(model: Path, files: dict[str, Path], direction: str | None, weights: Weights) -> OneWay:
    """A single file has the direction that its name says (net_G_B), or that is asked for."""
    if weights == "ema":
        raise UserError(f"--weights ema: {model} has no average of the weights; leave it out")
    names = {each.option: f"generators.{each}" for each in Direction}
    direction = direction or next((option for option in DIRECTIONS if names[option] in files), "a2b")
    unsaid = model.is_file() and not any(theirs in model.name for theirs in junyanz.FILES.values())
    file = model if unsaid else files.get(names[direction])
    if not file:
        raise UserError(
            f"{model}: has no generator {direction}, which would be a "
            f"{junyanz.FILES[names[direction]]}.pth; give another direction, or other weights"
        )
    networks, generator, *channels = junyanz.read_generator(file)
    modes = {number: mode for mode, number in reversed(CHANNELS.items())}
    if unknown := [number for number in channels if number not in modes]:
        raise UserError(f"{file}: is for images of {unknown[0]} channels, which no image file has")
    about = {
        "zorse": __version__,
        "direction": direction,
        "networks": dataclasses.asdict(networks),
        "modes": {end: modes[number] for end, number in zip(("from", "to"), channels, strict=True)},
        "dtype": "float32",
        "provenance": {"data": None, "pairs_seen": None, "weights": "raw", "crop_size": None, "evaluation": None},
    }
    return OneWay(generator.eval().requires_grad_(False), about, None)


def write(out: Path, generator: nn.Module, about: dict, sample: Path | None, card: str) -> None:
    """Write all files, each whole; config.json last, so that without it nothing here counts as a model.

    Raises UserError where something else is there under one of their names, or another process writes there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with held(out, f"{out}: another process is writing a model there; wait for it, or give another folder"):
        check_ours(out)
        dtype = getattr(torch, about["dtype"])
        weights = generator.state_dict().items()
        tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights}
        picture = read_bytes(sample) if sample else None  # first, since it may lie in `out`
        write_json(out / CONFIG, {"zorse": about["zorse"], "complete": False})  # claims the folder
        (out / SAMPLE).unlink(missing_ok=True)
        write_durably(out / MODEL, to_bytes(tensors, {"format": "pt"}))
        if picture:
            write_durably(out / SAMPLE, picture)
        write_durably(out / CARD, card)
        write_durably(out / CONFIG, json.dumps(about, indent=2, default=plain) + "\n")


def check_ours(out: Path) -> None:
    """Raise UserError where a folder has files under a model's names that were not written here.

    config.json and the card show that they were; a model or a picture counts as what lies beside these.
    """
    about = load_json(out / CONFIG) or {}
    shown = {CONFIG: "zorse" in about and bool({"direction", "complete"} & about.keys())}
    if (out / CARD).exists() and (out / CARD).stat().st_size:
        shown[CARD] = LIBRARY in (out / CARD).read_text(errors="replace").splitlines()
    for name in (CONFIG, CARD, MODEL, SAMPLE):
        if (out / name).exists() and not shown.get(name, any(shown.values())):
            raise UserError(f"{out / name}: already exists and holds something else; give another folder")
