"""Every option of a training run, documented where it stands. Presets: presets.py.

The groups `images`, `networks`, `losses` and `optimization` define a run: a run directory keeps them, and resuming with
others is refused, or asks for --allow-change. The group `run` says where and how to compute and may change at any
restart.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro


def may_be_left_out(metavar: str, *aliases: str):
    """For an option that is None by default; its text says what then holds."""

    def hint(default: str) -> str:
        return "" if default == "None" else f"(default: {default})"

    return tyro.conf.arg(metavar=metavar, aliases=aliases, help_behavior_hint=hint)


@dataclass(frozen=True, kw_only=True)
class Images:
    """How an image of a shard becomes an input. (paper: section 4 and its code's defaults)"""

    load_size: int = 286
    """pixels; every image is first resized to this square, bicubic"""
    load_width: Annotated[int | None, may_be_left_out("INT")] = None
    """for images that are not square: their width, and --load-size is their height"""
    crop_size: int = 256
    """pixels; then a random square of this size is cut out: what the networks see. A multiple of 4"""
    crop_width: Annotated[int | None, may_be_left_out("INT")] = None
    """for crops that are not square: their width, and --crop-size is their height"""
    test_size: Literal["crop", "load"] = "crop"
    """of the test images in sample grids and evaluations. crop: that of the crops. load: that of --load-size, to which
    a run on small crops of large images belongs, rounded down to what the generators take"""
    flip: bool = True
    """mirror half of the images left to right"""
    flip_a: Literal["on", "off"] = "on"
    """off: never those of domain a, for what a mirror would change, such as digits"""
    flip_b: Literal["on", "off"] = "on"
    """off: never those of domain b"""

    @property
    def load(self) -> tuple[int, int]:
        """Height and width."""
        return self.load_size, self.load_width or self.load_size

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width."""
        return self.crop_size, self.crop_width or self.crop_size

    def mirrored(self, domain: str) -> bool:
        """Whether images of a domain, "a" or "b", are mirrored half of the time."""
        return self.flip and getattr(self, f"flip_{domain}") == "on"


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The four networks. (paper: appendix 7.2)"""

    generator: Literal["resnet", "unet_128", "unet_256", "unet_residual"] = "resnet"
    """resnet: the paper's. unet_128, unet_256: pix2pix's U-Nets of 7 and 8 halvings, for crops whose sides are
    multiples of 128 or 256. unet_residual: resnet, with what was before each halving put beside what comes back"""
    generator_channels: int = 64
    """channels of a generator's first convolution"""
    generator_blocks: Annotated[int | None, may_be_left_out("INT")] = None
    """residual blocks of a generator; by default 9, or 6 for crops of 128 pixels and below"""
    upsample: Literal["transposed", "resize"] = "transposed"
    """how generators double a size. transposed: by transposed convolutions, as the paper. resize: each pixel four
    times, and a convolution, which makes no checkerboard"""
    dropout: bool = False
    """set half of the values in each residual block, or in the inner layers of a U-Net, to 0 in training"""
    discriminator: Literal["patch", "pixel"] = "patch"
    """patch: the paper's, a logit per patch. pixel: a logit per pixel, which sees that pixel alone"""
    discriminator_channels: int = 64
    """channels of a discriminator's first convolution"""
    discriminator_layers: int = 3
    """normalised convolutions of a discriminator of patches; 3 makes the 70x70 PatchGAN"""
    norm: Literal["instance", "batch", "none"] = "instance"
    """of all networks. instance: as the paper. batch: over the images of a step on all processes; translations use
    running statistics. none: a bias instead, which keeps the brightness of small crops"""
    spectral_norm: bool = False
    """divide the discriminators' weights by their largest singular values, which bounds how steep they can be"""

    @property
    def multiple(self) -> int:
        """Of the sides of images that the generators take, in pixels."""
        return {"unet_128": 128, "unet_256": 256}.get(self.generator, 4)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What is minimised. (paper: equation 3, section 5.2)"""

    adversarial: Literal["least_squares", "cross_entropy", "hinge"] = "least_squares"
    """how logits are judged. least_squares: as the paper. cross_entropy: as the first GAN, with the generators' loss
    that does not saturate"""
    r1_weight: float = 0.0
    """half of this times the squared gradient of the discriminators at real images is added to their losses; 0 leaves
    it out and saves its time"""
    cycle_weight: float = 10.0
    """weight of the cycle consistency loss (lambda)"""
    identity_weight: float = 0.5
    """weight of the identity loss as a share of the cycle weight; 0 leaves it out and saves its time"""
    history: int = 50
    """generated images kept per slot of the batch for the discriminators; 0 for none"""


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How it is minimised: Adam, constant and then falling learning rate. (paper: section 4, appendix 7.1)"""

    batch: Annotated[int | None, may_be_left_out("INT", "--batch-size")] = None
    """pairs per step over all processes and accumulation steps; by default one per process, as at the first start"""
    epochs: float = 100.0
    """epochs at the full learning rate; an epoch is as many pairs as the larger domain has images"""
    decay_epochs: float = 100.0
    """epochs over which the learning rate then falls to 0"""
    lr_policy: Literal["linear", "cosine", "constant"] = "linear"
    """how it falls there. linear: as the paper. cosine: along half a cosine. constant: not at all"""
    lr: Annotated[float, tyro.conf.arg(aliases=["--learning-rate"])] = 2e-4
    """learning rate of Adam"""
    lr_g: Annotated[float | None, may_be_left_out("FLOAT")] = None
    """learning rate of the generators; by default --lr"""
    lr_d: Annotated[float | None, may_be_left_out("FLOAT")] = None
    """learning rate of the discriminators; by default --lr"""
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    """none: rates are as given. sqrt, linear: given for batch 1, and multiplied by the root of the batch, or by it"""
    warmup_pairs: int = 0
    """pairs over which the learning rates rise linearly from 0 at the beginning"""
    ema_pairs: int = 0
    """half-life in pairs of a running average of the generators' weights, with which a run then evaluates, and
    translate.py translates; 0 for none"""
    beta1: float = 0.5
    """first moment's decay of Adam"""
    beta2: float = 0.999
    """second moment's decay of Adam"""
    seed: int = 0
    """everything random follows from this number: weights, order, crops, flips, history"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how to compute; but for rounding, none of it changes what is learned."""

    data: str = "shards/horse2zebra"
    """directory of shards that data_prep/shard.py made, or its URL: s3://, gs://, hf://, http:// and what else fsspec
    reads, with the credentials that its driver finds"""
    out: Annotated[Path | None, may_be_left_out("PATH")] = None
    """run directory; by default runs/ and the name of the data. Starting again on it resumes the run"""
    init_from: Annotated[Path | None, may_be_left_out("PATH")] = None
    """weights to begin a new run with, on images of any size: run directory, checkpoint, exported model, or file or
    folder of the well-known PyTorch code's; a single .pth is taken for a to b unless net_G_B is in its name. Networks
    that it does not have begin anew"""
    accumulate: int = 1
    """micro-steps per step: each process takes its share of the batch in so many parts, which saves memory"""
    workers: int = 2
    """processes per rank that read and decode images; 0 does it in the training process"""
    compile: bool = False
    """compile the networks with torch.compile: minutes at the first start, then faster steps"""
    fused_norm: bool = False
    """on an NVIDIA GPU: norm, activation, sum and padding as one operation, which reads and writes memory less often"""
    cuda_graph: bool = False
    """on one NVIDIA GPU: record the kernels of a step once and launch them all together from then on, which is faster
    where a step is so short that the host cannot launch them in time, as at batch 1. What a step needs of the memory is
    then not there for sample grids and evaluations"""
    recompute: bool = False
    """keep only the inputs of the residual blocks for the backward pass, and compute the rest of them twice: less
    memory, longer steps"""
    tf32: Literal["on", "off"] = "on"
    """off: float32 in full on NVIDIA GPUs, several times slower. On, they round the factors of products to 11 bits"""
    reduce_in: Literal["float32", "bfloat16"] = "float32"
    """precision in which processes add up their gradients; bfloat16 halves what they send"""
    verify_samples: bool = False
    """hold each image against its checksum as it is read; one that differs counts as one that cannot be read"""
    cache_dir: Annotated[Path | None, may_be_left_out("PATH")] = None
    """where blocks of shards at a URL are kept, on a disk of this node, for all its processes: in a folder
    zorse-cache-UID that is made there; by default in the system's temporary directory"""
    cache_gb: float = 10.0
    """gigabytes that may be kept there; what was not used for longest goes first"""
    read_timeout: float = 60.0
    """seconds that one of five attempts to read from a URL may take"""
    status_every: int = 100
    """pairs between lines in the log and in stats.jsonl"""
    sample_every: int = 5000
    """pairs between sample grids"""
    sample_images: int = 4
    """test images of each domain in the sample grid"""
    evaluate_every: int = 20000
    """pairs between evaluations on the test images"""
    evaluate_images: int = 1000
    """test images of each domain that they take at most"""
    features: Literal["efficientnet_lite0", "inception_v3", "none"] = "efficientnet_lite0"
    """network whose features KID and FID compare. inception_v3: that of published numbers; its weights are downloaded.
    none: the sliced Wasserstein distance of patches alone"""
    feature_weights: Annotated[Path | None, may_be_left_out("PATH")] = None
    """file with the weights of inception_v3, where they cannot be downloaded"""
    best_by: Literal["kid", "fid", "sliced_wasserstein"] = "kid"
    """distance whose lowest, as a mean of both directions, makes a checkpoint the best; with --features none it is the
    sliced_wasserstein"""
    checkpoint_every: int = 5000
    """pairs between checkpoints"""
    keep: int = 2
    """newest checkpoints that are kept, and besides them the best and the milestones"""
    keep_every: Annotated[int | None, may_be_left_out("INT")] = None
    """pairs between milestones, checkpoints that are never removed; by default none"""
    on_collapse: Literal["warn", "stop"] = "warn"
    """what to do at a sign that training goes wrong, such as a discriminator that has won or translations that are all
    alike: warn, or stop without saving any more"""
    tracker: tuple[Literal["tensorboard", "wandb", "none"], ...] = ("tensorboard",)
    """where losses, distances and sample grids go besides the run directory"""
    dtype: Literal["float32", "float64"] = "float32"
    """precision of weights and arithmetic. float64 is for checks. For bf16 and fp16 see accelerate launch
    --mixed_precision"""
    hang_after: float = 600.0
    """seconds without a finished step after which a process ends itself, saying where it hangs; four times as many for
    the start, saves and evaluations"""
    allow_change: tuple[str, ...] = ()
    """names of options, such as lr or epochs, that a resumed run may take with other values than it had"""
    dry_run: bool = False
    """print the resolved plan and exit"""


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["paper", "demo", "quick"] = "paper"
    """where the other defaults come from. paper: the paper's CycleGAN at 256 pixels. demo: tiny networks for the drawn
    animals of `make demo`. quick: a first look at your own data on a CPU, by crops of 64 pixels"""
    images: Images = field(default_factory=Images)
    networks: Networks = field(default_factory=Networks)
    losses: Losses = field(default_factory=Losses)
    optimization: Optimization = field(default_factory=Optimization)
    run: Run = field(default_factory=Run)

    @property
    def tested(self) -> tuple[int, int]:
        """Height and width of test images in sample grids and evaluations."""
        if self.images.test_size == "crop":
            return self.images.crop
        height, width = (side // self.networks.multiple * self.networks.multiple for side in self.images.load)
        return height, width


# Of the networks, what their weights are made for.
OF_GENERATORS = ("generator", "generator_channels", "generator_blocks", "upsample", "norm")
OF_DISCRIMINATORS = ("discriminator", "discriminator_channels", "discriminator_layers", "norm", "spectral_norm")
LEARNED = ("images", "networks", "losses", "optimization")  # the groups that define what is learned
# Of these, what a run keeps from its first pair to its last; the others may change with --allow-change.
FIXED = (
    *(item.name for item in dataclasses.fields(Networks)),
    "crop_size",
    "crop_width",
    "test_size",
    "history",
    "seed",
)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")
