"""What takes steps in the workers of benchmarks/step.py: what all contenders have in common, and ours.

Ours does what zorse/training/trainer.py does in a step, without accelerate, which on one process adds no more than an
autocast around the forward. It is given uint8 images, in pinned memory if there is a GPU.
"""

import time
from pathlib import Path

import numpy as np
import torch
from profiles import time_by_class, work_items
from torch.profiler import profile

from zorse.config.schema import Compute, Config, Losses, Networks, Optimization
from zorse.cyclegan.image_pool import ImagePool
from zorse.cyclegan.step import MEASURES, CycleGANStep
from zorse.data.pixels import to_network
from zorse.ops.cuda_graph import WARM_UP, CapturedGraph
from zorse.runs.metrics import LossWindow
from zorse.training.devices import configure_device
from zorse.training.schedule import learning_rates
from zorse.training.state import build_adam
from zorse.training.update import set_rate

SEED = 0
EPOCH = 1334  # pairs, of horse2zebra
BATCHES = 4  # different ones, taken in turn
GATE_SIZE, GATE_BATCH = 64, 2
GATE_STEPS = WARM_UP + 2  # so that a recorded step is looked at, too
PROFILED_STEPS = 3


def set_precision(precision: str) -> torch.dtype:
    """Whether products of float32 may be rounded to TF32; the type of the weights. torch by itself has it on for
    convolutions and off for matrix products. By the old names of these switches, since torch.compile still asks them.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision in ("tf32", "bf16")
    return torch.float64 if precision == "fp64" else torch.float32


class Contender:
    """Takes training steps. A subclass has `build`, `step` and `losses`, and in `build` sets `optimizers` and `named`,
    the parameters by our names.
    """

    def __init__(self, networks: Networks, threads: int | None):
        self.networks = networks
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if threads:
            torch.set_num_threads(threads)

    def start(self, precision: str, size: int, batch: int, full: bool = True) -> None:
        """Networks at their first step, with full histories or empty ones."""
        self.before, self.size, self.batch, self.taken = megabytes("VmRSS"), size, batch, 0
        self.dtype, self.bf16 = set_precision(precision), precision == "bf16"
        generator = torch.Generator().manual_seed(SEED)
        shape = (BATCHES, 2, batch, 3, size, size)
        self.build(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), full)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def run(self, steps: int) -> dict[str, float]:
        """Seconds of so many steps: by the clock, of this process's CPU time, and on a GPU until all was queued and by
        its own events.
        """
        self.synchronize()
        gpu = self.device.type == "cuda"
        if gpu:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step()
        queued = time.perf_counter() - began
        if gpu:
            last.record()
        self.synchronize()
        seconds = {"steps": steps, "wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        if gpu:
            seconds |= {"queued": queued, "events": first.elapsed_time(last) / 1000}
        if not np.isfinite(list(self.losses().values())).all():
            raise ValueError(f"a loss is not finite: {self.losses()}")
        return seconds

    def forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak_memory(self) -> float:
        """MB since `forget_peak`: reserved on the GPU, since a graph's memory is not allocated anew in a replay, or the
        growth of this process since `start`.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved() / 1e6
        return megabytes("VmHWM") - self.before

    def gate(self, precision: str) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
        """The losses of the first and of the last step of some, and the gradients as the optimizers got them in the
        first one.
        """
        self.start(precision, GATE_SIZE, GATE_BATCH, full=False)
        names = {id(parameter): name for name, parameter in self.named.items()}
        gradients = {}

        def note(optimizer: torch.optim.Optimizer, *_) -> None:
            for parameter in (p for group in optimizer.param_groups for p in group["params"] if id(p) in names):
                gradients[names[id(parameter)]] = parameter.grad.double().cpu().numpy().copy()

        hooks = [optimizer.register_step_pre_hook(note) for optimizer in self.optimizers]
        told = []
        for _ in range(GATE_STEPS):
            self.step()
            told.append(self.losses())
            while hooks:
                hooks.pop().remove()
        return [told[0], told[-1]], gradients

    def count(self) -> int:
        """Kernels and copies of one step on a GPU, operators on a CPU."""
        with profile() as trace:
            self.step()
            self.synchronize()
        return work_items(trace)

    def profile(self, path: Path) -> dict[str, float]:
        """Milliseconds of a step by class of work; the trace goes into a file."""
        with profile() as trace:
            for _ in range(PROFILED_STEPS):
                self.step()
            self.synchronize()
        trace.export_chrome_trace(str(path))
        return {name: us / 1000 / PROFILED_STEPS for name, us in time_by_class(trace).items()}


class Ours(Contender):
    def __init__(self, variant: str, networks: Networks, threads: int | None):
        super().__init__(networks, threads)
        self.variant = variant

    def build(self, images: torch.Tensor, full: bool) -> None:
        self.optimization, weights = Optimization(batch=self.batch), Losses()
        torch.compiler.reset()  # of what it holds for networks that were built before
        fused = "fused" in self.variant and self.dtype == torch.float32
        self.model = CycleGANStep(self.networks, weights, SEED, fused=fused).to(self.device, self.dtype)
        tf32 = "on" if torch.backends.cudnn.allow_tf32 else "off"
        configure_device(
            self.model, self.device, Compute(compile="compile" in self.variant, fused_norm=fused, tf32=tf32)
        )
        # Adam and the update, captured as a CUDA graph if the variant says so.
        self.named = dict(self.model.named_parameters())
        recorded = "graph" in self.variant
        self.adam = build_adam(Config(optimization=self.optimization, compute=Compute(cuda_graph=recorded)), self.model)
        self.update = CapturedGraph(self.change, self.device) if recorded else self.change
        self.optimizers = [self.adam]
        self.window = LossWindow(self.batch, 1)
        # Image pools, full of noise if the measurement is to be of a run that is under way.
        self.slots = list(range(self.batch))
        self.history = {
            name: ImagePool(
                self.slots,
                weights.image_pool_size,
                (self.size, self.size),
                domain=number,
                seed=SEED,
                device=self.device,
                dtype=self.dtype,
            )
            for number, name in enumerate("ab")
        }
        if full:
            for history in self.history.values():
                for slot in self.slots:
                    history.load(slot, torch.rand(weights.image_pool_size, 3, self.size, self.size) * 2 - 1)
        if self.device.type == "cuda":
            images = images.pin_memory()
        self.pairs = [{"a": a, "b": b} for a, b in images]

    def step(self) -> None:
        pairs_seen, pairs = self.taken * self.batch, self.pairs[self.taken % BATCHES]
        rates = learning_rates(pairs_seen, self.optimization, EPOCH)
        for group, lr in zip(self.adam.param_groups, rates, strict=True):
            set_rate(group, lr)
        positions = [pairs_seen + slot for slot in self.slots]
        plans = [history.plan(self.slots, positions) for history in self.history.values()]
        self.window.add(self.update([pairs["a"], pairs["b"], *plans]))
        self.taken += 1

    def change(self, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What zorse/training/update.py does between taking its inputs and returning the losses."""
        a, b = (to_network(pixels, self.device, self.dtype) for pixels in inputs[:2])
        with self.autocast():
            loss, named = self.model(a, b, self.history, dict(zip("ab", inputs[2:], strict=True)))
        loss.backward()
        self.adam.step()
        self.adam.zero_grad()
        return named

    def losses(self) -> dict[str, float]:
        self.window.collect(lambda rows: rows)
        found = zip(self.window.names, self.window.rows[-1], strict=True)
        return {name: value for name, value in found if not name.startswith(MEASURES)}


def megabytes(field: str) -> float:
    """Of this process's memory: VmRSS is now, VmHWM the most so far."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1000
