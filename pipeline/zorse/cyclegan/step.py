"""One training step of CycleGAN as one module, one forward, one backward.

Shapes: a, b, fake_*, cycle_*, same_* are [n, C, H, W], with the n pairs of a micro-batch on this rank.

Both optimizers of the paper step from the same old weights, and the generators' and discriminators' losses share no
live path: the generators are judged with the discriminators' parameters detached, and the discriminators see detached
images. So the gradient of the sum is each network's own, one optimizer over all four is the paper's two, and data
parallelism needs one reduction per step.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zorse.config.schema import Losses, Networks
from zorse.cyclegan import losses
from zorse.cyclegan.build import build_discriminator, build_generator, init_centred, init_weights, inner_convolutions
from zorse.cyclegan.image_pool import ImagePool
from zorse.cyclegan.layers import centre_weights
from zorse.directions import Direction
from zorse.keyed_random import DROPOUT, INIT, key


def call(network: nn.Module, inputs: tuple[Tensor, ...], parameters: dict[str, Tensor] | None = None) -> Tensor:
    """network(*inputs), with other parameters than its own if there are any."""
    return functional_call(network, parameters, inputs) if parameters else network(*inputs)


class CycleGANStep(nn.Module):
    """The four networks and the losses of a batch.

    generators: a_to_b (the paper's G) and b_to_a (F). discriminators: of_a (D_X) and of_b (D_Y). channels: of the
    images of domain a and of b. means: of the training images of "a" and of "b", a number in [-1, 1] for each channel,
    where norm "centred" begins. recompute, fused: see Generator.
    """

    def __init__(
        self,
        networks: Networks,
        weights: Losses,
        seed: int,
        channels: tuple[int, int] = (3, 3),
        *,
        means: dict[str, list[float]] | None = None,
        recompute: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        self.weights, self.seed, self.dropout = weights, seed, networks.dropout
        self.batch_calls = (
            networks.norm != "batch"
        )  # inputs of one network may share a call: they do not see each other
        self._call = call  # until compile_networks
        a, b = channels
        options = {"recompute": recompute, "fused": fused}
        ends = {"a_to_b": (a, b), "b_to_a": (b, a)}
        self.generators = nn.ModuleDict(
            {direction: build_generator(networks, *channels, **options) for direction, channels in ends.items()}
        )
        self.discriminators = nn.ModuleDict(
            {of: build_discriminator(networks, c_in, fused=fused) for of, c_in in (("of_a", a), ("of_b", b))}
        )
        self.centred = networks.norm == "centred"
        every = {**self.generators, **self.discriminators}
        for number, (name, network) in enumerate(every.items()):
            draws = torch.Generator().manual_seed(key(seed, INIT, number) >> 1)
            init_weights(network, draws)
            if self.centred and name in self.generators:
                init_centred(network, means and means[Direction(name).target], draws)

    def compile_networks(self) -> None:
        """Compile the calls of the networks in training.

        That is a graph per kind of network, batch size, and whether its input or its parameters need gradients; DDP
        splits them at its buckets. Translation and evaluation call the networks uncompiled.
        """
        torch._dynamo.config.recompile_limit = 64  # 8 graphs, and so the default, are reached with unlike domains
        self._call = torch.compile(call, dynamic=False, fullgraph=True)

    def draws(self, positions: list[int], device: torch.device) -> Tensor | None:
        """Keys of the dropout of the pairs at `positions`, the same on any rank: int64 [n]; None for no dropout."""
        if not self.dropout:
            return None
        return torch.tensor([key(self.seed, DROPOUT, position) >> 1 for position in positions]).to(device)

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        pools: dict[str, ImagePool],
        plans: dict[str, Tensor],
        draws: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss to differentiate, and the named losses and measures, detached.

        pools: of the fakes of domain "a" and "b". plans: what to do with them, from ImagePool.plan. draws: keys of
        dropout.
        """
        weights, with_identity = self.weights, self.weights.identity_weight > 0
        # Each use of a generator has its own dropout.
        first, same, again = (draws, draws + 1000, draws + 2000) if self.dropout else (None, None, None)

        # Translate, reconstruct, and translate images that are in the target domain already (identity).
        fake_b, *same_b = self._each("a_to_b", (a, first), *([(b, same)] if with_identity else []))
        fake_a, *same_a = self._each("b_to_a", (b, first), *([(a, same)] if with_identity else []))
        (cycle_a,), (cycle_b,) = self._each("b_to_a", (fake_b, again)), self._each("a_to_b", (fake_a, again))

        # Generators: judged with the discriminators' parameters detached, so only images get a gradient.
        named = {
            "adversarial_a_to_b": losses.adversarial(self._frozen("of_b", fake_b), weights.adversarial),
            "adversarial_b_to_a": losses.adversarial(self._frozen("of_a", fake_a), weights.adversarial),
            "cycle_a": losses.cycle(a, cycle_a),
            "cycle_b": losses.cycle(b, cycle_b),
        }
        if with_identity:
            named["identity_a"] = losses.identity(a, *same_a)
            named["identity_b"] = losses.identity(b, *same_b)
        # Discriminators: on real images, and on fakes from the image pool.
        for domain, real, fake in (("a", a, fake_a), ("b", b, fake_b)):
            judged = pools[domain].exchange(fake.detach(), plans[domain]).to(real.dtype)
            if weights.r1_weight:
                real = real.detach().requires_grad_()
            real_logits, fake_logits = self._judge(f"of_{domain}", real, judged)
            named[f"discriminator_{domain}"] = losses.discriminator(real_logits, fake_logits, weights.adversarial)
            if weights.r1_weight:
                named[f"r1_{domain}"] = losses.r1(real, real_logits)

        loss = losses.total(named, weights)
        # What tells whether the generators can learn, after the losses in each line.
        named |= measures("a_to_b", (a, b, fake_a), (fake_b, *same_b, cycle_b), with_tanh=not self.centred)
        named |= measures("b_to_a", (b, a, fake_b), (fake_a, *same_a, cycle_a), with_tanh=not self.centred)
        return loss, {name: value.detach() for name, value in named.items()}

    def _each(self, direction: str, *inputs: tuple[Tensor, Tensor | None]) -> list[Tensor]:
        """A generator's output for each (images, draws), by one call where that changes nothing."""
        network = self.generators[direction]
        if len(inputs) == 1 or not self.batch_calls:
            return [self._call(network, each if self.dropout else each[:1]) for each in inputs]
        images, draws = zip(*inputs, strict=True)
        merged = (torch.cat(images), torch.cat(draws)) if self.dropout else (torch.cat(images),)
        return list(self._call(network, merged).chunk(len(inputs)))

    def _judge(self, of: str, *images: Tensor) -> list[Tensor]:
        """A discriminator's logits for each batch of images, likewise."""
        network = self.discriminators[of]
        if not self.batch_calls:
            return [self._call(network, (each,)) for each in images]
        return list(self._call(network, (torch.cat(images),)).chunk(len(images)))

    def _frozen(self, of: str, image: Tensor) -> Tensor:
        """A discriminator's logits with a gradient to the image alone, without touching requires_grad."""
        network = self.discriminators[of]
        return self._call(network, (image,), {name: p.detach() for name, p in network.named_parameters()})

    def after_step(self) -> None:
        """What follows each step of the optimizer; see SpectralConv and centre_weights."""
        for network in self.discriminators.values():
            network.power_iteration()
        if self.centred:
            for generator in self.generators.values():
                centre_weights(inner_convolutions(generator))


MEASURES = ("response", "flat", "change")  # what the names begin with
LEAST = 1e-3  # of a difference that others are divided by, in a range of 2


@torch.no_grad()
def measures(
    direction: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], *, with_tanh: bool = True
) -> dict[str, Tensor]:
    """Whether a generator can learn, answers to its input, and changes it, by what a step has computed anyway.

    inputs: images of its source domain and of its target domain, and fakes of its source domain. outputs: its
    translations of the first, of the second if there is an identity loss, and of the last.

    response: the mean difference between two outputs over that between their inputs; 0 for a generator that ignores
    its input. flat: the share of output values at which tanh, if there is one, has no slope, so that nothing is learned
    from them. change: the mean difference between input and output over that between images of both domains; 0 for one
    that returns its input, and left out for domains of unlike channels.
    """
    (real, target, fake), (first, *_, last) = inputs, outputs

    def difference(one: Tensor, other: Tensor) -> Tensor:
        return (one.float() - other.float()).abs().mean()

    found = {f"response_{direction}": difference(first, last) / difference(real, fake).clamp_min(LEAST)}
    if with_tanh:
        flat = [(each.abs() >= 1).float().mean() for each in outputs]
        found[f"flat_{direction}"] = torch.stack(flat).mean()
    if real.shape == target.shape:
        found[f"change_{direction}"] = difference(first, real) / difference(target, real).clamp_min(LEAST)
    return found
