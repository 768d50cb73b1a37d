"""Signs that a run goes wrong, from its losses and from what its translations look like.

Each is told once when it begins, with its number, the pair at which it began, and what usually helps. What two
sound runs came to is in benchmarks/RESULTS.md.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

LINES = 10  # of the status, over which a loss is judged
LOOKED_AT = 16  # test images, at least
LOOKS = 2  # one after another
WON = 0.02  # of a discriminator's loss, which is 0.25 where it cannot tell
DRIFTED, STEADIED = 2.0, 1.5  # times the lowest mean so far: where a drift begins, and where it ends
ALIKE = 0.1  # of the diversity of real images
INVERTED = -0.3  # correlation
SATURATED = 0.5  # of all values, more than of real images

HELP = {
    "won": "the generators learn nothing from a discriminator that is always right: lower --lr-d, or raise --history",
    "drift": "the translations lose what they are made from: lower --lr, or raise --cycle-weight",
    "alike": "the translations collapse to one image: lower --lr and start again from an earlier checkpoint",
    "inverted": "dark became light: start again with another --seed, or raise --identity-weight; harmless if your "
    "domains are each other's negatives",
    "saturated": "the generators' outputs are stuck at black and white: lower --lr, or --lr-g",
}


@dataclass(frozen=True)
class Sign:
    """kind: a key of HELP. what: of which loss or direction. since: the pair at which it began."""

    kind: str
    what: str
    value: float
    since: int

    def __str__(self) -> str:
        told = {
            "won": f"the discriminator of {self.what} has won, its loss is {self.value:.2g}",
            "drift": f"the loss {self.what} has risen to {self.value:.1f} times its lowest",
            "alike": f"translations {self.what} differ from each other {self.value:.2f} times as much as real images",
            "inverted": f"light and dark are exchanged in translations {self.what} (correlation {self.value:.2f})",
            "saturated": f"{self.value:.0%} more of the values in translations {self.what} are black or white than "
            "in real images",
        }[self.kind]
        return f"{told}, since pair {self.since}; {HELP[self.kind]}"


def looks(source: Tensor, fake: Tensor, target: Tensor) -> dict[str, float]:
    """Of translations uint8 [n, 3, H, W] of `source`, beside real images `target` of the same kind.

    diversity: how much they differ from each other, as a share of how much real ones do. luminance: the correlation of
    an image's luminance before and after, on average. saturation: how much more of their values is black or white.
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
    """What has been seen of a run, line by line. lines: those of before, of stats.jsonl and looks.jsonl together."""

    def __init__(self, lines: Iterable[dict] = ()):
        self.recent: dict[str, deque] = {}
        self.lowest: dict[str, tuple[float, int]] = {}
        self.active: set[tuple[str, str]] = set()
        for line in lines:
            self.take(line)

    def take(self, line: dict) -> list[Sign]:
        """The signs that begin with a line of stats.jsonl or of looks.jsonl."""
        found = self._of_looks(line) if "looks" in line else self._of_losses(line)
        # Those of this kind of line that are gone may come again.
        kinds = {"alike", "inverted", "saturated"} if "looks" in line else {"won", "drift"}
        before = {sign for sign in self.active if sign[0] in kinds}
        now = {(sign.kind, sign.what): sign for sign in found}
        self.active = self.active - before | now.keys()
        return [sign for key, sign in now.items() if key not in before]

    def _of_losses(self, line: dict) -> list[Sign]:
        signs = []
        for name, value in line.items():
            kind = name.partition("_")[0]
            if kind not in ("discriminator", "cycle", "identity"):
                continue
            recent = self.recent.setdefault(name, deque(maxlen=LINES))
            recent.append((value, line["pairs"]))
            if len(recent) < LINES:
                continue
            mean = sum(value for value, _ in recent) / LINES
            if kind == "discriminator":
                if max(value for value, _ in recent) < WON:
                    signs.append(Sign("won", name[-1], mean, recent[0][1]))
                continue
            lowest, since = min(self.lowest.get(name, (mean, line["pairs"])), (mean, line["pairs"]))
            self.lowest[name] = lowest, since
            if mean > (STEADIED if ("drift", name) in self.active else DRIFTED) * lowest:
                signs.append(Sign("drift", name, mean / lowest, since))
        return signs

    def _of_looks(self, line: dict) -> list[Sign]:
        signs = []
        if line["pairs"] == 0:  # before any step, translations are grey
            return signs
        for way, values in line["looks"].items():
            for kind, value, wrong in (
                ("alike", values["diversity"], values["diversity"] < ALIKE),
                ("inverted", values["luminance"], values["luminance"] < INVERTED),
                ("saturated", values["saturation"], values["saturation"] > SATURATED),
            ):
                recent = self.recent.setdefault(f"{kind} {way}", deque(maxlen=LOOKS))
                if not wrong:
                    recent.clear()
                    continue
                recent.append((value, line["pairs"]))
                if len(recent) == LOOKS:
                    signs.append(Sign(kind, way.replace("_", " "), value, recent[0][1]))
        return signs
