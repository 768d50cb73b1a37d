"""Exporting a trained generator: each format is written, loaded again and compared before any of them is kept."""

import dataclasses
import importlib.util
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import tyro
from torch import nn

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.load import Weights, load_discriminators, load_trained
from zorse.config.schema import Networks, optional
from zorse.errors import UserError
from zorse.files import fsync, remove_stale, temporary_for
from zorse.inference.translator import PRECISIONS, Precision, Translator, with_newest
from zorse.interop.graphs import NEEDED, ONNX, TORCH, Graph, save_onnx, save_torch, smallest_of, traced
from zorse.interop.junyanz import FILES, read_discriminator, read_generator, to_their_weights
from zorse.interop.parity import ParityCheck, sizes_to_check
from zorse.interop.saved_model import CONFIG, MODEL
from zorse_prep.format import channels_of

Format = Literal["safetensors", "onnx", "torch_export", "pth"]
TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.2}  # of a range of 2; some 5 times what is usual
INPUT = {"a_to_b": "a", "b_to_a": "b", "of_a": "a", "of_b": "b"}  # domain of the images that a network sees
LARGEST = 1024  # pixels a side that a file is checked at
SLOW = 64  # pixels a side that float16 is checked at, since most CPUs convolve it hundreds of times slower


@dataclass(frozen=True)
class Options:
    """Export one direction of a trained CycleGAN. Before any file is kept, each is loaded again, run on images of
    several sizes and compared with the generator in PyTorch; the largest difference is stored in it."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """run directory (its latest checkpoint is used), a checkpoint, an exported model, or a .pth file or folder of
    junyanz's PyTorch code"""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """new or empty folder to write to"""
    direction: Annotated[Literal["a2b", "b2a"] | None, optional("{a2b,b2a}")] = None
    """direction of the exported generator; by default a2b, or the one that an exported model has. Has no effect on pth
    of a run, which holds both"""
    formats: tuple[Format, ...] = ("safetensors",)
    """safetensors: what Translator and the Hugging Face hub take, with a model card. onnx: model.onnx, for ONNX
    Runtime and others. torch_export: model.pt2, for torch.export.load. Both take and give float32 [N, C, H, W] in
    [-1, 1] of any N, H and W, where H and W are multiples of 4 and at least 16; for a unet_128, of 128 and at least
    256, and for a unet_256 twice that. pth: latest_net_G_A.pth and so on, for junyanz's PyTorch code: of a run or
    checkpoint all four networks, but no discriminators with --spectral-norm, which that code does not have"""
    precision: Precision = "float32"
    """precision of the weights and, in onnx and torch_export, of the computation; the norms' statistics stay float32"""
    weights: Weights = "auto"
    """ema: the average that --ema-pairs made in training. raw: the weights themselves. auto: the average, if any"""
    tolerance: Annotated[float | None, optional("FLOAT")] = None
    """largest difference from PyTorch in float32 that is accepted, in values of [-1, 1]; by default 0.001, or 0.02 for
    float16 and 0.2 for bfloat16"""
    license: Annotated[str | None, optional("STR")] = None
    """licence for the model card, by its name on the Hugging Face hub, such as mit"""


def save_safetensors(translator: Translator, out: Path, license: str | None, check: ParityCheck) -> dict:
    """Write as save_pretrained does; the difference is that of the stored weights, computed in float32."""
    card = {"license": license}
    translator.save_pretrained(out, model_card_kwargs=card)
    measured = check("safetensors", lambda: Translator(out).generator)
    translator.about = translator.about | {"largest_difference": measured}
    translator.save_pretrained(out, model_card_kwargs=card)
    return measured


def save_pth(
    translator: Translator, every: dict[str, nn.Module], options: Options, out: Path, sizes: list, tolerance: float
) -> dict[str, dict]:
    """Write the networks under the names of junyanz's code: {file: measured difference}."""
    networks, measured = Networks(**translator.about["networks"]), {}
    modes = dict(zip(translator.about["direction"].split("2"), translator.modes, strict=True))
    for ours, network in every.items():
        kind, which = ours.split(".")
        channels, file = channels_of(modes[INPUT[which]]), out / f"latest_{FILES[ours]}.pth"
        weights = to_their_weights(network, networks)
        torch.save({name: tensor.to(PRECISIONS[options.precision]) for name, tensor in weights.items()}, file)
        fsync(file)
        those = sizes if kind == "generators" else sizes[:1]  # discriminators do not take any size
        check = ParityCheck(network, [(count, channels, *sides) for count, _, *sides in those], tolerance)
        measured[file.name] = check("pth", partial(read_again, file, kind, networks, channels))
    return measured


def read_again(file: Path, kind: str, networks: Networks, channels: int) -> nn.Module:
    if kind == "generators":
        return read_generator(file)[1].eval()
    return read_discriminator(file, networks, channels).eval()


def load(options: Options, model: Path) -> tuple[Translator, dict[str, nn.Module]]:
    """The translator of a model, and what `every_network` gives where it is needed."""
    options = dataclasses.replace(options, model=model)
    translator = Translator(model, options.direction, weights=options.weights)
    return translator, every_network(translator, options) if "pth" in options.formats else {}


def every_network(translator: Translator, options: Options) -> dict[str, nn.Module]:
    """The networks of a checkpoint, named as in CycleGANStep; of any other model its one generator.

    Discriminators that the other code does not have are left out.
    """
    if not (options.model / checkpoint.STATE).exists():
        return {f"generators.{translator.about['direction'].replace('2', '_to_')}": translator.generator}
    trained = load_trained(options.model, options.weights)
    found = {f"generators.{way}": network for way, network in trained.generators.items()}
    if not trained.config.networks.spectral_norm:
        found |= {f"discriminators.{of}": network for of, network in load_discriminators(trained).items()}
    return found


def export(options: Options) -> dict[str, dict]:
    """Export a model: {file: its measured difference}. All files appear, in a new or empty folder, or none does."""
    # Options, before torch is busy.
    out, dtype = options.out.resolve(), PRECISIONS[options.precision]
    making = out / "export" if out.is_dir() else out  # inside, since it may be the only place that can be written
    if out.is_dir():
        remove_stale(making)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{options.out}: already exists; give another folder, or remove it")
    if not options.formats:
        raise UserError(f"--formats: name at least one of {', '.join(get_args(Format))}")
    missing = [name for name in NEEDED if "onnx" in options.formats and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--formats onnx: needs {' and '.join(missing)}; run: pip install {' '.join(missing)}")
    if options.tolerance is not None and not options.tolerance > 0:
        raise UserError(f"--tolerance {options.tolerance:g}: must be greater than 0")
    # The model, and the images that each exported file is compared on.
    translator, every = with_newest(options.model, partial(load, options))
    translator.about = translator.about | {"dtype": options.precision}
    channels = channels_of(translator.modes[0])
    tolerance = TOLERANCE[options.precision] if options.tolerance is None else options.tolerance
    crop = min(translator.about["provenance"]["crop_size"] or 256, LARGEST)
    multiple = translator.generator.multiple
    smallest = smallest_of(translator.generator)
    sizes = sizes_to_check(channels, min(crop, SLOW) if options.precision == "float16" else crop, multiple, smallest)
    check = ParityCheck(translator.generator, sizes, tolerance)
    shape = f"float32 [N, C, H, W] in [-1, 1]; H and W multiples of {multiple}, at least {smallest}"
    about = translator.about | {"image": shape}  # in and out
    # Write and check every format in a folder that then takes its place.
    staging, measured = temporary_for(making), {}
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be made ({error.strerror}); give another folder") from None
    try:
        if {"onnx", "torch_export"} & set(options.formats):
            program = traced(Graph(translator.generator, dtype), channels)
        if "onnx" in options.formats:
            measured[ONNX] = save_onnx(program, staging, about, check)
        if "torch_export" in options.formats:
            measured[TORCH] = save_torch(program, staging, about, check)
        if "pth" in options.formats:
            measured |= save_pth(translator, every, options, staging, sizes, tolerance)
        if "safetensors" in options.formats:
            measured[MODEL] = save_safetensors(translator, staging, options.license, check)
        put_in_place(staging, out)
    except FileExistsError:
        raise UserError(f"{options.out}: another process wrote there; give another folder, or remove it") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return measured


def put_in_place(staging: Path, out: Path) -> None:
    """Give an export its final place; in a folder that is there, file by file, what a reader looks for first last."""
    if staging.parent != out:
        try:
            staging.rename(out)
        except OSError as error:  # ENOTEMPTY, where it is not EEXIST
            raise FileExistsError if out.exists() else error from None
    elif any(path != staging for path in out.iterdir()):
        raise FileExistsError
    else:
        for path in sorted(staging.iterdir(), key=lambda path: path.name == CONFIG):
            path.rename(out / path.name)
    fsync(out)
    fsync(out.parent)
