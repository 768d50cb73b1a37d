"""The evaluation of a checkpoint: what may be asked for, and the record of distances that comes of it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from accelerate import Accelerator

from zorse.checkpoints.load import Trained, Weights, load_trained
from zorse.config.schema import flag, optional
from zorse.data.dataset import Shards, open_shards
from zorse.data.order import RankSlice
from zorse.directions import Direction
from zorse.errors import UserError
from zorse.evaluation.evaluator import Evaluation, too_few, translation
from zorse.evaluation.features import feature_network
from zorse.files import check_file
from zorse.processes import rank0_first
from zorse.runs.reading import read_evaluation
from zorse_prep.format import in_range, seen_alike

LARGEST = 8192  # --size, in pixels


@dataclass(frozen=True)
class Options:
    """Measure KID, FID and other distances between translated test images and real ones, whether content is kept, and
    the error of images that are translated there and back, or that have a partner of their name. One JSON file holds
    the numbers and the conditions they were measured under."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """run directory (its latest checkpoint is used), or a checkpoint, such as RUN/checkpoints/best"""
    data: Annotated[str | None, optional("STR")] = None
    """directory of shards or its URL; by default that of the run"""
    real: Literal["test", "train"] = "test"
    """real images that translations are compared with"""
    images: Annotated[int | None, optional("INT")] = None
    """use at most this many images of each domain; by default all"""
    features: Literal["efficientnet_lite0", "inception_v3", "none"] = "efficientnet_lite0"
    """network whose features KID and FID compare. efficientnet_lite0: also for the structure distance, which asks
    whether content is kept. inception_v3: that of published numbers; its weights are downloaded. none: only measures
    without a network, such as the sliced Wasserstein distance of patches"""
    feature_weights: Annotated[Path | None, optional("PATH")] = None
    """file with the weights of inception_v3, where they cannot be downloaded"""
    weights: Weights = "auto"
    """ema: the average that --ema-pairs made in training. raw: the weights themselves. auto: the average, if any"""
    size: Annotated[int | None, optional("INT")] = None
    """size in pixels at which images are translated and compared; by default as in training, see its --test-size"""
    imagenet_class_a: Annotated[int | None, optional("INT")] = None
    """ImageNet class of domain a, 0 to 999: report how many of the translations to a, and of its real images,
    efficientnet_lite0 assigns to it"""
    imagenet_class_b: Annotated[int | None, optional("INT")] = None
    """the same for domain b, such as 340 for zebras"""
    out: Annotated[Path | None, optional("PATH")] = None
    """JSON file to write; of existing files, only an evaluation is replaced; by default in RUN/eval, named after the
    options"""


def where(options: Options, trained: Trained, fingerprint: str) -> Path:
    """The file to write, with the fingerprint of other data than the run's. Raises UserError where none can be."""
    out, checkpoint = options.out, trained.checkpoint.resolve()
    if out is None:
        run = checkpoint.parents[1] if len(checkpoint.parents) > 1 else checkpoint
        if not (run / "config.json").exists():
            raise UserError(f"{options.model}: is not in a run directory; give --out")
        chosen = [options.features, options.real, trained.weights]
        for name in ("size", "images", "imagenet_class_a", "imagenet_class_b"):
            if (value := getattr(options, name)) is not None:
                chosen.append(f"{name.removeprefix('imagenet_')}{value}")
        out = run / "eval" / ".".join([checkpoint.name, *chosen, *([fingerprint[:8]] if options.data else []), "json"])
    return check_file(out, lambda path: read_evaluation(path) is not None)


def evaluate(options: Options, accelerator: Accelerator) -> tuple[dict | None, Path]:
    """Evaluate a model. Returns the record, None on all ranks but the first, and the file to write it to."""
    # Options against each other and against the model.
    if options.images is not None and options.images < 2:
        raise UserError(f"--images {options.images}: must be at least 2")
    classes = {Direction.A_TO_B: options.imagenet_class_b, Direction.B_TO_A: options.imagenet_class_a}
    if options.features != "efficientnet_lite0" and set(classes.values()) != {None}:
        raise UserError("--imagenet-class-a and --imagenet-class-b need --features efficientnet_lite0")
    if options.features == "none" and options.feature_weights:
        raise UserError("--feature-weights is for --features inception_v3; drop one of the two")
    for name in ("imagenet_class_a", "imagenet_class_b"):
        if (number := getattr(options, name)) is not None and not 0 <= number < 1000:
            raise UserError(f"{flag(name)} {number}: ImageNet's classes are 0 to 999")
    trained = load_trained(options.model, options.weights)
    of = trained.generators["a_to_b"]
    if options.size is not None and (options.size % of.multiple or not of.smallest <= options.size <= LARGEST):
        bounds = f"{of.smallest} to {LARGEST}"
        raise UserError(f"--size {options.size}: must be a multiple of {of.multiple}, from {bounds}")
    if options.size is None and max(trained.config.eval_size) > LARGEST:
        raise UserError(f"{options.model}: has crops of more than {LARGEST} pixels; give a smaller --size")
    # The data: that of the run, unless another is given.
    data = options.data or trained.config.data.path
    if not options.data and "://" not in data and not Path(data).exists():
        raise UserError(
            f"{data}: the run's shards were not found; start in the folder where training was started, or give --data"
        )
    shards = open_shards(data)
    out = where(options, trained, shards.fingerprint)
    shards.check()
    if reason := too_few(shards):
        raise UserError(f"no evaluation: {reason}")
    check_modes(shards, trained)
    # Measure, all ranks together.
    device = accelerator.device
    translate = translation(trained.generators.to(device), accelerator, shards.modes)
    load = partial(feature_network, options.features, options.feature_weights, device)
    network = None if options.features == "none" else rank0_first(load, accelerator)
    evaluation = Evaluation(
        shards,
        (options.size, options.size) if options.size else trained.config.eval_size,
        RankSlice(accelerator.process_index, accelerator.num_processes, 1, accelerator.num_processes),
        lambda x: accelerator.gather(x.to(device)).cpu(),
        network=network,
        real=options.real,
        most=options.images,
    )
    result = evaluation(translate)
    hit_rates = {
        direction: evaluation.class_hit_rate(number, direction, translate)
        for direction, number in classes.items()
        if number is not None
    }
    if result is None:
        return None, out
    for direction, rates in hit_rates.items():
        name = f"share_of_class_{classes[direction]}"
        result[direction][name] = rates["translated"]
        result["untranslated"][direction][name], result["real"][direction][name] = rates["untranslated"], rates["real"]
    about = {
        "pairs": trained.pairs_seen,
        "run_seed": trained.config.optimization.seed,
        "weights": trained.weights,
        "precision": accelerator.mixed_precision.replace("no", "float32"),
    }
    return about | result, out


def check_modes(shards: Shards, trained: Trained) -> None:
    """Raise UserError for shards in which the networks would not see what they were trained on."""
    if any(not seen_alike(shards.modes[domain], mode) for domain, mode in trained.modes.items()):
        have, take = (
            " and ".join(in_range(of[domain]) for domain in ("a", "b")) for of in (shards.modes, trained.modes)
        )
        raise UserError(
            f"{shards.root}: its images are {have}, the networks take {take}; give others, or shard these with the "
            "same --mode-a and --mode-b, or --range-a and --range-b"
        )
