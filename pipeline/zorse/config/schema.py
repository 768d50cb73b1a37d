"""Every option of a training run, documented where it is defined. Presets are in presets.py.

The groups `images`, `networks`, `losses` and `optimization` define what a run learns: its directory records them, and
resuming with others is refused, or asks for --allow-change. The other groups say where the data lies and how to
compute, check and record; they may change at any restart.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro


def optional(metavar: str, *aliases: str):
    """Mark an option that is None by default; its help text says what then holds."""

    def hint(default: str) -> str:
        return "" if default == "None" else f"(default: {default})"

    return tyro.conf.arg(metavar=metavar, aliases=aliases, help_behavior_hint=hint)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the training images lie, and how they are read."""

    path: Annotated[str, tyro.conf.arg(name="data")] = "shards/horse2zebra"
    """directory of shards made by `zorse shard`, or its URL: s3://, gs://, hf://, http:// and whatever else fsspec
    reads, with the credentials that its driver finds"""
    a: Annotated[Path | None, optional("DIR")] = None
    """in place of --data: folder with the images of domain a, of which shards are made in the run directory at the
    first start, as by `zorse shard --a DIR --b DIR`"""
    b: Annotated[Path | None, optional("DIR")] = None
    """folder with the images of domain b"""
    workers: int = 2
    """processes per rank that read and decode images; 0 reads in the training process"""
    verify_samples: bool = False
    """verify each image's checksum as it is read; a sample that fails counts as unreadable"""
    cache_dir: Annotated[Path | None, optional("PATH")] = None
    """where blocks of shards at a URL are cached, on a disk of this node, for all its processes: in a folder
    zorse-cache-UID that is created there; by default in the system's temporary directory"""
    cache_gb: float = 10.0
    """gigabytes that the cache may hold; the least recently used blocks are evicted first"""
    read_timeout: float = 60.0
    """seconds that one of five attempts to read from a URL may take"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a run is written, and what it records of itself."""

    out: Annotated[Path | None, optional("PATH")] = None
    """run directory; by default runs/ and the name of the data. Starting again on it resumes the run"""
    log_every: int = 100
    """pairs between lines of losses in the terminal and in stats.jsonl"""
    sample_every: int = 5000
    """pairs between sample grids"""
    sample_images: int = 4
    """test images of each domain in a sample grid"""
    tracker: tuple[Literal["tensorboard", "wandb", "none"], ...] = ("tensorboard",)
    """where losses, distances and sample grids go in addition to the run directory"""
    on_collapse: Literal["dead", "stop", "warn"] = "dead"
    """what to do when training shows signs of failing, such as mode collapse. warn: say so. stop: stop without saving.
    dead: stop where a generator cannot learn any more, and warn of everything else"""
    profile: int = 0
    """steps of this start to trace with torch's profiler, on rank 0 and after the first five, into
    OUT/trace-PAIRS.json.gz, for ui.perfetto.dev or chrome://tracing"""
    dry_run: bool = False
    """print the resolved plan and exit"""


@dataclass(frozen=True, kw_only=True)
class Images:
    """How an image of a shard becomes a network's input. (paper: section 4 and its code's defaults)"""

    load_size: int = 286
    """pixels; every image is first resized to this square, bicubic"""
    load_width: Annotated[int | None, optional("INT")] = None
    """for images that are not square: their width, and --load-size is their height"""
    crop_size: int = 256
    """pixels; then a random square of this size is cropped, which is what the networks see. A multiple of 4"""
    crop_width: Annotated[int | None, optional("INT")] = None
    """for crops that are not square: their width, and --crop-size is their height"""
    test_size: Literal["crop", "load"] = "crop"
    """size of the test images in sample grids and evaluations. crop: the crop size. load: the load size, for runs on
    small crops of large images, rounded down to what the generators accept"""
    flip: bool = True
    """mirror half of the images left to right"""
    flip_a: Literal["on", "off"] = "on"
    """off: never mirror images of domain a, where it would change their meaning, as with digits"""
    flip_b: Literal["on", "off"] = "on"
    """off: never mirror images of domain b"""
    flip_vertical_a: Literal["on", "off"] = "off"
    """on: flip half of the images of domain a upside down, for data without an up, as from a microscope or satellite"""
    flip_vertical_b: Literal["on", "off"] = "off"
    """on: flip half of the images of domain b upside down"""
    rotate90_a: Literal["on", "off"] = "off"
    """on: rotate each image of domain a by 0, 90, 180 or 270 degrees, one as likely as the other; for square crops"""
    rotate90_b: Literal["on", "off"] = "off"
    """on: rotate each image of domain b in the same way"""

    @property
    def load(self) -> tuple[int, int]:
        """Height and width that images are resized to, in pixels."""
        return self.load_size, self.load_width or self.load_size

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the crops, in pixels."""
        return self.crop_size, self.crop_width or self.crop_size

    def flips(self, domain: str) -> bool:
        """Whether images of a domain, "a" or "b", are mirrored half of the time."""
        return self.flip and getattr(self, f"flip_{domain}") == "on"

    def flips_vertical(self, domain: str) -> bool:
        """Whether images of a domain are flipped upside down half of the time."""
        return getattr(self, f"flip_vertical_{domain}") == "on"

    def rotates90(self, domain: str) -> bool:
        """Whether images of a domain are rotated by a random number of quarter turns."""
        return getattr(self, f"rotate90_{domain}") == "on"


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The four networks. (paper: appendix 7.2)"""

    generator: Literal["resnet", "unet_128", "unet_256", "unet_residual"] = "resnet"
    """resnet: the paper's. unet_128, unet_256: pix2pix's U-Nets with 7 and 8 downsamplings, for crops whose sides are
    multiples of 128 or 256. unet_residual: the resnet with skip connections around its residual blocks"""
    generator_channels: int = 64
    """channels of a generator's first convolution"""
    generator_blocks: Annotated[int | None, optional("INT")] = None
    """residual blocks of a generator; by default 9, or 6 for crops of 128 pixels and below"""
    upsample: Literal["transposed", "resize"] = "transposed"
    """how generators upsample. transposed: by transposed convolutions, as in the paper. resize: nearest neighbour and a
    convolution, which avoids checkerboard artifacts"""
    dropout: bool = False
    """dropout of 0.5 in each residual block, or in the inner layers of a U-Net, in training"""
    discriminator: Literal["patch", "pixel"] = "patch"
    """patch: the paper's PatchGAN, a logit per patch. pixel: PixelGAN, a logit per pixel that sees this pixel alone"""
    discriminator_channels: int = 64
    """channels of a discriminator's first convolution"""
    discriminator_layers: int = 3
    """normalized convolutions of a PatchGAN; 3 makes the 70x70 PatchGAN"""
    norm: Literal["instance", "batch", "none", "centred"] = "instance"
    """normalization in all networks. instance: as in the paper. batch: over the images of a step on all ranks;
    translations use running statistics. none: biases instead, which preserves the brightness of small crops. centred:
    as none, but trains stably on bright, dark and blank images at rates up to some 1e-4: each filter's weights in the
    generators keep a mean of 0, and outputs begin at the domain's mean and have no tanh"""
    spectral_norm: bool = False
    """spectral normalization of the discriminators' weights, which bounds their slope"""

    @property
    def multiple(self) -> int:
        """Number of pixels that the sides of a generator's input must be a multiple of."""
        return {"unet_128": 128, "unet_256": 256}.get(self.generator, 4)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What is minimized. (paper: equation 3, section 5.2)"""

    adversarial: Literal["least_squares", "cross_entropy", "hinge"] = "least_squares"
    """adversarial loss. least_squares: as in the paper. cross_entropy: of the original GAN, with the non-saturating
    generator loss"""
    r1_weight: float = 0.0
    """weight (gamma) of the R1 gradient penalty: half of it times the squared gradient norm of the discriminators at
    real images is added to their losses; 0 skips its computation"""
    cycle_weight: float = 10.0
    """weight of the cycle consistency loss (lambda)"""
    identity_weight: float = 0.5
    """weight of the identity loss as a fraction of the cycle weight; 0 skips its computation"""
    image_pool_size: int = 50
    """generated images that the image pool keeps per slot of the batch for the discriminators; 0 disables it"""


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How it is minimized: Adam, with a constant and then decaying learning rate. (paper: section 4, appendix 7.1)"""

    batch: Annotated[int | None, optional("INT", "--batch-size")] = None
    """pairs per step over all ranks and accumulation steps (the global batch size); by default one per rank, as at the
    first start"""
    epochs: float = 100.0
    """epochs at the full learning rate; an epoch is as many pairs as the larger domain has images"""
    decay_epochs: float = 100.0
    """epochs over which the learning rate then decays to 0"""
    lr_policy: Literal["linear", "cosine", "constant"] = "linear"
    """how it decays. linear: as in the paper. cosine: along half a cosine. constant: not at all"""
    lr: Annotated[float, tyro.conf.arg(aliases=["--learning-rate"])] = 2e-4
    """learning rate of Adam"""
    lr_g: Annotated[float | None, optional("FLOAT")] = None
    """learning rate of the generators; by default --lr"""
    lr_d: Annotated[float | None, optional("FLOAT")] = None
    """learning rate of the discriminators; by default --lr"""
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    """none: rates are used as given. sqrt, linear: they are given for batch 1 and multiplied by the root of the batch,
    or by the batch"""
    warmup_pairs: int = 0
    """pairs of linear warm-up of the learning rates from 0"""
    ema_pairs: int = 0
    """half-life, in pairs, of an exponential moving average of the generators' weights, which evaluation and
    translate.py then use; 0 for none"""
    beta1: float = 0.5
    """Adam's decay rate of the first moment"""
    beta2: float = 0.999
    """Adam's decay rate of the second moment"""
    seed: int = 0
    """everything random follows from this number: weights, order, crops, flips, image pools"""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good translations are, measured during training."""

    evaluate_every: int = 20000
    """pairs between evaluations on the test images"""
    evaluate_images: int = 1000
    """test images of each domain that an evaluation uses at most"""
    features: Literal["efficientnet_lite0", "inception_v3", "none"] = "efficientnet_lite0"
    """network whose features KID and FID compare. efficientnet_lite0: also for the structure distance, which asks
    whether content is kept. inception_v3: that of published numbers; its weights are downloaded. none: only measures
    without a network, such as the sliced Wasserstein distance of patches"""
    feature_weights: Annotated[Path | None, optional("PATH")] = None
    """file with the weights of inception_v3, where they cannot be downloaded"""
    best_metric: Literal["kid", "fid", "sliced_wasserstein"] = "kid"
    """metric whose lowest value, averaged over both directions, makes a checkpoint the best; with --features none it is
    sliced_wasserstein"""


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """How a run starts, is saved and resumed."""

    checkpoint_every: int = 5000
    """pairs between checkpoints"""
    keep: int = 2
    """latest checkpoints that are kept, in addition to the best one and the milestones"""
    keep_every: Annotated[int | None, optional("INT")] = None
    """pairs between milestones, which are checkpoints that are never removed; by default none"""
    init_from: Annotated[Path | None, optional("PATH")] = None
    """weights that a new run starts from, at any image size: run directory, checkpoint, exported model, or a .pth file
    or folder of junyanz's PyTorch code; a single .pth is taken for a to b unless net_G_B is in its name. Networks that
    it does not contain are initialized as usual"""
    allow_change: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """names of options, such as lr or epochs, whose values a resumed run may change"""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How to compute. The mathematics stays the same; rounding may differ, and training amplifies it."""

    processes: Annotated[int | None, optional("INT")] = None
    """ranks to start on this machine: one on each GPU, or that many on its CPUs. By default `zorse train` starts one on
    each GPU, and the scripts one in all; not for use under accelerate launch or torchrun"""
    grad_accum_steps: int = 1
    """gradient accumulation: micro-batches per step that each rank splits its part of the batch into, to save memory"""
    compile: bool = False
    """compile the networks with torch.compile: minutes at the first start, then faster steps"""
    activation_checkpointing: bool = False
    """store only the inputs of the residual blocks for the backward pass and recompute the rest: less memory, slower
    steps"""
    fused_norm: bool = False
    """on an NVIDIA GPU: norm, activation, residual sum and padding as one Triton kernel, which saves memory traffic"""
    cuda_graph: bool = False
    """on one NVIDIA GPU: capture a step in a CUDA graph and replay it, which is faster where a step is so short that
    launching its kernels takes longer, as at batch 1. The graph's memory is not available to sample grids and
    evaluations"""
    tf32: Literal["on", "off"] = "on"
    """on: matmul inputs are rounded to 10-bit mantissas (TF32) on NVIDIA GPUs. off: full float32, several times
    slower"""
    dtype: Literal["float32", "float64"] = "float32"
    """precision of weights and arithmetic; float64 is for verification"""
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"] | None, optional("{no,bf16,fp16}")] = None
    """precision of the networks' forward and backward pass, over weights in --dtype. bf16: for GPUs that have it.
    fp16: for GPUs without bf16, with a loss scale. By default what accelerate launch was given, or no"""
    grad_comm_dtype: Literal["float32", "bfloat16"] = "float32"
    """precision in which ranks all-reduce their gradients; bfloat16 halves the traffic"""
    step_timeout: float = 600.0
    """seconds without a finished step after which a process prints where it hangs and exits; four times as many for the
    start, checkpoints and evaluations. Time in which it was suspended, as by Ctrl-Z, does not count"""


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["paper", "demo", "quick"] = "paper"
    """where the other defaults come from. paper: the paper's CycleGAN at 256 pixels. demo: tiny networks for the drawn
    animals of `make demo`. quick: a first look at your own data on a CPU, by crops of 64 pixels"""
    data: Data = field(default_factory=Data)
    output: Output = field(default_factory=Output)
    images: Images = field(default_factory=Images)
    networks: Networks = field(default_factory=Networks)
    losses: Losses = field(default_factory=Losses)
    optimization: Optimization = field(default_factory=Optimization)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpointing: Checkpointing = field(default_factory=Checkpointing)
    compute: Compute = field(default_factory=Compute)

    @property
    def eval_size(self) -> tuple[int, int]:
        """Height and width of test images in sample grids and evaluations, in pixels."""
        if self.images.test_size == "crop":
            return self.images.crop
        height, width = (side // self.networks.multiple * self.networks.multiple for side in self.images.load)
        return height, width


LEARNED = ("images", "networks", "losses", "optimization")  # the groups that define what is learned
UNLEARNED = ("data", "output", "evaluation", "checkpointing", "compute")  # the others
# What a generator's and a discriminator's weights are made for.
OF_GENERATORS = ("generator", "generator_channels", "generator_blocks", "upsample", "norm")
OF_DISCRIMINATORS = ("discriminator", "discriminator_channels", "discriminator_layers", "norm", "spectral_norm")
# Of what is learned, what a run keeps from its first pair to its last; the rest may change with --allow-change.
FIXED = (
    *(item.name for item in dataclasses.fields(Networks)),
    "crop_size",
    "crop_width",
    "test_size",
    "image_pool_size",
    "seed",
)


def flag(name: str) -> str:
    """The command-line spelling of an option's name."""
    return "--" + {"path": "data"}.get(name, name).replace("_", "-")
