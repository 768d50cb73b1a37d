"""One update of all weights: the micro-steps of a batch, one exchange of gradients, one step of Adam."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.ema import Average
from pipeline.history import ImageHistory
from pipeline.order import Share
from pipeline.pixels import to_network
from pipeline.step import CycleGANStep


@dataclass(frozen=True)
class Update:
    """parallel, optimizer: as accelerator prepared them. history: of this rank's slots. average: None for none."""

    accelerator: Accelerator
    model: CycleGANStep
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    history: dict[str, ImageHistory]
    share: Share

    def __call__(self, batches: Iterable[dict], pairs_seen: int, rates: tuple[float, float]) -> list[dict[str, Tensor]]:
        """The named losses of each micro-step, on the device.

        batches: of uint8 or int32 pixels, with their positions (data.py), one a micro-step. pairs_seen: before it.
        rates: the generators' and the discriminators'.
        """
        accelerator, share, device = self.accelerator, self.share, self.accelerator.device
        dtype = next(self.model.parameters()).dtype
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        every = []
        for micro_step, pairs in enumerate(batches):
            a, b = (to_network(pairs[domain], device, dtype) for domain in ("a", "b"))
            slots = share.positions(0, micro_step)
            plans = {domain: images.plan(slots, pairs["positions"]) for domain, images in self.history.items()}
            draws = self.model.draws(pairs["positions"], device)
            last = micro_step == share.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.parallel):
                loss, named = self.parallel(a, b, self.history, plans, draws)
                accelerator.backward(loss / share.accumulate)
            every.append(named)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.power_iteration()
        if self.average:
            self.average.update(self.model.generators, pairs_seen + share.batch, share.batch)
        return every
