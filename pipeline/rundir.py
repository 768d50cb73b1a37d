"""The run directory: which configuration made it, and how to write into it so that a crash leaves no half file."""

import dataclasses
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from pipeline.config import FIXED, LEARNED, Config, Images, Losses, Networks, Optimization, Run, flag
from pipeline.errors import UserError


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


def start_run_directory(config: Config, resumed: Path | None) -> None:
    """Record the configuration. resumed: the checkpoint that the run goes on from.

    Raises UserError where there are records of training but no checkpoint: it was lost.
    """
    if not resumed:
        check_new(config.run.out)
    write_durably(config.run.out / "config.json", to_json(config) + "\n")


def check_new(out: Path) -> None:
    """Raise UserError for a run directory with records of training, where no checkpoint is."""
    if (out / "stats.jsonl").exists() or records_after(out, 0):
        raise UserError(
            f"{out} has records of a run but no checkpoint; restore its checkpoints, give another --out, or remove it"
        )


def check_file(out: Path) -> None:
    """Raise UserError where --out is no file that can be written, and make its folder."""
    if not out.name or out.is_dir():
        raise UserError(f"--out {out}: is a folder; give a file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"{out.parent}: cannot be written ({error.strerror}); give another --out") from None


def records_after(out: Path, pairs_seen: int) -> list[Path]:
    """Evaluations and sample grids of later pairs."""
    files = [*(out / "eval").glob("[0-9]*.json"), *(out / "samples").glob("[0-9]*.png")]
    return [path for path in files if path.stem.isdecimal() and int(path.stem) > pairs_seen]


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace a file's content at once, and have it on disk on return. Where it cannot be written, nothing changes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        fsync(temporary)
        temporary.rename(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
    fsync(path.parent)


def journal(event: str) -> None:
    """Tell the batch script, if one asked by naming a file in ZORSE_JOURNAL; exit codes do not reach it whole."""
    path = os.environ.get("ZORSE_JOURNAL")
    if path:
        try:
            with Path(path).open("a") as file:
                file.write(event + "\n")
        except OSError as error:
            print(f"warning: {path} cannot be written ({error.strerror}): {event}", file=sys.stderr)


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
