"""One update of all weights: the micro-steps of a batch, one exchange of gradients, one step of Adam."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zorse.cyclegan.ema import Average
from zorse.cyclegan.image_pool import ImageHistory
from zorse.cyclegan.step import CycleGANStep
from zorse.data.order import Share
from zorse.data.pixels import to_network
from zorse.ops.cuda_graph import Recorded


@dataclass
class Update:
    """parallel, optimizer: as accelerator prepared them. history: of this rank's slots. average: None for none.

    recorded: as a CUDA graph, on one process, with learning rates that are tensors and nothing else on the host.
    """

    accelerator: Accelerator
    model: CycleGANStep
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    history: dict[str, ImageHistory]
    share: Share
    recorded: bool = False

    def __post_init__(self) -> None:
        self.dtype = next(self.model.parameters()).dtype
        self.graph = Recorded(self._all, self.accelerator.device) if self.recorded else None

    def __call__(self, batches: Iterable[dict], pairs_seen: int, rates: tuple[float, float]) -> list[dict[str, Tensor]]:
        """The named losses of each micro-step, on the device; a recorded update overwrites them in the next call.

        batches: of uint8 or int32 pixels, with their positions (data.py), one a micro-step. pairs_seen: before it.
        rates: the generators' and the discriminators'.
        """
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, lr)
        inputs = (self._inputs(micro_step, pairs) for micro_step, pairs in enumerate(batches))
        every = self.graph([tensor for each in inputs for tensor in each]) if self.graph else self._steps(inputs)
        self.model.power_iteration()
        if self.average:
            self.average.update(self.model.generators, pairs_seen + self.share.batch, self.share.batch)
        return every

    def _inputs(self, micro_step: int, pairs: dict) -> list[Tensor]:
        """Pixels of a and b, plans of the histories of a and b, draws of dropout if there is any."""
        slots = self.share.positions(0, micro_step)
        plans = [self.history[domain].plan(slots, pairs["positions"]) for domain in ("a", "b")]
        draws = self.model.draws(pairs["positions"], self.accelerator.device)
        return [pairs["a"], pairs["b"], *plans, *([] if draws is None else [draws])]

    def _all(self, tensors: list[Tensor]) -> list[dict[str, Tensor]]:
        each = len(tensors) // self.share.accumulate
        return self._steps(tensors[first : first + each] for first in range(0, len(tensors), each))

    def _steps(self, inputs: Iterable[list[Tensor]]) -> list[dict[str, Tensor]]:
        """What changes the weights; the losses of each micro-step. Nothing in it is decided on the host."""
        accelerator, every = self.accelerator, []
        for micro_step, (a, b, plan_a, plan_b, *draws) in enumerate(inputs):
            a, b = (to_network(pixels, accelerator.device, self.dtype) for pixels in (a, b))
            last = micro_step == self.share.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.parallel):
                loss, named = self.parallel(a, b, self.history, {"a": plan_a, "b": plan_b}, *draws)
                accelerator.backward(loss / self.share.accumulate)
            every.append(named)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return every


def set_rate(group: dict, lr: float) -> None:
    """The learning rate of a group of an optimizer's parameters, in place where it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
