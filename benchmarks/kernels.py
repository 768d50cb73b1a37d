"""What the fused norm gains: python benchmarks/kernels.py [--batch 1 4] [--rounds 7], on a GPU.

Forward and backward of InstanceNorm + ReLU + reflection padding of 1 in bf16 at the generator's shapes: fused, with
torch's own operations, and with these compiled, each in the layout that training has with it. Each goes forward through
several inputs, more than the caches hold, and then backward, recorded as one CUDA graph, so that the GPU's time is
measured and not Python's.
ms: for one input, median of the rounds, and lowest to highest. GB/s: the bytes that the fused operation has to move,
over that time; the same bytes for all, so that they compare. Above them stands what a plain copy reaches in the same
rounds. Contenders take turns within a round.
"""

import argparse
import statistics
import sys
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from zorse.cyclegan.layers import RELU, Norm
from zorse.ops.fused_norm import fused_norm

SHAPES = [(64, 256, 256), (128, 128, 128), (256, 64, 64)]
PAD = 1
BEYOND_CACHE = 256e6  # bytes; an H100 caches 50 MB


def plain(x: Tensor) -> Tensor:
    return Norm("instance", x.shape[1])(x, RELU, PAD)


def fused(x: Tensor) -> Tensor:
    return fused_norm(x, 0.0, PAD)


def recorded(work) -> torch.cuda.CUDAGraph:
    """`work` as a CUDA graph, after it has run often enough to be compiled and to have its memory."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def milliseconds(graph: torch.cuda.CUDAGraph, count: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / count


def measure(shape: tuple[int, ...], rounds: int) -> tuple[int, dict[str, list[float]]]:
    """Bytes that the fused operation moves, and each contender's milliseconds in every round."""
    like = {"device": "cuda", "dtype": torch.bfloat16}
    x_bytes = 2 * torch.Size(shape).numel()
    out_bytes = x_bytes * (shape[2] + 2 * PAD) * (shape[3] + 2 * PAD) // (shape[2] * shape[3])
    count = max(2, int(BEYOND_CACHE / x_bytes))
    inputs = [
        torch.randn(shape, **like).contiguous(memory_format=torch.channels_last).requires_grad_() for _ in range(count)
    ]
    incoming = torch.randn_like(fused(inputs[0]))
    # Networks that are neither compiled nor fused are not channels_last, since torch's own norm is not.
    usual = [x.detach().contiguous().requires_grad_() for x in inputs], incoming.contiguous()

    def both_ways(operation, inputs: list[Tensor], incoming: Tensor):
        outputs = [operation(x) for x in inputs]
        for x, out in zip(inputs, outputs, strict=True):
            torch.autograd.grad(out, x, incoming)

    torch.compiler.reset()  # each shape its own program, as in training
    contenders = {
        "fused": partial(both_ways, fused, inputs, incoming),
        "torch": partial(both_ways, plain, *usual),
        "torch, compiled": partial(both_ways, torch.compile(plain, dynamic=False), inputs, incoming),
    }
    graphs = {name: recorded(work) for name, work in contenders.items()}
    graphs["copy"] = recorded(lambda: [x.detach().clone() for x in inputs])
    times = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            times[name].append(milliseconds(graph, count))
    # Forward: x for the statistics, x, the output. Backward: x and its gradient's source twice, the gradient.
    return 5 * x_bytes + 3 * out_bytes, {"copy": times.pop("copy"), **times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: benchmarks/kernels.py measures a GPU, and PyTorch sees none here", file=sys.stderr)
        sys.exit(2)
    table = Table(title=f"InstanceNorm + ReLU + padding, forward and backward, bf16, {torch.cuda.get_device_name()}")
    for name in ("shape", "", "ms", "lowest to highest", "GB/s"):
        table.add_column(name, justify="left" if name in ("shape", "") else "right")
    for batch in options.batch:
        for shape in SHAPES:
            moved, times = measure((batch, *shape), options.rounds)
            for name, taken in times.items():
                middle = statistics.median(taken)
                size = 4 * torch.Size((batch, *shape)).numel() if name == "copy" else moved
                table.add_row(
                    " x ".join(map(str, (batch, *shape))), name, f"{middle:.4f}",
                    f"{min(taken):.4f} to {max(taken):.4f}", f"{size / middle / 1e6:.0f}",
                    end_section=name == list(times)[-1],
                )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
