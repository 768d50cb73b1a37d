"""The resolved plan of a run, for --dry-run."""

from accelerate import Accelerator
from rich.table import Table

from zorse.checkpoints import format as checkpoint
from zorse.config.schema import Config, Images
from zorse.cyclegan.build import parameter_count
from zorse.cyclegan.step import CycleGANStep
from zorse.data.dataset import Shards
from zorse.data.order import RankSlice
from zorse.terminal import report_console
from zorse.training.init_from import load_initial_weights
from zorse.training.launch import about_cpu
from zorse.training.schedule import peak_rates, total_pairs
from zorse.training.state import build_model
from zorse_prep.format import channels_of, in_range


def print_plan(config: Config, shards: Shards, rank_slice: RankSlice, accelerator: Accelerator) -> int:
    """Print what a run would do; nothing is written. Returns the exit code.

    Raises UserError for data or initial weights that do not fit the options.
    """
    model = build_model(config, shards.modes, accelerator.device)
    source, weights = config.checkpointing.init_from, ""
    if source and checkpoint.list_checkpoints(config.output.out):
        weights = "those of the run's own checkpoint, so that --init-from is not used"
    elif source:
        weights = load_initial_weights(source, model, config.networks, shards.modes)
    if not accelerator.is_main_process:
        return 0
    long = about_cpu(config, total_pairs(config.optimization, shards.epoch), accelerator.device)
    rows = {
        **_data_rows(config, shards, rank_slice),
        **_network_rows(config, shards, rank_slice, model),
        **_compute_rows(config, accelerator.mixed_precision),
        "weights": weights,
        "run directory": str(config.output.out),
        "warning": (long or "").removeprefix("warning: "),
    }
    table = Table.grid(padding=(0, 3))
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console = report_console()
    console.print(f"The plan with preset {config.preset} (dry run: nothing is written)\n")
    console.print(table)
    return 0


def _data_rows(config: Config, shards: Shards, rank_slice: RankSlice) -> dict[str, str]:
    """Images, length, learning rates and batch."""
    optimization, images = config.optimization, config.images
    tests = " + ".join(str(len(split) if split else 0) for split in (shards.test_a, shards.test_b))
    pairs, epoch = total_pairs(optimization, shards.epoch), shards.epoch
    of_g, of_d = peak_rates(optimization)
    rates = f"{of_g:g}" if of_g == of_d else f"{of_g:g} (generators) and {of_d:g} (discriminators)"
    warmup = f", after a warm-up of {optimization.warmup_pairs} pairs," if optimization.warmup_pairs else ""
    decay = {"linear": "decays to 0", "cosine": "decays along a cosine to 0", "constant": "stays"}
    return {
        "data": f"{shards.root}: {len(shards.train_a)} + {len(shards.train_b)} training images, {tests} test images",
        "images": f"{in_range(shards.modes['a'])} and {in_range(shards.modes['b'])}, "
        f"loaded at {size_text(images.load)}, cropped to {size_text(images.crop)}, {_augmentation(images)}",
        "length": f"{pairs} pairs = {-(-pairs // optimization.batch)} steps = {pairs / epoch:g} epochs "
        f"of {epoch} pairs",
        "learning rate": f"{rates}{warmup} for {optimization.epochs:g} epochs, "
        f"then {decay[optimization.lr_policy]} over {optimization.decay_epochs:g}",
        "batch": f"{optimization.batch} = {number(rank_slice.world_size, 'process', 'es')} x "
        f"{number(rank_slice.accum_steps, 'accumulation step')} x {number(rank_slice.micro_batch_size, 'pair')}",
    }


def number(count: int, what: str, plural: str = "s") -> str:
    """A count with its noun."""
    return f"{count} {what}{plural if count != 1 else ''}"


def _augmentation(images: Images) -> str:
    """How crops are augmented, and of which domains."""
    kinds = {
        "mirrored half of the time": images.flips,
        "upside down half of the time": images.flips_vertical,
        "rotated by quarter turns": images.rotates90,
    }
    told = []
    for kind, applies in kinds.items():
        if domains := [domain for domain in ("a", "b") if applies(domain)]:
            told.append(f"{kind}: {' and '.join(domains)}")
    return "; ".join(told) or "never mirrored"


def _network_rows(config: Config, shards: Shards, rank_slice: RankSlice, model: CycleGANStep) -> dict[str, str]:
    """Sizes of the networks and of the image pools."""
    networks, losses = config.networks, config.losses
    generator, discriminator = model.generators["a_to_b"], model.discriminators["of_a"]
    blocks = f", {number(networks.generator_blocks, 'residual block')}" if hasattr(generator, "blocks") else ""
    dropout = ", dropout" if networks.dropout else ""
    spectral = ", spectral norm" if networks.spectral_norm else ""
    # Of the pools: a place more than images in each slot, see ImagePool.
    slots, places = len(rank_slice.slots), losses.image_pool_size + 1 if losses.image_pool_size else 0
    channels, item = (
        sum(channels_of(mode) for mode in shards.modes.values()),
        8 if config.compute.dtype == "float64" else 4,
    )
    mib = slots * places * channels * config.images.crop[0] * config.images.crop[1] * item / 2**20
    return {
        "generators": f"2 x {parameter_count(generator):,} parameters: {networks.generator}{blocks}, "
        f"{networks.norm.replace('none', 'no')} norm{dropout}",
        "discriminators": f"2 x {parameter_count(discriminator):,} parameters: {networks.discriminator}{spectral}",
        "image pools": f"{losses.image_pool_size} images per slot, {number(slots, 'slot')} per process: {mib:.0f} MiB",
    }


def _compute_rows(config: Config, mixed_precision: str) -> dict[str, str]:
    """Precision, and the options that are on."""
    compute = config.compute
    options = {
        "compiled networks": compute.compile,
        "fused norm": compute.fused_norm,
        "CUDA graph": compute.cuda_graph,
        "activation checkpointing": compute.activation_checkpointing,
        "gradients all-reduced in bfloat16": compute.grad_comm_dtype != "float32",
    }
    narrow = f"{mixed_precision} over {compute.dtype} weights"
    return {
        "precision": compute.dtype if mixed_precision == "no" else narrow,
        "options": ", ".join(name for name, used in options.items() if used),
    }


def size_text(size: tuple[int, int]) -> str:
    """A height and width as people write them: "256", or "320 x 256" with the width first."""
    return f"{size[0]}" if size[0] == size[1] else f"{size[1]} x {size[0]}"
