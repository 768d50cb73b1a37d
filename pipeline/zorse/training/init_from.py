"""The weights that a new run starts from (--init-from): a run's, an exported model's, or junyanz's code's."""

import dataclasses
from functools import partial
from pathlib import Path

from torch import nn

from zorse.checkpoints.load import load_discriminators, load_trained, with_checkpoint
from zorse.config.schema import OF_DISCRIMINATORS, OF_GENERATORS, Networks, flag
from zorse.cyclegan.step import CycleGANStep
from zorse.directions import Direction
from zorse.errors import UserError
from zorse.interop import junyanz, saved_model
from zorse_prep.format import Arrays, Mode, channels_of, in_range, seen_alike


def load_initial_weights(source: Path, model: CycleGANStep, networks: Networks, modes: dict[str, Mode]) -> str:
    """Load the weights of `source` into the networks that they fit. Returns a note: whose they are, which networks are
    new, and where they were trained on arrays of another range.

    source: run directory, checkpoint, directory of an exported model, file or folder of junyanz's code. networks,
    modes: of the model. Raises UserError where there is no generator that fits the options.
    """
    found, trained_on = _found(source, networks, modes)
    for name, network in found.items():
        model.get_submodule(name).load_state_dict(network.state_dict())
    every = [
        *(f"generators.{direction}" for direction in Direction),
        *(f"discriminators.of_{domain}" for domain in "ab"),
    ]
    new = [name for name in every if name not in found]
    notes = [f"those of {source}", *([f"new ones: {', '.join(new)}, since nothing there fits them"] if new else [])]
    for domain, mode in trained_on.items():
        if not seen_alike(mode, modes[domain]):
            notes.append(
                f"trained on {in_range(mode)} in domain {domain}, and the data has {in_range(modes[domain])}, so that "
                "equal values look different to the networks"
            )
    return "; ".join(notes)


def _found(source: Path, networks: Networks, modes: dict[str, Mode]) -> tuple[dict[str, nn.Module], dict[str, Mode]]:
    """The networks found at a source, in float32, by their names in CycleGANStep; and the modes of the domains that
    they were trained on, where the source says so."""
    if files := junyanz.files(source):
        found = {}
        for name, path in files.items():
            if name.startswith("generators."):
                theirs, network, *channels = junyanz.read_generator(path)
                _check(path, networks, theirs, channels, [channels_of(modes[end]) for end in _ends(name)])
                found[name] = network
            elif network := junyanz.read_discriminator(path, networks, channels_of(modes[name[-1]])):
                found[name] = network
        return found, {}
    if (source / saved_model.MODEL).exists():
        one = saved_model.load_one_way(source)
        name = f"generators.{Direction.of(one.about['direction'])}"
        theirs = {domain: one.about["modes"][end] for domain, end in zip(_ends(name), ("from", "to"), strict=True)}
        ours = [_kind(modes[domain]) for domain in theirs]
        _check(source, networks, Networks(**one.about["networks"]), list(map(_kind, theirs.values())), ours)
        return {name: one.generator}, theirs
    try:
        return with_checkpoint(source, partial(_of_run, source, networks, modes), saved_model.TAKEN)
    except UserError as error:
        raise UserError(f"--init-from {str(error).removeprefix('--init-from ')}") from None


def _of_run(
    source: Path, networks: Networks, modes: dict[str, Mode], checkpoint: Path
) -> tuple[dict[str, nn.Module], dict[str, Mode]]:
    """The networks of one checkpoint of a run, and its modes."""
    trained = load_trained(checkpoint, "raw")
    theirs, ours = ([_kind(of[domain]) for domain in ("a", "b")] for of in (trained.modes, modes))
    _check(source, networks, trained.config.networks, theirs, ours)
    found = {f"generators.{direction}": trained.generators[direction] for direction in Direction}
    if all(getattr(trained.config.networks, name) == getattr(networks, name) for name in OF_DISCRIMINATORS):
        found |= {f"discriminators.{of}": network for of, network in load_discriminators(trained).items()}
    return found, trained.modes


def _ends(name: str) -> tuple[str, str]:
    """The domains of a generator."""
    direction = Direction(name.removeprefix("generators."))
    return direction.source, direction.target


def _kind(mode: Mode) -> str:
    """What networks must have in common: of arrays the channels, whatever their range."""
    return f"{channels_of(mode)} channels of arrays" if isinstance(mode, Arrays) else mode


def _check(source: Path, ours: Networks, theirs: Networks, their_images, our_images) -> None:
    """Raise UserError for generators of other options or of other images."""
    names = [name for name in OF_GENERATORS if getattr(ours, name) != getattr(theirs, name)]
    if names:
        has = dataclasses.asdict(theirs)
        options = " ".join(f"{flag(name)} {has[name]}" for name in names)
        raise UserError(f"--init-from {source}: has other generators than these options define; add {options}")
    if their_images != our_images:
        raise UserError(
            f"--init-from {source}: is for images of {' and '.join(map(str, their_images))}, and the data has "
            f"{' and '.join(map(str, our_images))}; make shards with other --mode-a and --mode-b, or give other weights"
        )
