"""The checks of a configuration that need neither data nor a device. Each failure is one line that names the fix."""

import dataclasses
import importlib.util
import re
from collections.abc import Iterable

from zorse.config.schema import FIXED, LEARNED, Config, Data, flag
from zorse.errors import UserError

POSITIVE = {
    "data": ("cache_gb", "read_timeout"),
    "output": ("log_every", "sample_every", "sample_images"),
    "images": ("load_size", "load_width", "crop_size", "crop_width"),
    "networks": ("generator_channels", "discriminator_channels", "discriminator_layers"),
    "optimization": ("batch", "lr", "lr_g", "lr_d"),
    "evaluation": ("evaluate_every",),
    "checkpointing": ("checkpoint_every", "keep", "keep_every"),
    "compute": ("processes", "grad_accum_steps", "step_timeout"),
}
AT_LEAST_ZERO = {
    "data": ("workers",),
    "output": ("profile",),
    "networks": ("generator_blocks",),
    "losses": ("cycle_weight", "identity_weight", "r1_weight", "image_pool_size"),
    "optimization": ("epochs", "decay_epochs", "warmup_pairs", "ema_pairs", "seed"),
}
AT_MOST = {
    "output": {"profile": 1000},
    "images": {"load_size": 2**14, "load_width": 2**14, "crop_size": 2**14, "crop_width": 2**14},
    "networks": {
        "generator_channels": 4096, "generator_blocks": 1000, "discriminator_channels": 4096, "discriminator_layers": 12
    },
}  # fmt: skip


def check(config: Config) -> None:
    """Raise UserError for the first value that cannot work, whatever the data."""
    for item in dataclasses.fields(config):
        if item.name != "preset":
            check_ranges(item.name, getattr(config, item.name))
    if config.optimization.epochs + config.optimization.decay_epochs == 0:
        raise UserError("--epochs 0 --decay-epochs 0: one of them must be greater than 0")

    # What options refer to: trackers, weights, names of other options, data.
    tracker, evaluation, data = config.output.tracker, config.evaluation, config.data.path
    if not tracker or ("none" in tracker and len(tracker) > 1):
        raise UserError("--tracker: give tensorboard, wandb, both, or none alone")
    if "wandb" in tracker and importlib.util.find_spec("wandb") is None:
        raise UserError("--tracker wandb: it is not installed; run: pip install wandb")
    if evaluation.feature_weights and evaluation.features != "inception_v3":
        raise UserError(f"--feature-weights is for --features inception_v3, not {evaluation.features}; drop one")
    changeable = [item.name for group in LEARNED for item in dataclasses.fields(getattr(config, group))]
    changeable = [name for name in changeable if name not in FIXED]
    for name in config.checkpointing.allow_change:
        if name not in changeable:
            raise UserError(f"--allow-change {name}: must be one of {', '.join(changeable)}")
    if (config.data.a is None) != (config.data.b is None):
        raise UserError("--a and --b go together; give both --a DIR and --b DIR")
    if config.data.a and data != Data.path:
        raise UserError("--data cannot be combined with --a and --b; give shards, or the folders of their images")
    if re.match(r"[a-z][a-z0-9+]+:/(?!/)", data):
        raise UserError(f"--data {data}: a URL has two slashes there, and a folder is given without file:")

    check_crop(config)
    check_combinations(config)


def check_ranges(group: str, options: object) -> None:
    """Raise UserError for a number of a group of options that is out of its range; one that is None is chosen later."""

    def given(names: Iterable[str]) -> list[tuple[str, float]]:
        return [(name, value) for name in names if (value := getattr(options, name)) is not None]

    for name, value in given(POSITIVE.get(group, ())):
        if not 0 < value < float("inf"):
            raise UserError(f"{flag(name)} {value}: must be greater than 0")
    for name, value in given(AT_LEAST_ZERO.get(group, ())):
        if not 0 <= value < 1e9:
            raise UserError(f"{flag(name)} {value}: must be 0 or greater, and below 1e9")
    for name, value in given(AT_MOST.get(group, ())):
        if value > AT_MOST[group][name]:
            raise UserError(f"{flag(name)} {value}: must be at most {AT_MOST[group][name]}")
    for name, value in given(("beta1", "beta2") if group == "optimization" else ()):
        if not 0 <= value < 1:
            raise UserError(f"{flag(name)} {value}: must be at least 0 and below 1")
    if group == "evaluation" and options.evaluate_images < 2:
        raise UserError(f"--evaluate-images {options.evaluate_images}: must be at least 2")


def check_crop(config: Config) -> None:
    """Raise UserError for a crop that networks or rotation cannot take, or that does not fit into the loaded image."""
    networks, images = config.networks, config.images
    multiple = networks.multiple
    # The generator halves the image twice and pads a pixel there; a discriminator's last norm needs two logits or more.
    layers = networks.discriminator_layers if networks.discriminator == "patch" else 0
    smallest = max(8, multiple, 3 * 2**layers if layers else 0)
    if multiple > 4 and networks.upsample == "resize" and networks.norm in ("instance", "batch"):
        smallest = max(smallest, 2 * multiple)  # of one pixel, enlarged, a norm leaves nothing
    if multiple == 4 and layers:
        given = f" with --discriminator-layers {networks.discriminator_layers}"
    else:
        given = f", with --generator {networks.generator} --upsample {networks.upsample}"
    for name, value in zip(("crop_size", "crop_width"), images.crop, strict=True):
        if value % multiple or value < smallest:
            raise UserError(f"{flag(name)} {value}: must be a multiple of {multiple}, and at least {smallest}{given}")
    for loaded, cropped, side in zip(images.load, images.crop, ("size", "width"), strict=True):
        if loaded < cropped:
            raise UserError(
                f"--load-{side} {loaded}: must be at least --crop-{side} ({cropped}), "
                "since crops are cut from the loaded image"
            )
    height, width = images.crop
    for domain in ("a", "b"):
        if height != width and images.rotates90(domain):
            raise UserError(
                f"--rotate90-{domain} on: needs square crops, not {width} x {height}; drop it or --crop-width"
            )


def check_combinations(config: Config) -> None:
    """Raise UserError for options that exclude each other."""
    networks, losses, compute = config.networks, config.losses, config.compute
    batch_norm, unet = networks.norm == "batch", networks.generator in ("unet_128", "unet_256")
    wide, narrow_comm = compute.dtype != "float32", compute.grad_comm_dtype != "float32"
    accumulated = compute.grad_accum_steps > 1
    excluding = (
        ("--norm batch", batch_norm, "--compile", compute.compile),
        ("--norm batch", batch_norm, "--activation-checkpointing", compute.activation_checkpointing),
        ("--norm batch", batch_norm, f"--grad-accum-steps {compute.grad_accum_steps}", accumulated),
        (f"--norm {networks.norm}", networks.norm != "instance", "--fused-norm", compute.fused_norm),
        ("--r1-weight", losses.r1_weight > 0, "--compile", compute.compile),
        ("--r1-weight", losses.r1_weight > 0, "--fused-norm", compute.fused_norm),
        (f"--generator {networks.generator}", unet, "--activation-checkpointing", compute.activation_checkpointing),
        (f"--dtype {compute.dtype}", wide, "--fused-norm", compute.fused_norm),
        (f"--dtype {compute.dtype}", wide, f"--grad-comm-dtype {compute.grad_comm_dtype}", narrow_comm),
    )
    for one, given, other, also in excluding:
        if given and also:
            raise UserError(f"{one} cannot be used with {other}; drop one of them")
