"""One training step of CycleGAN as one module, one forward, one backward.

Shapes: a, b, fake_*, cycle_*, same_* are [n, C, H, W]; n pairs per micro-step on this rank.

Both optimizers of the paper step from the same old weights, and the generators' and discriminators' losses share no
live path: the generators are judged with the discriminators' parameters detached, and the discriminators see detached
images. So the gradient of the sum is each network's own, one optimizer over all four is the paper's two, and data
parallelism needs one reduction per step.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline import losses
from pipeline.config import Losses, Networks
from pipeline.history import ImageHistory
from pipeline.networks import Discriminator, build_generator, init_weights
from pipeline.order import INIT, key


def call(network: nn.Module, image: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
    """network(image), with other parameters than its own if there are any."""
    return functional_call(network, parameters, (image,)) if parameters else network(image)


class CycleGANStep(nn.Module):
    """The four networks and the losses of a batch.

    generators: a_to_b (the paper's G) and b_to_a (F). discriminators: of_a (D_X) and of_b (D_Y). channels: of the
    images of domain a and of b. recompute, fused: see Generator.
    """

    def __init__(
        self,
        networks: Networks,
        weights: Losses,
        seed: int,
        channels: tuple[int, int] = (3, 3),
        *,
        recompute: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        self.weights = weights
        self._call = call  # until compile_networks
        a, b = channels
        how = {"recompute": recompute, "fused": fused}
        self.generators = nn.ModuleDict(
            {"a_to_b": build_generator(networks, a, b, **how), "b_to_a": build_generator(networks, b, a, **how)}
        )
        size = networks.discriminator_channels, networks.discriminator_layers
        self.discriminators = nn.ModuleDict(
            {"of_a": Discriminator(*size, a, fused=fused), "of_b": Discriminator(*size, b, fused=fused)}
        )
        every = [*self.generators.values(), *self.discriminators.values()]
        for number, network in enumerate(every):
            init_weights(network, torch.Generator().manual_seed(key(seed, INIT, number) >> 1))

    def compile_networks(self) -> None:
        """Compile what the networks do in training.

        That is a graph for each kind of network, size of its batch, and whether its input or its parameters get
        gradients; DDP splits them at its buckets. Whoever calls a network besides, to translate or to evaluate, calls
        it as it is, so nothing else is compiled.
        """
        torch._dynamo.config.recompile_limit = 64  # 8 graphs, and so the default, are reached with unlike domains
        self._call = torch.compile(call, dynamic=False, fullgraph=True)

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        history: dict[str, ImageHistory],
        plans: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to differentiate, and the named losses, detached.

        history: of the fakes of domain "a" and "b"; plans: what to do with them, from ImageHistory.plan.
        """
        g, f = self.generators["a_to_b"], self.generators["b_to_a"]

        # InstanceNorm works per sample, so inputs of the same network may share a call.
        if self.weights.identity_weight > 0:
            fake_b, same_b = self._call(g, torch.cat([a, b])).chunk(2)
            fake_a, same_a = self._call(f, torch.cat([b, a])).chunk(2)
        else:
            fake_b, fake_a = self._call(g, a), self._call(f, b)
        cycle_a, cycle_b = self._call(f, fake_b), self._call(g, fake_a)

        named = {
            "adversarial_a_to_b": losses.adversarial(self._frozen("of_b", fake_b)),
            "adversarial_b_to_a": losses.adversarial(self._frozen("of_a", fake_a)),
            "cycle_a": losses.cycle(a, cycle_a),
            "cycle_b": losses.cycle(b, cycle_b),
        }
        if self.weights.identity_weight > 0:
            named["identity_a"] = losses.identity(a, same_a)
            named["identity_b"] = losses.identity(b, same_b)
        for domain, real, fake in (("a", a, fake_a), ("b", b, fake_b)):
            judged = history[domain].exchange(fake.detach(), plans[domain]).to(real.dtype)
            logits = self._call(self.discriminators[f"of_{domain}"], torch.cat([real, judged]))
            real_logits, fake_logits = logits.chunk(2)
            named[f"discriminator_{domain}"] = losses.discriminator(real_logits, fake_logits)

        total = losses.total(named, self.weights.cycle_weight, self.weights.identity_weight)
        return total, {name: loss.detach() for name, loss in named.items()}

    def _frozen(self, of: str, image: Tensor) -> Tensor:
        """A discriminator's logits with a gradient to the image alone, without touching requires_grad."""
        network = self.discriminators[of]
        return self._call(network, image, {name: p.detach() for name, p in network.named_parameters()})
