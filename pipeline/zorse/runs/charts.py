"""Decides which charts the page of a run, or of several, has and what is in them; charts.js draws them."""

import math
from itertools import cycle

from zorse.directions import Direction
from zorse.runs.summary import in_words

POINTS = 1000  # Longer curves are averaged down to this many; a chart is about as many pixels wide.
HUES = {Direction.A_TO_B: 1, Direction.B_TO_A: 2}


def charts(stats: list[dict], samples: list[dict], evaluations: list[dict]) -> list[dict]:
    """The charts that have data, each {"title", "x": pairs, "curves"}.

    A curve has "name", "hue" (1 to 4, the page's colours, 0 for grey) and "dash" ("", "dash" or "dot"). Its values are
    either "y", one per x and None where nothing was measured, with standard deviations in "error" if there are any; or
    "level", a single value for a reference line. "joined" draws the curve across its gaps. "share" puts a curve on the
    right axis, which runs from 0 to 100 %.
    """
    stats = thinned(stats)
    samples = thinned([{"pairs": line["pairs"], **_flat(line["samples"])} for line in samples])
    found = [*_losses(stats), *_metrics(evaluations), _samples(samples), _gradients(stats), *_pace(stats)]
    return [chart for chart in found if chart["curves"]]


def compared(runs: dict[str, list[dict]]) -> list[dict]:
    """Charts that compare runs: for each curve of theirs a chart, with a curve of each run. runs: charts by name."""
    looks = dict(zip(runs, cycle([(hue, dash) for dash in ("", "dash", "dot") for hue in (1, 2, 3, 4)])))
    # Each run's values by chart and curve, and the levels that a metric has without any run.
    values: dict[tuple[str, str], dict[str, dict]] = {}
    levels: dict[tuple[str, str, str], dict[str, float]] = {}
    for run, made in runs.items():
        for chart in made:
            for curve in chart["curves"]:
                if "level" in curve:
                    levels.setdefault((chart["title"], curve["name"], curve["dash"]), {})[run] = curve["level"]
                else:
                    place = values.setdefault((chart["title"], curve["name"]), {})
                    place[run] = {**curve, "y": dict(zip(chart["x"], curve["y"], strict=True))}
                    if "error" in curve:
                        place[run]["error"] = dict(zip(chart["x"], curve["error"], strict=True))
    # On one axis of pairs. A level that is the same in all runs, on the same images, stands for all of them.
    found = []
    for (title, name), curves in values.items():
        pairs = sorted(set().union(*(curve["y"] for curve in curves.values())))
        chart = {"title": f"{title}: {name}", "x": pairs, "curves": []}
        for run, curve in curves.items():
            hue, dash = looks[run]
            line = {"name": run, "hue": hue, "dash": dash, "joined": True, "y": [curve["y"].get(at) for at in pairs]}
            if "error" in curve:
                line["error"] = [curve["error"].get(at) for at in pairs]
            chart["curves"].append(line | {"share": True} if curve.get("share") else line)
        for (of, what, dash), by_run in levels.items():
            level, *others = {*by_run.values()}
            if of == title and what.endswith(f", {name}") and len(by_run) == len(curves) and not others:
                chart["curves"].append({"name": what, "hue": 0, "dash": dash, "level": level})
        found.append(chart)
    return found


def thinned(lines: list[dict]) -> list[dict]:
    """At most POINTS lines. Each is the mean of its group, taken over the lines that have the value."""
    step = -(-len(lines) // POINTS) or 1
    means = []
    for start in range(0, len(lines), step):
        group = lines[start : start + step]
        names = dict.fromkeys(name for line in group for name in line)
        values = {name: [line[name] for line in group if name in line] for name in names}
        means.append({name: sum(each) / len(each) for name, each in values.items()})
    return means


def _losses(stats: list[dict]) -> list[dict]:
    adversarial = _of_networks(stats, "adversarial_", "")
    cycle = [
        _curve(stats, "cycle_a", "cycle a", 1),
        _curve(stats, "cycle_b", "cycle b", 2),
        _curve(stats, "identity_a", "identity a", 1, "dot"),
        _curve(stats, "identity_b", "identity b", 2, "dot"),
    ]
    return [_chart("Adversarial losses", stats, adversarial), _chart("Cycle and identity losses", stats, cycle)]


def _metrics(evaluations: list[dict]) -> list[dict]:
    """One chart per metric found anywhere, because some metrics exist in only one direction or in later evaluations."""
    lines = [{"pairs": each["pairs"], **_flat(each)} for each in evaluations]
    names = dict.fromkeys(name for each in evaluations for direction in Direction for name in each[direction])
    found = []
    for name in (name for name in names if not name.endswith("_std")):
        curves = []
        for direction, hue in HUES.items():
            curve = _curve(lines, f"{name}/{direction}", direction.title, hue)
            error = _values(lines, f"{name}_std/{direction}")
            curves.append({**curve, "error": error} if any(error) else curve)
            for kind, what, dash in (("untranslated", "untranslated", "dash"), ("real", "real images", "dot")):
                level = _rounded(evaluations[-1][kind][direction].get(name))
                if level is not None:
                    curves.append({"name": f"{what}, {direction.title}", "hue": hue, "dash": dash, "level": level})
        found.append(_chart(in_words(name), lines, curves))
    return found


def _samples(samples: list[dict]) -> dict:
    curves = [
        _curve(samples, f"{name}/{direction}", f"{name}, {direction.title}", hue, dash)
        for name, dash in (("diversity", ""), ("luminance", "dot"))
        for direction, hue in HUES.items()
    ]
    return _chart("Translations beside real images", samples, curves)


def _gradients(stats: list[dict]) -> dict:
    return _chart("Gradient norms, in single steps", stats, _of_networks(stats, "gradient_norm_", "gradient_norm_"))


def _of_networks(stats: list[dict], generator: str, discriminator: str) -> list[dict]:
    """A curve of each network, by what its values' names begin with."""
    return [
        _curve(stats, f"{generator}a_to_b", "generator a to b", 1),
        _curve(stats, f"{generator}b_to_a", "generator b to a", 2),
        _curve(stats, f"{discriminator}discriminator_a", "discriminator of a", 3),
        _curve(stats, f"{discriminator}discriminator_b", "discriminator of b", 4),
    ]


def _pace(stats: list[dict]) -> list[dict]:
    rates = [_curve(stats, "lr_g", "generators", 1), _curve(stats, "lr_d", "discriminators", 2, "dot")]
    waiting = {**_curve(stats, "data_wait", "share waiting for data", 2), "share": True}
    speed = [_curve(stats, "pairs_per_second", "pairs a second", 1), waiting]
    return [_chart("Learning rates", stats, rates), _chart("Speed", stats, speed)]


def _flat(record: dict) -> dict:
    """{"name/direction": value} of {direction: {name: value}}."""
    return {f"{name}/{direction}": value for direction in Direction for name, value in record[direction].items()}


def _curve(lines: list[dict], key: str, name: str, hue: int, dash: str = "") -> dict:
    return {"name": name, "hue": hue, "dash": dash, "y": _values(lines, key)}


def _chart(title: str, lines: list[dict], curves: list[dict]) -> dict:
    """Drops curves without any value, so that a loss the run does not use gets no legend entry."""
    kept = [curve for curve in curves if "level" in curve or any(value is not None for value in curve["y"])]
    return {"title": title, "x": [round(line["pairs"]) for line in lines], "curves": kept}


def _values(lines: list[dict], key: str) -> list[float | None]:
    return [_rounded(line.get(key)) for line in lines]


def _rounded(value: float | None) -> float | None:
    """Four digits, because curves are most of the page's weight. None for NaN and infinity, which JSON cannot hold."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
