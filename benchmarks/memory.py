"""How large images and batches may be: python benchmarks/memory.py [--gb 16 24 80] [--check].

The memory of a training step of the paper's networks is that of weights, gradients and Adam's moments, of the image
history, and of what the forward pass keeps for the backward pass. The last is counted, tensor by tensor, on a step
without data (torch's meta device). To it comes --reserve for cuDNN's workspaces, the tensors of the moment and what the
allocator cannot use. --check holds the sum against the measured peak: of the device on a GPU, of the process on a CPU.
"""

import argparse
import resource
import sys
from contextlib import nullcontext

import torch
from rich.console import Console
from rich.table import Table

from zorse.config.schema import Compute, Losses, Networks
from zorse.cyclegan.build import parameter_count
from zorse.cyclegan.image_pool import ImagePool
from zorse.cyclegan.step import CycleGANStep
from zorse.training.devices import configure_device

GB = 1e9
PER_PARAMETER = 4 * 4  # bytes: weight, gradient and two moments in fp32


def prepared(batch: int, size: int, device: str, dtype: torch.dtype, recompute: bool):
    """A step module and the arguments of one step, with histories of 50 images a slot."""
    model = CycleGANStep(Networks(generator_blocks=9), Losses(), 0, recompute=recompute).to(device, dtype)
    images = torch.rand(2, batch, 3, size, size, device=device, dtype=dtype).unbind()
    slots = list(range(batch))
    history = {
        name: ImagePool(slots, 50, (size, size), domain=number, seed=0, device=device)
        for number, name in enumerate("ab")
    }
    plans = {name: torch.zeros(3, batch, dtype=torch.int64, device=device) for name in "ab"}
    return model, (*images, history, plans)


def kept(batch: int, size: int, half: bool, recompute: bool) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights apart; half: in bf16."""
    dtype = torch.bfloat16 if half else torch.float32
    model, arguments = prepared(batch, size, "meta", dtype, recompute)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    storages = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(*arguments)
    return sum(storage.nbytes() for storage in storages.values())


def predicted(batch: int, size: int, half: bool, recompute: bool) -> float:
    """Bytes of one process, without a reserve."""
    parameters = parameter_count(prepared(1, 32, "meta", torch.float32, False)[0])
    history = 2 * batch * 51 * 3 * size**2 * 4
    return parameters * (PER_PARAMETER + 2 * half) + history + kept(batch, size, half, recompute)


def measured(batch: int, size: int, half: bool, recompute: bool) -> float:
    """Bytes at the peak of two steps, by the device's allocator, or by how much this process has grown."""
    gpu = torch.cuda.is_available()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model, arguments = prepared(batch, size, "cuda" if gpu else "cpu", torch.float32, recompute)
    configure_device(model, torch.device("cuda" if gpu else "cpu"), Compute())
    adam = torch.optim.Adam(model.parameters(), fused=True)
    for _ in range(2):
        with torch.autocast("cuda" if gpu else "cpu", torch.bfloat16) if half else nullcontext():
            loss, _ = model(*arguments)
        loss.backward()
        adam.step()
        adam.zero_grad()
    if gpu:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def largest(limit: float, half: bool, recompute: bool) -> tuple[int, int]:
    """The largest batch at 256 pixels, and the largest size at batch 1, in steps of 32."""
    unit = kept(1, 256, half, recompute) + 2 * 51 * 3 * 256**2 * 4  # grows with the number of pixels
    fixed = predicted(1, 256, half, recompute) - unit
    times = max(0.0, (limit - fixed) / unit)
    return int(times), int(256 * times**0.5 // 32 * 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, nargs="+", default=[16, 24, 80], help="10^9 bytes of a GPU's memory")
    parser.add_argument("--reserve", type=float, default=2.0, help="gigabytes of it to leave")
    parser.add_argument("--check", action="store_true", help="hold a prediction against a measurement")
    parser.add_argument("--size", type=int, default=256, help="of the check, in pixels")
    parser.add_argument("--batch", type=int, default=1, help="of the check")
    parser.add_argument("--bf16", action="store_true", help="in the check")
    parser.add_argument("--recompute", action="store_true", help="in the check")
    options = parser.parse_args()
    if options.size % 4 or options.size < 24 or options.batch < 1:
        sys.exit("error: --size must be a multiple of 4 and at least 24, --batch at least 1")
    # One prediction beside one measurement.
    if options.check:
        how = options.batch, options.size, options.bf16, options.recompute
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(
            f"batch {options.batch} at {options.size} pixels, {'bf16' if options.bf16 else 'fp32'}, "
            f"recompute {options.recompute}: predicted {predicted(*how) / GB:.2f} GB, "
            f"measured {measured(*how) / GB:.2f} GB on {device}"
        )
        return
    # The largest batch and size of each GPU, by the prediction.
    table = Table(title=f"the paper's networks, not compiled, {options.reserve:g} GB in reserve: predicted")
    for name in ("GPU", "precision", "--recompute", "largest batch at 256 pixels", "largest size at batch 1"):
        table.add_column(name, justify="right")
    for gb in options.gb:
        for half in (False, True):
            for recompute in (False, True):
                batch, size = largest((gb - options.reserve) * GB, half, recompute)
                row = [f"{gb:g} GB", "bf16" if half else "fp32", "yes" if recompute else "no", batch, size]
                table.add_row(*map(str, row))
    Console().print(table)


if __name__ == "__main__":
    main()
