"""Signs that training fails, from a run's losses and measures and from the statistics of its sample translations.

Each is raised once when it begins, with its value, the pair at which it began, and what usually helps. The values that
sound runs reached are in benchmarks/RESULTS.md.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from zorse.directions import Direction

WINDOW = 10  # status lines over which a loss is judged
MIN_SAMPLE_IMAGES = 16  # test images that sample statistics are taken from
CONSECUTIVE = 2  # sample grids, or status lines, in a row that must show the same
SATURATED_LOSS = 0.02  # of a discriminator; 0.25 is chance level for the least-squares loss
DRIFT_BEGINS, DRIFT_ENDS = 2.0, 1.5  # times the lowest mean so far
MIN_DIVERSITY = 0.1  # of that of real images
INVERTED = -0.3  # correlation of luminance
SATURATED = 0.5  # fraction of all values, in excess of real images
# Of the measures of a step (cyclegan/step.py), as means over a status line. Sound runs stay far from each, and of those
# that reached DEAD none came back.
FLAT, DEAD = 0.5, 0.95
MIN_RESPONSE = 0.02
MIN_CHANGE = 0.05
OF_LOSSES = ("discriminator_saturated", "loss_drift", "flat", "dead", "ignores_input", "returns_input")

HELP = {
    "discriminator_saturated": "the generators get no useful gradient from a discriminator that is always right: lower "
    "--lr-d, or raise --image-pool-size",
    "loss_drift": "translations lose the content of their sources: lower --lr{half}, or raise --cycle-weight",
    "flat": "what is stuck at black or white learns nothing: start again with a lower --lr{half} or --norm centred",
    "dead": "it cannot learn any more: start again with a lower --lr{half} or --norm centred",
    "ignores_input": "if it stays so, start again with another --seed or a lower --lr{half}, or raise --cycle-weight",
    "returns_input": "if it stays so, lower --identity-weight or --cycle-weight, or raise --lr-d or --crop-size",
    "mode_collapse": "translations collapse to one image: lower --lr{half} and start again from an earlier checkpoint",
    "inverted": "light and dark are swapped: start again with another --seed, or raise --identity-weight; harmless if "
    "your domains are each other's negatives",
    "output_saturated": "the generators' outputs are stuck at black and white: lower --lr or --lr-g{half}",
}

STOPS_AT = {"warn": set(), "dead": {"dead"}, "stop": set(HELP)}  # the kinds that end a run, by --on-collapse


@dataclass(frozen=True)
class Alert:
    """A sign that training fails.

    kind: a key of HELP. where: the loss, domain or direction that shows it. since: the pair at which it began. rate:
    the generators' learning rate then, None where it is not known.
    """

    kind: str
    where: str
    value: float
    since: int
    rate: float | None = None

    def __str__(self) -> str:
        text = {
            "discriminator_saturated": f"the discriminator of {self.where} is saturated, its loss is {self.value:.2g}",
            "loss_drift": f"the loss {self.where} has risen to {self.value:.1f} times its lowest",
            "flat": f"{self.value:.0%} of the output values {self.where} are where tanh has no slope",
            "dead": f"the generator {self.where} is dead: {self.value:.0%} of its output values are where tanh has no "
            "slope",
            "ignores_input": f"the generator {self.where} ignores its input: its outputs differ {self.value:.3f} times "
            "as much as the images they are made from",
            "returns_input": f"the generator {self.where} returns its input: the difference is {self.value:.3f} times "
            "that between images of both domains",
            "mode_collapse": f"translations {self.where} are only {self.value:.2f} times as diverse as real images",
            "inverted": f"light and dark are swapped in translations {self.where} (correlation {self.value:.2f})",
            "output_saturated": f"{self.value:.0%} more of the values in translations {self.where} are black or white "
            "than in real images",
        }[self.kind]
        half = f" ({self.rate / 2:.2g})" if self.rate else ""
        return f"{text}, since pair {self.since}; {HELP[self.kind].format(half=half)}"


def sample_statistics(source: Tensor, fake: Tensor, target: Tensor) -> dict[str, float]:
    """Compare translations of `source` with real images `target`, all uint8 [n, 3, H, W].

    diversity: how much translations differ from each other, as a fraction of how much real images do. luminance: mean
    correlation of an image's luminance before and after. saturation: fraction of values that are black or white, in
    excess of real images.
    """
    source, fake, target = source.double(), fake.double(), target.double()

    def saturated(images: Tensor) -> float:
        return ((images < 2) | (images > 253)).double().mean().item()

    grey = [images.mean(1).flatten(1) for images in (source, fake)]
    grey = [(each - each.mean(1, keepdim=True)) for each in grey]
    spread = [each.square().mean(1).sqrt() for each in grey]
    correlation = (grey[0] * grey[1]).mean(1) / (spread[0] * spread[1]).clamp_min(1.0)  # of flat images, near 0
    return {
        "diversity": (fake.std(0).mean() / target.std(0).mean().clamp_min(1e-3)).item(),
        "luminance": correlation.mean().item(),
        "saturation": saturated(fake) - saturated(target),
    }


class Health:
    """Watches a run for signs that training fails.

    lines: those recorded before, of stats.jsonl and sample_stats.jsonl together. active: (kind, where) of the alerts
    that hold now.
    """

    def __init__(self, lines: Iterable[dict] = ()):
        self.recent: dict[str, deque] = {}
        self.lowest: dict[str, tuple[float, int]] = {}
        self.active: set[tuple[str, str]] = set()
        self.rate: float | None = None
        for line in lines:
            self.update(line)

    def update(self, line: dict) -> list[Alert]:
        """The alerts that begin with a line of stats.jsonl or of sample_stats.jsonl."""
        of_samples = "samples" in line
        self.rate = line.get("lr_g", self.rate)
        found = self._from_samples(line) if of_samples else self._from_losses(line)
        # A line updates only the alerts of its own kind; those that have cleared may be raised again.
        kinds = ("mode_collapse", "inverted", "output_saturated") if of_samples else OF_LOSSES
        before = {key for key in self.active if key[0] in kinds}
        now = {(alert.kind, alert.where): alert for alert in found}
        self.active = self.active - before | now.keys()
        return [replace(alert, rate=self.rate) for key, alert in now.items() if key not in before]

    def forget(self, kinds: set[str]) -> None:
        """Raise alerts of these kinds again if they still hold."""
        self.active = {key for key in self.active if key[0] not in kinds}

    def update_early(self, line: dict) -> list[Alert]:
        """Alerts from the measures alone, of a line that is not recorded, and that a later one repeats."""
        self.rate = line.get("lr_g", self.rate)
        new = {(alert.kind, alert.where): alert for alert in self._from_measures(line)}.items()
        alerts = [replace(alert, rate=self.rate) for key, alert in new if key not in self.active]
        self.active |= {(alert.kind, alert.where) for alert in alerts}
        return alerts

    def _from_losses(self, line: dict) -> list[Alert]:
        alerts = []
        for name, value in line.items():
            kind = name.partition("_")[0]
            if kind not in ("discriminator", "cycle", "identity"):
                continue
            recent = self.recent.setdefault(name, deque(maxlen=WINDOW))
            recent.append((value, line["pairs"]))
            if len(recent) < WINDOW:
                continue
            mean = sum(value for value, _ in recent) / WINDOW
            if kind == "discriminator":
                if max(value for value, _ in recent) < SATURATED_LOSS:
                    alerts.append(Alert("discriminator_saturated", name[-1], mean, recent[0][1]))
                continue
            # A cycle or identity loss drifts when its mean is well above the lowest one so far.
            lowest, since = min(self.lowest.get(name, (mean, line["pairs"])), (mean, line["pairs"]))
            self.lowest[name] = lowest, since
            if mean > (DRIFT_ENDS if ("loss_drift", name) in self.active else DRIFT_BEGINS) * lowest:
                alerts.append(Alert("loss_drift", name, mean / lowest, since))
        return alerts + self._from_measures(line)

    def _from_measures(self, line: dict) -> list[Alert]:
        """What a step measures of each generator. All but a flat output must be so in two lines in a row."""
        alerts = []
        for direction in Direction:
            values = {name: line.get(f"{name}_{direction}") for name in ("flat", "response", "change")}
            flat, response, change = values.values()
            for kind, value, wrong, lines in (
                ("flat", flat, flat is not None and flat > FLAT, 1),
                ("dead", flat, flat is not None and flat > DEAD, CONSECUTIVE),
                ("ignores_input", response, response is not None and response < MIN_RESPONSE, CONSECUTIVE),
                ("returns_input", change, change is not None and change < MIN_CHANGE, CONSECUTIVE),
            ):
                alerts += self._after(lines, kind, direction, value, line["pairs"], wrong)
        return alerts

    def _after(
        self, lines: int, kind: str, direction: Direction, value: float | None, pairs: int, wrong: bool
    ) -> list[Alert]:
        """The alert of a kind, once so many lines in a row show it."""
        recent = self.recent.setdefault(f"{kind} {direction}", deque(maxlen=lines))
        if not wrong:
            recent.clear()
            return []
        recent.append((value, pairs))
        return [Alert(kind, Direction(direction).title, value, recent[0][1])] if len(recent) == lines else []

    def _from_samples(self, line: dict) -> list[Alert]:
        alerts = []
        if line["pairs"] == 0:  # before any step, translations are grey
            return alerts
        for direction, values in line["samples"].items():
            for kind, value, wrong in (
                ("mode_collapse", values["diversity"], values["diversity"] < MIN_DIVERSITY),
                ("inverted", values["luminance"], values["luminance"] < INVERTED),
                ("output_saturated", values["saturation"], values["saturation"] > SATURATED),
            ):
                alerts += self._after(CONSECUTIVE, kind, Direction(direction), value, line["pairs"], wrong)
        return alerts
