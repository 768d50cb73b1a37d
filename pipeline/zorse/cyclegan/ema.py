"""An exponential moving average (EMA) of the generators' weights, which often translates better than they do."""

import copy

import torch
from torch import nn

RAMP = 0.05  # the half-life is at most this fraction of the pairs seen, so that the first weights are soon forgotten


class GeneratorEMA:
    """The average of both generators' weights. (Karras et al. 2020, arXiv 1912.04958, and its code's ramp)

    half_life: pairs after which weights count half as much, at any batch size.
    """

    def __init__(self, generators: nn.ModuleDict, half_life: int):
        self.half_life = half_life
        self.generators = copy.deepcopy(generators).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, generators: nn.ModuleDict, pairs_seen: int, batch: int) -> None:
        """After the step of `batch` pairs that ends at `pairs_seen`."""
        kept = 0.5 ** (batch / min(self.half_life, RAMP * pairs_seen))
        torch._foreach_lerp_(list(self.generators.parameters()), list(generators.parameters()), 1 - kept)
        for average, now in zip(self.generators.buffers(), generators.buffers(), strict=True):
            average.copy_(now)  # a batch norm's statistics are a running average already
