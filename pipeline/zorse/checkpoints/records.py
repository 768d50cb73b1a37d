"""What the JSON files of a checkpoint hold: state.json, which says where a run is, and manifest.json, which sums files.

What is read is held against these types, so that a damaged record is one line that names the file.
"""

from pathlib import Path
from typing import NotRequired, TypedDict

from zorse.config.resolve import from_dict
from zorse.config.schema import Config
from zorse.errors import UserError
from zorse.typed_json import Count, Measured, Mismatch, read
from zorse_prep.format import Mode

STATE, MANIFEST = "state.json", "manifest.json"


class FileSum(TypedDict):
    """A file of a checkpoint. history: of image pools, the slots that it has."""

    bytes: Count
    sha256: str
    history: NotRequired[list[str]]


class Modes(TypedDict):
    """The modes of both domains' images."""

    a: Mode
    b: Mode


class Constants(TypedDict):
    """What must be as before for a position in the data to mean the same images."""

    order: str
    data: str
    modes: Modes


class Layout(TypedDict):
    """What changes how a run is computed, but not what."""

    processes: Count
    accumulate: Count
    workers: Count


class Window(TypedDict):
    """The losses since the last status line, see LossWindow."""

    start: Count
    names: list[str]
    rows: list[list[float]]


class Best(TypedDict):
    """The checkpoint of the lowest distance so far."""

    pairs: Count
    metric: str
    value: Measured
    protocol: object


class LossScale(TypedDict, total=False):
    """GradScaler's state, of a run in fp16; empty where it is disabled."""

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: Count
    _growth_tracker: Count


class State(TypedDict):
    """state.json."""

    pairs_seen: Count
    lanes: Count
    constants: Constants
    how: Layout
    best: Best | None
    window: Window
    config: dict
    loss_scale: NotRequired[LossScale | None]


def how_to_mend(checkpoint: Path) -> str:
    """What a user can do about a checkpoint whose sums are right, and whose content is not."""
    return f"restore {checkpoint}, or remove it to use the one before"


def read_manifest(checkpoint: Path) -> dict[str, FileSum]:
    """The files of a checkpoint. Raises UserError, OSError."""
    return read(checkpoint / MANIFEST, dict[str, FileSum], "restore it")


def read_record(checkpoint: Path) -> tuple[State, Config]:
    """state.json, and the configuration that is in it. Raises UserError where it is not what training wrote."""
    file = checkpoint / STATE
    try:
        state = read(file, State, how_to_mend(checkpoint))
        config = from_dict(state["config"])
        if any(len(row) > len(state["window"]["names"]) for row in state["window"]["rows"]):
            raise Mismatch("window.rows has more values than window.names")
        if not state["lanes"]:
            raise Mismatch("lanes is 0")
        if (scale := state.get("loss_scale")) and (missing := LossScale.__annotations__.keys() - scale.keys()):
            raise Mismatch(f"loss_scale.{min(missing)} is missing")
    except FileNotFoundError:
        raise UserError(f"{file}: is missing; {how_to_mend(checkpoint)}") from None
    except Mismatch as error:
        raise UserError(f"{file}: {error}; {how_to_mend(checkpoint)}") from None
    return state, config
