"""The resolved plan of a run, for --dry-run."""

from rich.console import Console
from rich.table import Table
from torch import nn

from zorse.config.schema import Config
from zorse.cyclegan.build import parameter_count
from zorse.data.dataset import Shards
from zorse.data.order import Share
from zorse.training.schedule import peak_rates, total_pairs
from zorse_prep.format import CHANNELS


def print_plan(config: Config, shards: Shards, share: Share, model: nn.Module, mixed_precision: str) -> None:
    """What a run would do, for --dry-run."""
    optimization, size = config.optimization, config.images.crop
    pairs, epoch = total_pairs(optimization, shards.epoch), shards.epoch
    slots, item = len(share.slots), 8 if config.run.dtype == "float64" else 4
    places = config.losses.history + 1 if config.losses.history else 0
    channels = [CHANNELS[mode] for mode in shards.modes.values()]
    generator, discriminator = model.generators["a_to_b"], model.discriminators["of_a"]
    tests = " + ".join(str(len(split) if split else 0) for split in (shards.test_a, shards.test_b))
    mirrored = [domain for domain in ("a", "b") if config.images.mirrored(domain)]
    flipped = f"mirrored half of the time: {' and '.join(mirrored)}" if mirrored else "never mirrored"
    steps = -(-pairs // optimization.batch)
    of_g, of_d = peak_rates(optimization)
    rates = f"{of_g:g}" if of_g == of_d else f"{of_g:g} (generators) and {of_d:g} (discriminators)"
    falling = {"linear": "to 0", "cosine": "along a cosine to 0", "constant": "as high"}[optimization.lr_policy]
    warmup = f", after a rise over {optimization.warmup_pairs} pairs," if optimization.warmup_pairs else ""
    blocks = f", {config.networks.generator_blocks} residual blocks" if hasattr(generator, "blocks") else ""
    dropped = ", dropout" if config.networks.dropout else ""
    bounded = ", spectral norm" if config.networks.spectral_norm else ""
    how = {
        "compiled networks": config.run.compile, "fused norm": config.run.fused_norm,
        "a CUDA graph": config.run.cuda_graph, "recomputed blocks": config.run.recompute,
        "gradients added up in bfloat16": config.run.reduce_in != "float32",
    }  # fmt: skip
    rows = {
        "data": f"{shards.root}: {len(shards.train_a)} + {len(shards.train_b)} training images, {tests} test images",
        "images": f"{shards.modes['a']} and {shards.modes['b']}, "
        f"loaded at {by(config.images.load)}, cropped to {by(size)}, {flipped}",
        "length": f"{pairs} pairs = {steps} steps = {pairs / epoch:g} epochs of {epoch} pairs",
        "learning rate": f"{rates}{warmup} for {optimization.epochs:g} epochs, "
        f"then {falling} over {optimization.decay_epochs:g}",
        "batch": f"{optimization.batch} = {share.world_size} processes x {share.accumulate} micro-steps "
        f"x {share.each} pairs",
        "generators": f"2 x {parameter_count(generator):,} parameters: {config.networks.generator}"
        f"{blocks}, {config.networks.norm} norm{dropped}",
        "discriminators": f"2 x {parameter_count(discriminator):,} parameters: "
        f"{config.networks.discriminator}{bounded}",
        "image history": f"{config.losses.history} images a slot, {slots} slots a process: "
        f"{slots * places * sum(channels) * size[0] * size[1] * item / 2**20:.0f} MiB a process",
        "precision": config.run.dtype
        if mixed_precision == "no"
        else f"{mixed_precision} over {config.run.dtype} weights",
        "besides": ", ".join(name for name, used in how.items() if used),
        "weights": f"those of {config.run.init_from}" if config.run.init_from else "",
        "run directory": str(config.run.out),
    }
    table = Table.grid(padding=(0, 3))
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # of a log, whose lines should not be broken
    console.print(f"The plan with preset {config.preset} (dry run: nothing is written)\n")
    console.print(table)


def by(size: tuple[int, int]) -> str:
    """Height and width for the eye."""
    return f"{size[0]}" if size[0] == size[1] else f"{size[1]} x {size[0]}"
