"""A generator as a graph that runs without Zorse: ONNX and torch.export."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from zorse.errors import UserError, first_sentence
from zorse.files import write_durably
from zorse.interop.parity import ParityCheck
from zorse.interop.saved_model import CONFIG
from zorse.typed_json import plain

ONNX, TORCH = "model.onnx", "model.pt2"
NEEDED = ("onnx", "onnxruntime", "onnxscript")  # for ONNX


class Graph(nn.Module):
    """A generator in another precision, between float32 images."""

    def __init__(self, generator: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.generator, self.dtype = copy.deepcopy(generator).to(dtype), dtype

    def forward(self, image: Tensor) -> Tensor:
        return self.generator(image.to(self.dtype)).float()


def smallest_of(generator: nn.Module) -> int:
    """The smallest side of an image, in pixels; in a U-Net, a core of one pixel would be traced as a special case."""
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
    forget_source_files(program)
    program.graph_module.recompile()
    return program


def forget_source_files(program: ExportedProgram) -> None:
    """Drop the stack trace of every operator, which both formats would store: it names files of this machine, and would
    show whoever gets the model its maker's home directory.
    """
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)


def save_onnx(program: ExportedProgram, out: Path, about: dict, check: ParityCheck) -> dict:
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
    onnx.helper.set_model_props(model, {key: json.dumps(value, default=plain) for key, value in about.items()})
    write_durably(out / ONNX, model.SerializeToString())
    return measured


def save_torch(program: ExportedProgram, out: Path, about: dict, check: ParityCheck) -> dict:
    def packed(**extra) -> io.BytesIO:
        torch.export.save(program, file := io.BytesIO(), **extra)
        file.seek(0)
        return file

    measured = check("torch_export", lambda: torch.export.load(packed()).module())
    about = about | {"largest_difference": measured, "torch": torch.__version__}
    write_durably(out / TORCH, packed(extra_files={CONFIG: json.dumps(about, indent=2, default=plain)}).getvalue())
    return measured
