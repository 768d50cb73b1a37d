"""The losses of the CycleGAN paper as pure functions; each returns one scalar, a mean, in fp32 or better.

Logits are [N, 1, H', W'], images [N, 3, H, W]. Every loss is a mean over samples, so the mean over ranks and
micro-steps of equal size is the loss of the global batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zorse.config.schema import Losses
from zorse.cyclegan.layers import at_least_fp32


def adversarial(fake_logits: Tensor, kind: str = "least_squares") -> Tensor:
    """The generator's loss, by how logits are judged.

    E[(D(G(x)) - 1)^2] for least squares (section 4, training details), E[-log sigmoid(D(G(x)))] for cross-entropy
    (Goodfellow et al. 2014, section 3), E[-D(G(x))] for the hinge (Lim and Ye 2017).
    """
    fake = at_least_fp32(fake_logits)
    if kind == "least_squares":
        return (fake - 1).square().mean()
    return F.softplus(-fake).mean() if kind == "cross_entropy" else -fake.mean()


def discriminator(real_logits: Tensor, fake_logits: Tensor, kind: str = "least_squares") -> Tensor:
    """The discriminator's loss, halved (section 4).

    E[(D(y) - 1)^2] + E[D(G(x))^2] for least squares, the cross-entropy, or E[max(0, 1 - D(y))] +
    E[max(0, 1 + D(G(x)))] for the hinge.
    """
    real, fake = at_least_fp32(real_logits), at_least_fp32(fake_logits)
    if kind == "least_squares":
        parts = (real - 1).square(), fake.square()
    elif kind == "cross_entropy":
        parts = F.softplus(-real), F.softplus(fake)
    else:
        parts = F.relu(1 - real), F.relu(1 + fake)
    return 0.5 * sum(part.mean() for part in parts)


def r1(real: Tensor, real_logits: Tensor) -> Tensor:
    """E[|dD(y)/dy|^2] / 2, of D as the mean of an image's logits, at real images (Mescheder et al. 2018, equation 9).

    real [n, C, H, W], from which the logits were computed, has to require gradients.
    """
    of_images = at_least_fp32(real_logits).mean((1, 2, 3)).sum()
    (gradient,) = torch.autograd.grad(of_images, real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


def cycle(image: Tensor, reconstruction: Tensor) -> Tensor:
    """E[|F(G(x)) - x|_1] (equation 2), as a mean over pixels."""
    return F.l1_loss(at_least_fp32(reconstruction), image)


def identity(image: Tensor, same: Tensor) -> Tensor:
    """E[|G(y) - y|_1] (section 5.2, photo generation from paintings), as a mean over pixels."""
    return F.l1_loss(at_least_fp32(same), image)


def total(losses: dict[str, Tensor], weights: Losses) -> Tensor:
    """The sum that is differentiated once: equation 3, the identity term, and both discriminators' losses.

    The weight of the identity is a share of the cycle's, as in the paper. The generators' and the discriminators' terms
    share no live path (see step.py), so one backward of the sum gives each network the gradient of its own objective.
    """
    weight = {"cycle": weights.cycle_weight, "identity": weights.cycle_weight * weights.identity_weight}
    weight["r1"] = weights.r1_weight
    return sum(weight.get(name.split("_")[0], 1.0) * loss for name, loss in losses.items())
