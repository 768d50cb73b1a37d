"""Trained generators from a run directory or a checkpoint, and what they were trained on."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from torch import nn

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.records import how_to_mend, read_manifest, read_record
from zorse.checkpoints.tensors import load_network
from zorse.config.schema import Config
from zorse.cyclegan.build import build_discriminator, build_generator
from zorse.directions import Direction
from zorse.errors import UserError
from zorse_prep.format import Mode, channels_of

log = logging.getLogger(__name__)

T = TypeVar("T")
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
    modes: dict[str, Mode]
    generators: nn.ModuleDict
    weights: str


TAKEN = "the directory of a run, or a checkpoint"


def load_trained(model: Path, weights: Weights = "auto", taken: str = TAKEN) -> Trained:
    """Load a checkpoint, or the latest one of a run directory.

    weights: "ema" for the average, "raw" for the weights themselves, "auto" for the average if there is one. taken:
    what the caller accepts, for the message if there is none. Raises UserError if the checkpoint is damaged, or there
    is none, or it has no average.
    """
    return with_checkpoint(model, partial(_load, weights=weights), taken)


def _load(path: Path, weights: Weights) -> Trained:
    """Load an intact checkpoint."""
    state, config = read_record(path)
    averaged, modes = checkpoint.EMA in read_manifest(path), state["constants"]["modes"]
    if weights == "ema" and not averaged:
        raise UserError(f"--weights ema: {path} has no average of the weights; train with --ema-pairs, or leave it out")
    weights = "ema" if averaged and weights != "raw" else "raw"
    file, prefix = (checkpoint.EMA, "") if weights == "ema" else (checkpoint.NETWORKS, "generators.")
    generators = nn.ModuleDict()
    for direction in Direction:
        ends = (channels_of(modes[domain]) for domain in (direction.source, direction.target))
        build = partial(build_generator, config.networks, *ends)
        generators[direction] = load_network(build, path / file, how_to_mend(path), prefix=f"{prefix}{direction}.")
    generators = generators.eval().requires_grad_(False)
    return Trained(path, state["pairs_seen"], config, state["constants"]["data"], modes, generators, weights)


def load_discriminators(trained: Trained) -> nn.ModuleDict:
    """Load the discriminators of the same checkpoint: of_a and of_b, float32 on the CPU."""
    file, discriminators = trained.checkpoint / checkpoint.NETWORKS, nn.ModuleDict()
    for of, domain in (("of_a", "a"), ("of_b", "b")):
        build = partial(build_discriminator, trained.config.networks, channels_of(trained.modes[domain]))
        fix = how_to_mend(trained.checkpoint)
        discriminators[of] = load_network(build, file, fix, prefix=f"discriminators.{of}.")
    return discriminators.eval().requires_grad_(False)


def with_checkpoint(
    model: Path, load: Callable[[Path], T], taken: str = TAKEN, warn: Callable[[str], None] = log.warning
) -> T:
    """load(path) of a checkpoint, or of the latest one of a run directory.

    warn: is told which damaged ones are passed over. Where a run that trains on removes the checkpoint meanwhile, its
    then latest one is loaded. Raises UserError as `whole_checkpoint` and `load` do.
    """
    for _ in range(checkpoint.ATTEMPTS):
        path = whole_checkpoint(model, taken, warn)
        try:
            return load(path)
        except (UserError, OSError):
            if path.exists():
                raise
    raise UserError(f"{model}: {checkpoint.TOO_FAST}")


def whole_checkpoint(model: Path, taken: str = TAKEN, warn: Callable[[str], None] = log.warning) -> Path:
    """Find a checkpoint, or the latest one of a run directory. Raises UserError if it is damaged or there is none.

    RUN/checkpoints/best, and any other link, is followed once, so that all files are those of one checkpoint.
    """
    while True:
        path = checkpoint.followed(model)
        if not any((path / name).exists() for name in (checkpoint.STATE, checkpoint.NETWORKS)):
            break
        problem = checkpoint.integrity_error(path)
        if problem is None:
            return path
        if path.exists():
            raise UserError(f"{path}: this checkpoint is damaged ({problem}); give another")
    path = checkpoint.latest_valid(model, warn)
    if path is None:
        raise UserError(f"{model}: no checkpoint here; give {taken}")
    return path
