"""Export a trained generator, to be used without Zorse or without Python: python pipeline/export.py MODEL OUT."""

import copy
import importlib.util
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import tyro
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pipeline.config import Networks
from pipeline.errors import UserError
from pipeline.exported import CONFIG, MODEL
from pipeline.failure import first_sentence
from pipeline.pixels import CHANNELS
from pipeline.reference_weights import FILES, read_generator, written
from pipeline.rundir import fsync, write_durably
from pipeline.trained import Weights
from pipeline.translator import PRECISIONS, Precision, Translator

Format = Literal["safetensors", "onnx", "torch_export", "pth"]
ONNX, TORCH = "model.onnx", "model.pt2"
NEEDED = ("onnx", "onnxruntime", "onnxscript")  # for ONNX
TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.2}  # of a range of 2; some 5 times what is usual
SLOW = 64  # pixels a side that float16 is checked at, since most CPUs convolve it hundreds of times slower


@dataclass(frozen=True)
class Options:
    """Export one direction of a trained CycleGAN. Each file is loaded again, run on images of several sizes and
    compared with the generator in PyTorch, before any is kept; it holds the largest difference that was found."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """run directory, whose newest checkpoint is taken, one checkpoint, an exported model, or a file or folder of the
    well-known PyTorch code's weights (.pth)"""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """folder to make"""
    direction: Annotated[Literal["a2b", "b2a"] | None, tyro.conf.arg(metavar="{a2b,b2a}")] = None
    """which domain the images belong to, and which they are translated to; by default a2b, or the one that an exported
    model has"""
    formats: tuple[Format, ...] = ("safetensors",)
    """safetensors: what Translator and the Hugging Face hub take, with a model card. onnx: model.onnx, for ONNX
    Runtime and others. torch_export: model.pt2, for torch.export.load. Both take and give float32 [N, C, H, W] in
    [-1, 1] of any N, H and W, where H and W are multiples of 4 and at least 16; for a unet_128, of 128 and at least
    256, and for a unet_256 twice that. pth: latest_net_G_A.pth or latest_net_G_B.pth, for the well-known PyTorch
    code"""
    precision: Precision = "float32"
    """of the weights and, in onnx and torch_export, of the computation; the norms' statistics stay float32"""
    weights: Weights = "auto"
    """ema: the average that --ema-pairs made in training. raw: the weights themselves. auto: the average, if any"""
    tolerance: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """largest difference from PyTorch in float32 that is kept, of values in [-1, 1]; by default 0.001, or 0.02 for
    float16 and 0.2 for bfloat16"""
    license: Annotated[str | None, tyro.conf.arg(metavar="STR")] = None
    """the model's licence for its card, as the hub names it, such as mit"""


class Check:
    """Whether an exported generator still computes what the original does in float32, on images of several sizes."""

    def __init__(self, generator: nn.Module, sizes: list[tuple[int, int, int, int]], tolerance: float):
        self.sizes, self.tolerance = sizes, tolerance
        images = [smooth_noise(size, seed) for seed, size in enumerate(sizes)]
        with torch.no_grad():
            self.expected = [(image, generator(image)) for image in images]

    def __call__(self, name: str, load: Callable[[], Callable[[Tensor], Tensor]]) -> dict:
        """What was measured. load: gives what runs it. Raises UserError where it cannot be run, or differs too much."""
        try:
            run = load()
            with torch.no_grad():
                made = [(run(image), fake) for image, fake in self.expected]
        except Exception as error:  # of runtimes that we know little about
            raise UserError(
                f"{name}: cannot be run here ({first_sentence(error)}); drop it, or change --precision"
            ) from None
        apart = [(one - other).abs().max() if one.shape == other.shape else torch.inf for one, other in made]
        largest = torch.tensor(apart).max().item()  # NaN if any is
        if not largest <= self.tolerance:
            raise UserError(
                f"{name}: differs from PyTorch by up to {largest:.2g}, more than --tolerance {self.tolerance:g}; "
                "give another --precision or a higher tolerance"
            )
        return {"value": largest, "tolerance": self.tolerance, "sizes": self.sizes, "from": "PyTorch, float32 on a CPU"}


def smooth_noise(size: tuple[int, int, int, int], seed: int) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] of coarse and fine structure, a flat area among it."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*size[:2], 8, 8, generator=random) * 3 - 1.5
    images = nn.functional.interpolate(coarse, size[2:], mode="bicubic") + 0.1 * torch.randn(size, generator=random)
    images[..., : size[2] // 4, : size[3] // 4] = 1
    return images.clamp(-1, 1)


def sizes_to_check(channels: int, crop: int, multiple: int, smallest: int) -> list[tuple[int, int, int, int]]:
    """[N, C, H, W]: the crops of training, and others in shape and number; also than what a graph is traced with.

    multiple, smallest: of sides that the graph takes.
    """

    def whole(side: float) -> int:
        return max(smallest, round(side / multiple) * multiple)

    return [
        (1, channels, whole(crop), whole(crop)),
        (1, channels, whole(1.25 * crop), whole(0.75 * crop)),
        (3, channels, whole(0.5 * crop), whole(0.5 * crop) + multiple),
    ]


class Graph(nn.Module):
    """A generator in another precision, between float32 images."""

    def __init__(self, generator: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.generator, self.dtype = copy.deepcopy(generator).to(dtype), dtype

    def forward(self, image: Tensor) -> Tensor:
        return self.generator(image.to(self.dtype)).float()


def smallest_of(generator: nn.Module) -> int:
    """Pixels a side; in a U-Net, one pixel inside would be a case of its own."""
    return max(generator.smallest, 2 * generator.multiple)


def traced(graph: Graph, channels: int) -> ExportedProgram:
    """The graph for any number of images and any height and width that the generator takes."""
    multiple = graph.generator.multiple
    smallest = smallest_of(graph.generator)
    height, width = (multiple * Dim(name, min=smallest // multiple) for name in ("height", "width"))
    example = torch.zeros(2, channels, 2 * smallest, 3 * smallest)
    try:
        with torch.no_grad():
            program = torch.export.export(graph, (example,), dynamic_shapes=({0: Dim("batch"), 2: height, 3: width},))
    except Exception as error:  # of which torch has many kinds
        raise UserError(
            f"this generator cannot be traced ({first_sentence(error)}); export safetensors alone"
        ) from None
    for node in list(program.graph.nodes):  # that what is converted lies on a CPU, as it does here
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def save_safetensors(translator: Translator, out: Path, license: str | None, check: Check) -> dict:
    """As save_pretrained does; what was measured is of the weights, computed with in float32."""
    card = {"license": license}
    translator.save_pretrained(out, model_card_kwargs=card)
    measured = check("safetensors", lambda: Translator(out).generator)
    translator.about = translator.about | {"largest_difference": measured}
    translator.save_pretrained(out, model_card_kwargs=card)
    return measured


def save_onnx(program: ExportedProgram, out: Path, about: dict, check: Check) -> dict:
    import onnx
    import onnxruntime

    opset = 22 if about["dtype"] == "bfloat16" else None  # the first in which it may be convolved; else torch's choice
    names = {"input_names": ["image"], "output_names": ["translated"]}
    axes = ({0: "batch", 2: "height", 3: "width"},)
    try:
        made = torch.onnx.export(program, **names, dynamic_shapes=axes, opset_version=opset, verbose=False)
        model = made.model_proto
    except Exception as error:  # of a library that we know little about
        raise UserError(f"onnx: cannot be made ({first_sentence(error)}); drop it, or change --precision") from None

    def load() -> Callable[[Tensor], Tensor]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])

    measured = check("onnx", load)
    about = about | {"largest_difference": measured, "onnxruntime": onnxruntime.__version__}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    write_durably(out / ONNX, model.SerializeToString())
    return measured


def save_torch(program: ExportedProgram, out: Path, about: dict, check: Check) -> dict:
    def packed(**extra) -> io.BytesIO:
        torch.export.save(program, file := io.BytesIO(), **extra)
        file.seek(0)
        return file

    measured = check("torch_export", lambda: torch.export.load(packed()).module())
    about = about | {"largest_difference": measured, "torch": torch.__version__}
    write_durably(out / TORCH, packed(extra_files={CONFIG: json.dumps(about, indent=2)}).getvalue())
    return measured


def save_pth(generator: nn.Module, about: dict, out: Path, check: Check) -> dict[str, dict]:
    """As junyanz's code names it. {file: what was measured}."""
    weights = written(generator, Networks(**about["networks"]))
    narrow = {name: tensor.to(PRECISIONS[about["dtype"]]) for name, tensor in weights.items()}
    torch.save(narrow, file := io.BytesIO())
    name = f"latest_{FILES['generators.' + about['direction'].replace('2', '_to_')]}.pth"
    write_durably(out / name, file.getvalue())
    return {name: check("pth", lambda: read_generator(out / name)[1].eval())}


def export(options: Options) -> dict[str, dict]:
    """{file: what was measured}. All files appear at once, in a new folder, or none does."""
    out, dtype = options.out.resolve(), PRECISIONS[options.precision]
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{options.out}: is there already; give another folder, or remove it")
    if not options.formats:
        raise UserError(f"--formats: name at least one of {', '.join(get_args(Format))}")
    missing = [name for name in NEEDED if "onnx" in options.formats and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--formats onnx: needs {' and '.join(missing)}; run: pip install 'zorse[export]'")
    if options.tolerance is not None and not options.tolerance > 0:
        raise UserError(f"--tolerance {options.tolerance:g}: must be greater than 0")
    translator = Translator(options.model, options.direction, weights=options.weights)
    translator.about = translator.about | {"dtype": options.precision}
    channels = CHANNELS[translator.modes[0]]
    tolerance = TOLERANCE[options.precision] if options.tolerance is None else options.tolerance
    crop = translator.about["provenance"]["crop_size"] or 256
    multiple = translator.generator.multiple
    smallest = smallest_of(translator.generator)
    sizes = sizes_to_check(channels, min(crop, SLOW) if options.precision == "float16" else crop, multiple, smallest)
    check = Check(translator.generator, sizes, tolerance)
    shape = f"float32 [N, C, H, W] in [-1, 1]; H and W multiples of {multiple}, at least {smallest}"
    about = translator.about | {"image": shape}  # in and out
    staging, measured = out.with_name(f".{out.name}.{os.getpid()}.tmp"), {}
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
            measured |= save_pth(translator.generator, about, staging, check)
        if "safetensors" in options.formats:
            measured[MODEL] = save_safetensors(translator, staging, options.license, check)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    fsync(out.parent)
    return measured


def main() -> None:
    """Exit codes: 0 done, 2 a mistake in the options, or an export that does not compute what it should, 130 Ctrl-C."""
    options = tyro.cli(Options, prog="python pipeline/export.py")
    try:
        for file, measured in export(options).items():
            print(
                f"{options.out / file}: differs from PyTorch in float32 by {measured['value']:.2g} at most, of [-1, 1]"
            )
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        sys.exit(130)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
