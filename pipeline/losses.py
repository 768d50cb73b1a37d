"""The losses of the CycleGAN paper as pure functions; each returns one scalar, a mean, in fp32 or better.

Logits are [N, 1, H', W'], images [N, 3, H, W]. Every loss is a mean over samples, so the mean over ranks and
micro-steps of equal size is the loss of the global batch.
"""

import torch.nn.functional as F
from torch import Tensor

from pipeline.networks import at_least_fp32


def adversarial(fake_logits: Tensor) -> Tensor:
    """The generator's least-squares loss, E[(D(G(x)) - 1)^2] (section 4, training details)."""
    return (at_least_fp32(fake_logits) - 1).square().mean()


def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's least-squares loss, halved: (E[(D(y) - 1)^2] + E[D(G(x))^2]) / 2 (section 4)."""
    real = (at_least_fp32(real_logits) - 1).square().mean()
    fake = at_least_fp32(fake_logits).square().mean()
    return 0.5 * (real + fake)


def cycle(image: Tensor, reconstruction: Tensor) -> Tensor:
    """E[|F(G(x)) - x|_1] (equation 2), as a mean over pixels."""
    return F.l1_loss(at_least_fp32(reconstruction), image)


def identity(image: Tensor, same: Tensor) -> Tensor:
    """E[|G(y) - y|_1] (section 5.2, photo generation from paintings), as a mean over pixels."""
    return F.l1_loss(at_least_fp32(same), image)


def total(losses: dict[str, Tensor], cycle_weight: float, identity_weight: float) -> Tensor:
    """The sum that is differentiated once: equation 3, the identity term, and both discriminators' losses.

    `identity_weight` is a share of `cycle_weight`, as in the paper. The generators' and the discriminators' terms share
    no live path (see step.py), so one backward of the sum gives each network the gradient of its own objective.
    """
    weight = {"cycle": cycle_weight, "identity": cycle_weight * identity_weight}
    return sum(weight.get(name.split("_")[0], 1.0) * loss for name, loss in losses.items())
