"""The length of a run and the learning rate, as functions of the pairs seen."""

import math

from zorse.config.schema import Optimization
from zorse.errors import UserError


def total_pairs(optimization: Optimization, epoch: int) -> int:
    """The length of a run; `epoch` in pairs."""
    pairs = round((optimization.epochs + optimization.decay_epochs) * epoch)
    if pairs == 0:
        raise UserError(f"--epochs and --decay-epochs give less than one pair; an epoch has {epoch}")
    if optimization.warmup_pairs >= pairs:
        raise UserError(f"--warmup-pairs {optimization.warmup_pairs}: the run has {pairs} pairs; give fewer")
    return pairs


def peak_rates(optimization: Optimization) -> tuple[float, float]:
    """The highest rate of the generators and of the discriminators: as given, and scaled for the batch if asked for."""
    batch = optimization.batch
    factor = {"none": 1.0, "sqrt": batch**0.5, "linear": batch}[optimization.lr_scaling]
    of_g, of_d = (optimization.lr if lr is None else lr for lr in (optimization.lr_g, optimization.lr_d))
    return of_g * factor, of_d * factor


def learning_rates(pairs_seen: int, optimization: Optimization, epoch: int) -> tuple[float, float]:
    """The generators' and the discriminators' rate in the step that starts at `pairs_seen`; `epoch` in pairs.

    Constant, then to 0 by --lr-policy (linear: section 4); before that, rising over the warm-up if there is one.
    """
    decay, warmup = optimization.decay_epochs * epoch, optimization.warmup_pairs
    left = optimization.epochs * epoch + decay - pairs_seen
    factor = min(1.0, max(0.0, left / decay)) if decay and optimization.lr_policy != "constant" else 1.0
    if optimization.lr_policy == "cosine":
        factor = (1 - math.cos(math.pi * factor)) / 2
    factor *= min(1.0, (pairs_seen + optimization.batch) / warmup) if warmup else 1.0
    of_g, of_d = peak_rates(optimization)
    return of_g * factor, of_d * factor
