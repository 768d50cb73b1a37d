"""Complete the options to the configuration of one run, which depends on the ranks and on the run directory."""

import dataclasses
import json
import os
from pathlib import Path

from zorse.config.schema import (
    FIXED,
    LEARNED,
    Checkpointing,
    Compute,
    Config,
    Data,
    Evaluation,
    Images,
    Losses,
    Networks,
    Optimization,
    Output,
    flag,
)
from zorse.config.validation import check_ranges
from zorse.errors import UserError
from zorse.typed_json import Mismatch, convert, parse, read_bytes, reason

GROUPS = {
    "data": Data, "output": Output, "images": Images, "networks": Networks, "losses": Losses,
    "optimization": Optimization, "evaluation": Evaluation, "checkpointing": Checkpointing, "compute": Compute,
}  # fmt: skip
# What options were called in version 0.1, which had all groups but those of LEARNED in one, "run".
OLD_NAMES = {
    "path": "data", "log_every": "status_every", "best_metric": "best_by", "grad_accum_steps": "accumulate",
    "activation_checkpointing": "recompute", "grad_comm_dtype": "reduce_in", "step_timeout": "hang_after",
    "image_pool_size": "history",
}  # fmt: skip
# Options of what is learned that came later, and the values which stand for what was done before them.
ADDED = {
    "images": {"flip_vertical_a": "off", "flip_vertical_b": "off", "rotate90_a": "off", "rotate90_b": "off"},
}


def run_directory(config: Config) -> Path:
    """--out, or runs/ and the last name in --data, which may be a URL, or the names of --a and --b."""
    data = config.data.path
    if config.data.a:
        data = "2".join(Path(os.path.abspath(path)).name for path in (config.data.a, config.data.b))  # noqa: PTH100
    name = data.partition("?")[0].rstrip("/").rpartition("/")[2] if "://" in data else Path(data).resolve().name
    return config.output.out or Path("runs") / name


def resolve(config: Config, world_size: int, mixed_precision: str) -> Config:
    """Fill in what depends on the ranks and on the run directory.

    mixed_precision: accelerate's "no", "bf16" or "fp16". Raises UserError for options that do not fit them, and for a
    run directory whose config.json has other values of what is learned than --allow-change permits.
    """
    if mixed_precision != "no" and config.compute.dtype != "float32":
        raise UserError(
            f"--dtype {config.compute.dtype} and mixed precision {mixed_precision} cannot be combined; drop one"
        )
    if mixed_precision == "fp16" and config.losses.r1_weight:
        # The penalty is differentiated twice, and its gradients are not scaled: they underflow or overflow in float16.
        raise UserError("--r1-weight and mixed precision fp16 cannot be combined; drop it, or use bf16")

    # The global batch: as given, as at the first start, or one pair per rank and micro-batch.
    out = run_directory(config)
    recorded = read(out / "config.json")
    batch, accum_steps = config.optimization.batch, config.compute.grad_accum_steps
    if batch is None:
        batch = recorded.optimization.batch if recorded else world_size * accum_steps
    parts = world_size * accum_steps
    if batch % parts:
        of_run = config.optimization.batch is None and recorded is not None  # nobody gave it now
        fix = f"give a multiple of {parts}" + (" and --allow-change batch" if of_run else "")
        raise UserError(
            f"--batch {batch}{', which the run began with' if of_run else ''}: cannot be divided over {world_size} "
            f"processes x {accum_steps} accumulation steps; {fix}, or launch another number of processes"
        )

    # What the networks and images need is written out, so that two ways to ask for the same are recorded alike.
    networks, images = config.networks, config.images
    blocks = networks.generator_blocks
    if networks.generator in ("unet_128", "unet_256"):
        blocks = None
    elif blocks is None:
        blocks = 6 if images.crop_size <= 128 else 9
    layers = 1 if networks.discriminator == "pixel" else networks.discriminator_layers
    square = {f"{name}_width": None for name in ("load", "crop") if len(set(getattr(images, name))) == 1}
    resolved = dataclasses.replace(
        config,
        images=dataclasses.replace(images, **square),
        networks=dataclasses.replace(networks, generator_blocks=blocks, discriminator_layers=layers),
        optimization=dataclasses.replace(config.optimization, batch=batch),
        output=dataclasses.replace(config.output, out=out),
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
            f"{after.output.out} holds a run with other options that cannot change within a run ({', '.join(fixed)}); "
            "give the same ones to resume it, another --out to start a new run, or remove it"
        )
    asked = [name for name in found if name not in after.checkpointing.allow_change]
    if asked:
        raise UserError(
            f"{after.output.out} holds a run with other options ({', '.join(found[name] for name in asked)}); "
            "give the same ones, another --out to start a new run, "
            f"or add --allow-change {' '.join(asked)} to continue with them changed"
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


def from_dict(values: object) -> Config:
    """The inverse of to_json's dictionary, also of version 0.1's and of those without the options in ADDED.

    Every value is held against the types, choices and ranges that options have here. Raises Mismatch.
    """
    values = convert(values, dict[str, object])
    if not values.keys() & {"run", *GROUPS}:
        raise Mismatch("holds no options of a run")
    values = _from_version_0_1(values) if "run" in values else values
    for group, added in ADDED.items():
        values[group] = added | convert(values.get(group), dict[str, object], group)
    for group in GROUPS:
        require_options(group, values.get(group), group)
    config = convert(values, Config)
    for group in GROUPS:
        check_stored(group, getattr(config, group))
    if min(config.eval_size) < 1:
        raise Mismatch(f"images.load_size is {config.images.load_size}, which is too small for the networks")
    return config


def stored_networks(values: object) -> Networks:
    """The networks of an exported model, held against what this version knows. Raises Mismatch."""
    require_options("networks", values, "networks")
    networks = convert(values, Networks, "networks")
    check_stored("networks", networks)
    return networks


def require_options(group: str, values: object, name: str) -> None:
    """Raise Mismatch for options that are missing where they define what is learned: a default would be a guess."""
    there = convert(values, dict[str, object], name)
    missing = [item.name for item in dataclasses.fields(GROUPS[group]) if item.name not in there]
    if missing and group in LEARNED:
        raise Mismatch(f"{group}.{missing[0]} is missing")


def check_stored(group: str, options: object) -> None:
    """Raise Mismatch for a value out of its range."""
    try:
        check_ranges(group, options)
    except UserError as error:
        raise Mismatch(f"{group}: {error}") from None
    is_resnet = group == "networks" and options.generator not in ("unet_128", "unet_256")
    if is_resnet and options.generator_blocks is None:  # which a command line may leave out, and no record does
        raise Mismatch("networks.generator_blocks is null, and must be a whole number")


def _from_version_0_1(values: dict) -> dict:
    flat = {}
    for group in ("run", *LEARNED):
        flat |= convert(values.get(group), dict[str, object], group)
    groups = {}
    for group, kind in GROUPS.items():
        names = {item.name: OLD_NAMES.get(item.name, item.name) for item in dataclasses.fields(kind)}
        groups[group] = {name: flat.pop(old) for name, old in names.items() if old in flat}
    if flat:
        raise Mismatch(f"{min(flat)} is unknown to this version")
    return {"preset": values.get("preset"), **groups}


def read(path: Path, instead: str = "give another --out") -> Config | None:
    """The configuration a run was made with; None where there is no run. instead: what a user can do, if it is damaged.

    Raises UserError.
    """
    try:
        return from_dict(parse(read_bytes(path)))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UserError(f"{path.parent}: is a file; {instead}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason(error)}; restore it, or {instead}") from None
