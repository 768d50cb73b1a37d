"""The length of a run and the learning rate, as functions of the pairs seen."""

from pipeline.config import Optimization
from pipeline.errors import UserError


def total_pairs(optimization: Optimization, epoch: int) -> int:
    """The length of a run; `epoch` in pairs."""
    pairs = round((optimization.epochs + optimization.decay_epochs) * epoch)
    if pairs == 0:
        raise UserError(f"--epochs and --decay-epochs give less than one pair; an epoch has {epoch}")
    return pairs


def learning_rates(pairs_seen: int, optimization: Optimization, epoch: int) -> tuple[float, float]:
    """The generators' and the discriminators' rate in the step that starts at `pairs_seen`; `epoch` in pairs.

    Constant, then linear to 0 (section 4); scaled for the batch, and rising over the warm-up, if that is asked for.
    """
    decay, batch, warmup = optimization.decay_epochs * epoch, optimization.batch, optimization.warmup_pairs
    left = optimization.epochs * epoch + decay - pairs_seen
    factor = min(1.0, max(0.0, left / decay)) if decay else 1.0
    factor *= {"none": 1.0, "sqrt": batch**0.5, "linear": batch}[optimization.lr_scaling]
    factor *= min(1.0, (pairs_seen + batch) / warmup) if warmup else 1.0
    of_g, of_d = (optimization.lr if lr is None else lr for lr in (optimization.lr_g, optimization.lr_d))
    return of_g * factor, of_d * factor
