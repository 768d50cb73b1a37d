"""Trained generators from a run directory or a checkpoint, and what they were trained on."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from zorse.checkpoints import format as checkpoint
from zorse.config.resolve import from_dict
from zorse.config.schema import Config
from zorse.cyclegan.build import build_discriminator, build_generator
from zorse.directions import Direction
from zorse.errors import UserError
from zorse_prep.format import CHANNELS

Weights = Literal["auto", "raw", "ema"]


@dataclass(frozen=True)
class Trained:
    """Trained generators and where they are from.

    generators: of both directions, float32 on the CPU. weights: "raw" or "ema". modes: of both domains' images. data:
    the fingerprint of the shards.
    """

    checkpoint: Path
    pairs_seen: int
    config: Config
    data: str
    modes: dict[str, str]
    generators: nn.ModuleDict
    weights: str


TAKEN = "a run directory of pipeline/train.py, or a checkpoint"


def load_trained(model: Path, weights: Weights = "auto", taken: str = TAKEN) -> Trained:
    """Load a checkpoint, or the latest one of a run directory.

    weights: "ema" for the average, "raw" for the weights themselves, "auto" for the average if there is one. taken:
    what the caller accepts, for the message if there is none. Raises UserError if the checkpoint is damaged, or there
    is none, or it has no average.
    """
    path = whole_checkpoint(model, taken)
    try:
        state = json.loads((path / checkpoint.STATE).read_text())
        config, modes, data = from_dict(state["config"]), state["constants"]["modes"], state["constants"]["data"]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a checkpoint of this version ({problem}); give another") from None
    averaged = (path / checkpoint.EMA).exists()
    if weights == "ema" and not averaged:
        raise UserError(f"--weights ema: {path} has no average of the weights; train with --ema-pairs, or leave it out")
    weights = "ema" if averaged and weights != "raw" else "raw"
    file, prefix = (checkpoint.EMA, "") if weights == "ema" else (checkpoint.NETWORKS, "generators.")
    generators = nn.ModuleDict()
    for direction in Direction:
        ends = (CHANNELS[modes[domain]] for domain in (direction.source, direction.target))
        generators[direction] = build_generator(config.networks, *ends)
        generators[direction].load_state_dict(checkpoint.read_tensors(path / file, f"{prefix}{direction}."))
    generators = generators.float().eval().requires_grad_(False)
    return Trained(path, state["pairs_seen"], config, data, modes, generators, weights)


def load_discriminators(trained: Trained) -> nn.ModuleDict:
    """Load the discriminators of the same checkpoint: of_a and of_b, float32 on the CPU."""
    networks, discriminators = trained.config.networks, nn.ModuleDict()
    for of, domain in (("of_a", "a"), ("of_b", "b")):
        discriminators[of] = build_discriminator(networks, CHANNELS[trained.modes[domain]])
        weights = checkpoint.read_tensors(trained.checkpoint / checkpoint.NETWORKS, f"discriminators.{of}.")
        discriminators[of].load_state_dict(weights)
    return discriminators.float().eval().requires_grad_(False)


def whole_checkpoint(model: Path, taken: str = TAKEN) -> Path:
    """Find a checkpoint, or the latest one of a run directory. Raises UserError if it is damaged or there is none."""
    model = checkpoint.followed(model)
    if (model / checkpoint.STATE).exists():
        if problem := checkpoint.integrity_error(model):
            raise UserError(f"{model}: this checkpoint is damaged ({problem}); give another")
        return model
    path = checkpoint.latest_valid(model, lambda line: print(line, file=sys.stderr))
    if path is None:
        raise UserError(f"{model}: no checkpoint here; give {taken}")
    return path
