"""From options to the configuration of one run: what depends on processes and on the run directory."""

import dataclasses
import json
from pathlib import Path

from zorse.config.schema import FIXED, LEARNED, Config, Images, Losses, Networks, Optimization, Run, flag
from zorse.errors import UserError


def run_directory(config: Config) -> Path:
    """--out, or runs/ and the last name in --data, which may be a URL."""
    data = config.run.data
    name = data.partition("?")[0].rstrip("/").rpartition("/")[2] if "://" in data else Path(data).resolve().name
    return config.run.out or Path("runs") / name


def resolve(config: Config, world_size: int, mixed_precision: str) -> Config:
    """Fill in what depends on the processes and on the run directory, and refuse what does not fit them.

    A run directory that has a config.json must have been made with the same options, up to the group `run` and to what
    --allow-change names.
    """
    if mixed_precision != "no" and config.run.dtype != "float32":
        raise UserError(
            f"--dtype {config.run.dtype} and mixed precision {mixed_precision} exclude each other; drop one"
        )
    if mixed_precision == "fp16" and config.losses.r1_weight:
        # What R1 differentiates twice is not scaled, and rounds to 0 or overflows in float16.
        raise UserError("--r1-weight and mixed precision fp16 exclude each other; drop it, or use bf16")
    out = run_directory(config)
    recorded = read(out / "config.json")
    batch = config.optimization.batch
    if batch is None:
        batch = recorded.optimization.batch if recorded else world_size * config.run.accumulate
    parts = world_size * config.run.accumulate
    if batch % parts:
        raise UserError(
            f"--batch {batch}: cannot be divided over {world_size} processes x {config.run.accumulate} accumulation "
            f"steps; give a multiple of {parts}, or start another number of processes"
        )
    blocks = config.networks.generator_blocks
    if config.networks.generator in ("unet_128", "unet_256"):
        blocks = None
    elif blocks is None:
        blocks = 6 if config.images.crop_size <= 128 else 9
    layers = 1 if config.networks.discriminator == "pixel" else config.networks.discriminator_layers
    images = config.images
    square = {f"{name}_width": None for name in ("load", "crop") if len(set(getattr(images, name))) == 1}
    resolved = dataclasses.replace(
        config,
        images=dataclasses.replace(images, **square),
        networks=dataclasses.replace(config.networks, generator_blocks=blocks, discriminator_layers=layers),
        optimization=dataclasses.replace(config.optimization, batch=batch),
        run=dataclasses.replace(config.run, out=out),
    )
    if recorded:
        changes(recorded, resolved)
    return resolved


def changes(before: Config, after: Config) -> list[str]:
    """Options that define what is learned, and differ: ["--lr 0.0002 -> 0.001", ...].

    Raises UserError unless each of them can change within a run and --allow-change names it.
    """
    found = differences(before, after, LEARNED)
    fixed = [line for name, line in found.items() if name in FIXED]
    if fixed:
        raise UserError(
            f"{after.run.out} holds a run with other options that cannot change within a run ({', '.join(fixed)}); "
            "give the same ones to resume it, another --out to start a new run, or remove it"
        )
    asked = [name for name in found if name not in after.run.allow_change]
    if asked:
        raise UserError(
            f"{after.run.out} holds a run with other options ({', '.join(found[name] for name in asked)}); "
            "give the same ones, another --out to start a new run, "
            f"or add --allow-change {' '.join(asked)} to go on with them changed"
        )
    return list(found.values())


def differences(before: Config, after: Config, groups: tuple[str, ...]) -> dict[str, str]:
    """What differs, by option: {"lr": "--lr 0.0002 -> 0.001", ...}."""
    found = {}
    for group in groups:
        old, new = dataclasses.asdict(getattr(before, group)), dataclasses.asdict(getattr(after, group))
        found |= {name: f"{flag(name)} {old[name]} -> {new[name]}" for name in old if old[name] != new[name]}
    return found


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2, default=str)


def from_dict(values: dict) -> Config:
    """The inverse of to_json's dictionary. Raises TypeError or KeyError for one of another shape."""
    groups = {"images": Images, "networks": Networks, "losses": Losses, "optimization": Optimization}
    names = ("out", "init_from", "cache_dir", "feature_weights")
    paths = {name: Path(value) for name in names if (value := values["run"].get(name))}
    lists = {name: tuple(value) for name, value in values["run"].items() if isinstance(value, list)}
    run = {**values["run"], **paths, **lists}
    built = {name: group(**values[name]) for name, group in groups.items()}
    return Config(preset=values["preset"], run=Run(**run), **built)


def read(path: Path) -> Config | None:
    """The configuration a run was made with; None where there is no run."""
    try:
        return from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UserError(f"{path.parent}: is a file; give another --out") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the configuration of a run ({error}); give another --out") from None
