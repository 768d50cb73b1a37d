"""What a run measures of itself: losses, rates, and the time that steps, data loading and checkpoints take."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from zorse.errors import UserError

LOWEST_SCALE = 1.0  # of losses in fp16; it begins at 65536


class LossWindow:
    """The losses and measures of the steps since the last status. They stay on the device until `collect`.

    rows: one per step, [values in the order of `names`], means over all ranks; part of a checkpoint, so that the line
    after a resume is the line that would have been written without it. Those of version 0.1 have the losses alone,
    which come first. start: the first step's first pair.
    """

    def __init__(self, batch: int, accumulate: int):
        self.batch, self.accumulate = batch, accumulate
        self.names: list[str] = []
        self.rows: list[list[float]] = []
        self.start = 0
        self._waiting: list[Tensor] = []

    def add(self, losses: dict[str, Tensor]) -> None:
        """The losses of one micro-step of this rank."""
        self.names = list(losses)
        self._waiting.append(torch.stack(list(losses.values())))

    def collect(self, mean_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Bring the losses here: one reduction, one wait for the device.

        Raises UserError at the first loss that is not finite; since the reduced values are the same on all ranks, so is
        the decision.
        """
        if not self._waiting:
            return
        steps = torch.stack(self._waiting).view(-1, self.accumulate, len(self.names)).mean(1)
        self._waiting.clear()
        for row in mean_over_ranks(steps).tolist():
            for name, value in zip(self.names, row, strict=True):
                if not math.isfinite(value):
                    pair = self.start + len(self.rows) * self.batch
                    raise UserError(
                        f"the loss {name} is {value} in the step that began at pair {pair}; stopped before saving it. "
                        "Lower --lr, or, if mixed precision is on, train without it"
                    )
            self.rows.append(row)

    def means(self) -> dict[str, float]:
        """Means over the collected steps by name."""
        columns = {name: [row[i] for row in self.rows if i < len(row)] for i, name in enumerate(self.names)}
        return {name: math.fsum(values) / len(values) for name, values in columns.items() if values}

    def restart(self) -> None:
        """Start a new window behind the collected steps."""
        self.start += len(self.rows) * self.batch
        self.rows = []

    def state(self) -> dict:
        return {"start": self.start, "names": self.names, "rows": self.rows}

    def load(self, state: dict) -> None:
        self.start, self.names, self.rows = state["start"], state["names"], state["rows"]


class Stopwatch:
    """Since `reset`: pairs, seconds in training steps, seconds of these waiting for data, and seconds saving."""

    def __init__(self):
        self.reset()
        self._since = time.perf_counter()

    def reset(self) -> None:
        self.training = self.waiting = self.saving = 0.0
        self.pairs = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens between two steps."""
        self.training += time.perf_counter() - self._since
        yield
        self._since = time.perf_counter()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - began

    @contextmanager
    def saving_state(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.saving += time.perf_counter() - began


def loss_scale(scaler: torch.amp.GradScaler | None) -> dict[str, float]:
    """The loss scale of a run in fp16, which keeps gradients from underflowing, for the status line.

    (Micikevicius et al. 2018, section 3.2) Raises UserError where gradients overflow at any scale, so
    that no step is taken any more.
    """
    if scaler is None:
        return {}
    scale = scaler.get_scale()
    if scale < LOWEST_SCALE:
        raise UserError(
            f"gradients overflow float16 however little they are scaled (now by {scale:g}), so nothing is learned; "
            "lower the learning rate, or use --mixed-precision bf16, or no"
        )
    return {"loss_scale": scale}


def gradients(norms: dict[str, Tensor], scaler: torch.amp.GradScaler | None) -> dict[str, float]:
    """The norms of the networks' gradients in the last step, for the status line; fp16 scales its gradients."""
    scale = scaler.get_scale() if scaler else 1.0
    return {f"gradient_norm_{name}": norm.item() / scale for name, norm in norms.items()}


def status(pairs_seen: int, epoch: int, rates: tuple[float, float], window: LossWindow, watch: Stopwatch) -> dict:
    """One line of stats.jsonl: means since the line before. rates: the generators' and the discriminators'."""
    return {
        "pairs": pairs_seen,
        "epoch": pairs_seen / epoch,
        "lr_g": rates[0],
        "lr_d": rates[1],
        **window.means(),
        "pairs_per_second": watch.pairs / watch.training,
        "data_wait": watch.waiting / watch.training,
        "save_seconds": watch.saving,
    }
