"""From the command line to a configuration, and the checks that need no data."""

import dataclasses
import importlib.util
import re

from zorse.config.schema import FIXED, LEARNED, Config, flag
from zorse.errors import UserError


def check(config: Config) -> None:
    """Raise UserError for the first value that cannot work, whatever the data."""
    images, networks, losses, optimization, run = (getattr(config, group) for group in (*LEARNED, "run"))
    positive = {
        "generator_channels": networks.generator_channels,
        "discriminator_channels": networks.discriminator_channels,
        "discriminator_layers": networks.discriminator_layers,
        "lr": optimization.lr,
        "lr_g": optimization.lr if optimization.lr_g is None else optimization.lr_g,
        "lr_d": optimization.lr if optimization.lr_d is None else optimization.lr_d,
        "accumulate": run.accumulate,
        "status_every": run.status_every,
        "sample_every": run.sample_every,
        "sample_images": run.sample_images,
        "evaluate_every": run.evaluate_every,
        "checkpoint_every": run.checkpoint_every,
        "keep": run.keep,
        "hang_after": run.hang_after,
        "cache_gb": run.cache_gb,
        "read_timeout": run.read_timeout,
    }
    optional = (
        ("batch", optimization.batch), ("keep_every", run.keep_every), ("load_width", images.load_width),
        ("crop_width", images.crop_width),
    )  # fmt: skip
    positive |= {name: value for name, value in optional if value is not None}
    at_least_zero = {
        "generator_blocks": networks.generator_blocks or 0,
        "cycle_weight": losses.cycle_weight,
        "identity_weight": losses.identity_weight,
        "r1_weight": losses.r1_weight,
        "history": losses.history,
        "epochs": optimization.epochs,
        "decay_epochs": optimization.decay_epochs,
        "warmup_pairs": optimization.warmup_pairs,
        "ema_pairs": optimization.ema_pairs,
        "seed": optimization.seed,
        "workers": run.workers,
    }
    for name, value in positive.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{flag(name)} {value}: must be greater than 0")
    for name, value in at_least_zero.items():
        if not 0 <= value < 1e9:
            raise UserError(f"{flag(name)} {value}: must be 0 or greater, and below 1e9")
    for name, value in (("beta1", optimization.beta1), ("beta2", optimization.beta2)):
        if not 0 <= value < 1:
            raise UserError(f"{flag(name)} {value}: must be at least 0 and below 1")
    if run.evaluate_images < 2:
        raise UserError(f"--evaluate-images {run.evaluate_images}: must be at least 2")
    if not run.tracker or ("none" in run.tracker and len(run.tracker) > 1):
        raise UserError("--tracker: give tensorboard, wandb, both, or none alone")
    if "wandb" in run.tracker and importlib.util.find_spec("wandb") is None:
        raise UserError("--tracker wandb: it is not installed; run: pip install wandb")
    if run.feature_weights and run.features != "inception_v3":
        raise UserError(f"--feature-weights is for --features inception_v3, not {run.features}; drop one")
    changeable = [item.name for group in LEARNED for item in dataclasses.fields(getattr(config, group))]
    changeable = [name for name in changeable if name not in FIXED]
    for name in run.allow_change:
        if name not in changeable:
            raise UserError(f"--allow-change {name}: must be one of {', '.join(changeable)}")
    if optimization.epochs + optimization.decay_epochs == 0:
        raise UserError("--epochs 0 --decay-epochs 0: one of them must be greater than 0")
    check_crop(config)
    check_combinations(config)
    if run.dtype != "float32" and (run.fused_norm or run.reduce_in != "float32"):
        raise UserError(f"--dtype {run.dtype} excludes --fused-norm and --reduce-in {run.reduce_in}; drop one")
    if re.match(r"[a-z][a-z0-9+]+:/(?!/)", run.data):
        raise UserError(f"--data {run.data}: a URL has two slashes there, and a folder is given without file:")
    for loaded, cut, side in zip(images.load, images.crop, ("size", "width"), strict=True):
        if loaded < cut:
            raise UserError(
                f"--load-{side} {loaded}: must be at least --crop-{side} ({cut}), "
                "since crops are cut from the loaded image"
            )


def check_crop(config: Config) -> None:
    """Raise UserError for a crop that the networks cannot take."""
    networks, images = config.networks, config.images
    multiple = networks.multiple
    # The generator halves the image twice and pads a pixel there; a discriminator's last norm needs two logits or more.
    layers = networks.discriminator_layers if networks.discriminator == "patch" else 0
    smallest = max(8, multiple, 3 * 2**layers if layers else 0)
    if multiple > 4 and networks.upsample == "resize" and networks.norm != "none":
        smallest = max(smallest, 2 * multiple)  # of one pixel, enlarged, a norm leaves nothing
    for name, value in zip(("crop_size", "crop_width"), images.crop, strict=True):
        if value % multiple or value < smallest:
            raise UserError(
                f"{flag(name)} {value}: must be a multiple of {multiple}, and at least {smallest} "
                f"with --discriminator-layers {networks.discriminator_layers}"
                if multiple == 4 and layers
                else f"{flag(name)} {value}: must be a multiple of {multiple}, and at least {smallest}, "
                f"with --generator {networks.generator} --upsample {networks.upsample}"
            )


def check_combinations(config: Config) -> None:
    """Raise UserError for options that exclude each other."""
    networks, losses, run = config.networks, config.losses, config.run
    unet = networks.generator in ("unet_128", "unet_256")
    excluding = (
        ("--norm batch", networks.norm == "batch", "--compile", run.compile),
        ("--norm batch", networks.norm == "batch", "--recompute", run.recompute),
        ("--norm batch", networks.norm == "batch", f"--accumulate {run.accumulate}", run.accumulate > 1),
        (f"--norm {networks.norm}", networks.norm != "instance", "--fused-norm", run.fused_norm),
        ("--r1-weight", losses.r1_weight > 0, "--compile", run.compile),
        ("--r1-weight", losses.r1_weight > 0, "--fused-norm", run.fused_norm),
        (f"--generator {networks.generator}", unet, "--recompute", run.recompute),
    )
    for one, given, other, also in excluding:
        if given and also:
            raise UserError(f"{one} cannot be used with {other}; drop one of them")
