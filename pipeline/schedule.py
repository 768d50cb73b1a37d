"""The length of a run and the learning rate, as functions of the pairs seen."""

from pipeline.config import Optimization
from pipeline.errors import UserError


def total_pairs(optimization: Optimization, epoch: int) -> int:
    """The length of a run; `epoch` in pairs."""
    pairs = round((optimization.epochs + optimization.decay_epochs) * epoch)
    if pairs == 0:
        raise UserError(f"--epochs and --decay-epochs give less than one pair; an epoch has {epoch}")
    return pairs


def learning_rate(pairs_seen: int, optimization: Optimization, epoch: int) -> float:
    """The rate of the step that starts at `pairs_seen`; `epoch` in pairs (section 4: constant, then linear to 0)."""
    decay = optimization.decay_epochs * epoch
    left = optimization.epochs * epoch + decay - pairs_seen
    return optimization.lr * min(1.0, max(0.0, left / decay)) if decay else optimization.lr
