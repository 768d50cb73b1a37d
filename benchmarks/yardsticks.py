"""What benchmarks/step.py measures a speed against: the operations of the paper's step, and a matrix product."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from zorse.config.schema import Losses, Networks
from zorse.cyclegan import losses
from zorse.cyclegan.step import CycleGANStep


class Ceiling:
    """The speed of a matrix product: of 8192 x 8192 in bf16 on a GPU, of 2048 x 2048 in float32 on a CPU."""

    def __init__(self, threads: int | None):
        if threads:
            torch.set_num_threads(threads)
        self.gpu = torch.cuda.is_available()
        self.side, kind = (8192, torch.bfloat16) if self.gpu else (2048, torch.float32)
        self.factors = torch.randn(3, self.side, self.side, dtype=kind, device="cuda" if self.gpu else "cpu")

    def describe(self) -> dict:
        kind = torch.cuda.get_device_name() if self.gpu else f"CPU ({torch.backends.cpu.get_cpu_capability()})"
        product = f"{self.side} x {self.side} in {str(self.factors.dtype).removeprefix('torch.')}"
        return {"device": kind, "gpu": self.gpu, "threads": torch.get_num_threads(), "product": product}

    def measure(self, seconds: float = 1.0) -> float:
        """FLOP/s over about a second, after a tenth of it."""
        return [self._rate(part) for part in (seconds / 10, seconds)][-1]

    def _rate(self, seconds: float) -> float:
        a, b, out = self.factors
        began, done = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            for _ in range(20 if self.gpu else 1):
                torch.mm(a, b, out=out)
                done += 1
            if self.gpu:
                torch.cuda.synchronize()
        return done * 2 * self.side**3 / passed


def flop_of_a_pair(networks: Networks, size: int) -> int:
    """Multiplications and additions of the paper's step for one pair, forward and backward, with nothing computed twice
    or in vain; the same number for whoever takes the step.
    """
    model = CycleGANStep(networks, Losses(), seed=0).to("meta")
    a, b = torch.empty(2, 1, 3, size, size, device="meta")
    (g, f), (of_a, of_b) = model.generators.values(), model.discriminators.values()
    with FlopCounterMode(display=False) as counter:
        fake_b, fake_a = g(a), f(b)
        model.discriminators.requires_grad_(False)
        loss = losses.adversarial(of_b(fake_b)) + losses.adversarial(of_a(fake_a))
        loss = loss + losses.cycle(a, f(fake_b)) + losses.cycle(b, g(fake_a))
        (loss + losses.identity(a, f(a)) + losses.identity(b, g(b))).backward()
        model.discriminators.requires_grad_(True)
        loss = losses.discriminator(of_a(a), of_a(fake_a.detach()))
        (loss + losses.discriminator(of_b(b), of_b(fake_b.detach()))).backward()
    return counter.get_total_flops()
