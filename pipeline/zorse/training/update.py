"""One update of all weights: the micro-batches of a step, one all-reduce of gradients, one step of Adam."""

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import get_total_norm

from zorse.data.pixels import to_network
from zorse.ops.cuda_graph import CapturedGraph
from zorse.training.state import TrainState


class Update:
    """One step of a state's networks: gradients of all micro-batches, one all-reduce, one step of Adam, the EMA.

    With --cuda-graph it is captured as a CUDA graph, on one rank, with learning rates that are tensors and nothing else
    on the host.
    """

    def __init__(self, accelerator: Accelerator, state: TrainState):
        self.accelerator, self.state, self.rank_slice = accelerator, state, state.rank_slice
        self.model, self.pools = state.model, state.pools
        self.parallel, self.optimizer = accelerator.prepare(state.model, state.optimizer)
        self.dtype = next(self.model.parameters()).dtype
        self.measure_gradients, self.gradient_norms = False, {}
        captured = state.config.compute.cuda_graph
        self.graph = CapturedGraph(self._all, accelerator.device) if captured else None
        if accelerator.num_processes > 2:  # the sum of two is the same in either order
            self._settle_buckets()

    def __call__(
        self, batches: Iterable[dict], rates: tuple[float, float], measure_gradients: bool = False
    ) -> list[dict[str, Tensor]]:
        """The named losses of each micro-batch, on the device; a captured update overwrites them in the next call.

        batches: of uint8 or int32 pixels, with their positions (data/loader.py), one a micro-batch. rates: the learning
        rates of the generators and of the discriminators. measure_gradients: leave the norm of each network's gradient
        in `gradient_norms`; a captured update always does.
        """
        self.measure_gradients = measure_gradients or self.graph is not None
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, lr)
        inputs = (self._inputs(micro_step, pairs) for micro_step, pairs in enumerate(batches))
        losses = self.graph([tensor for each in inputs for tensor in each]) if self.graph else self._steps(inputs)
        self.model.after_step()
        if self.state.ema:
            batch = self.rank_slice.batch
            self.state.ema.update(self.model.generators, self.state.pairs_seen + batch, batch)
        return losses

    def _settle_buckets(self) -> None:
        """Have DDP lay out its buckets as they stay, by a backward pass whose gradients are thrown away.

        DDP orders parameters anew after its first backward pass, and where a gradient lies decides in which order the
        ranks' parts are added up. So the first step of each start would round otherwise than the same step of a run
        that was not stopped. Nothing that a checkpoint holds is changed.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        count, device = self.rank_slice.micro_batch_size, self.accelerator.device
        plans = {domain: pool.no_plan(self.rank_slice.slots[:count]) for domain, pool in self.pools.items()}
        images = {
            domain: torch.zeros(count, *pool.images.shape[2:], device=device, dtype=self.dtype)
            for domain, pool in self.pools.items()
        }
        draws = self.model.draws(list(range(count)), device)
        loss, _ = self.parallel(images["a"], images["b"], self.pools, plans, *([] if draws is None else [draws]))
        self.accelerator.backward(loss)
        self.optimizer.zero_grad()
        for buffer, before in buffers:
            buffer.copy_(before)

    def _inputs(self, micro_step: int, pairs: dict) -> list[Tensor]:
        """Pixels of a and b, plans of the image pools of a and b, draws of dropout if there is any."""
        slots = self.rank_slice.positions(0, micro_step)
        plans = [self.pools[domain].plan(slots, pairs["positions"]) for domain in ("a", "b")]
        draws = self.model.draws(pairs["positions"], self.accelerator.device)
        return [pairs["a"], pairs["b"], *plans, *([] if draws is None else [draws])]

    def _all(self, tensors: list[Tensor]) -> list[dict[str, Tensor]]:
        each = len(tensors) // self.rank_slice.accum_steps
        return self._steps(tensors[first : first + each] for first in range(0, len(tensors), each))

    def _steps(self, inputs: Iterable[list[Tensor]]) -> list[dict[str, Tensor]]:
        """Change the weights; returns the losses of each micro-batch. Nothing in it is decided on the host."""
        accelerator, losses = self.accelerator, []
        for micro_step, (a, b, plan_a, plan_b, *draws) in enumerate(inputs):
            a, b = (to_network(pixels, accelerator.device, self.dtype) for pixels in (a, b))
            last = micro_step == self.rank_slice.accum_steps - 1
            with nullcontext() if last else accelerator.no_sync(self.parallel):
                loss, named = self.parallel(a, b, self.pools, {"a": plan_a, "b": plan_b}, *draws)
                accelerator.backward(loss / self.rank_slice.accum_steps)
            losses.append(named)
        if self.measure_gradients:
            self._measure_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _measure_gradients(self) -> None:
        """The norm of each network's gradient, all-reduced, and in fp16 still scaled, by the names of the losses."""
        networks = {**self.model.generators, **self.model.discriminators}
        for name, network in networks.items():
            gradients = [each.grad for each in network.parameters() if each.grad is not None]
            self.gradient_norms[name.replace("of_", "discriminator_")] = get_total_norm(gradients)


def set_rate(group: dict, lr: float) -> None:
    """The learning rate of a group of an optimizer's parameters, in place where it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
