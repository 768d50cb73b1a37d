"""Decides which charts the page of a run has and what is in them; charts.js draws them."""

import math

POINTS = 1000  # Longer curves are averaged down to this many; a chart is about as many pixels wide.
WAYS = (("a_to_b", "a to b", 1), ("b_to_a", "b to a", 2))  # key, title, hue


def charts(stats: list[dict], looks: list[dict], evaluations: list[dict]) -> list[dict]:
    """The charts that have data, each {"title", "x": pairs, "curves"}.

    A curve has "name", "hue" (1 to 4, the page's colours) and "dash" ("", "dash" or "dot"). Its values are either "y",
    one per x and None where nothing was measured, with standard deviations in "error" if there are any; or "level", a
    single value for a reference line. "share" puts a curve on the right axis, which runs from 0 to 100 %.
    """
    stats = thinned(stats)
    looks = thinned([{"pairs": line["pairs"], **_flat(line["looks"])} for line in looks])
    found = [*_losses(stats), *_metrics(evaluations), _looks(looks), *_pace(stats)]
    return [chart for chart in found if chart["curves"]]


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
    adversarial = [
        _curve(stats, "adversarial_a_to_b", "generator a to b", 1),
        _curve(stats, "adversarial_b_to_a", "generator b to a", 2),
        _curve(stats, "discriminator_a", "discriminator of a", 3),
        _curve(stats, "discriminator_b", "discriminator of b", 4),
    ]
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
    names = dict.fromkeys(name for each in evaluations for way, _, _ in WAYS for name in each[way])
    found = []
    for name in (name for name in names if not name.endswith("_std")):
        curves = []
        for way, title, hue in WAYS:
            curve = _curve(lines, f"{name}/{way}", title, hue)
            error = _values(lines, f"{name}_std/{way}")
            curves.append({**curve, "error": error} if any(error) else curve)
            for kind, what, dash in (("untranslated", "untranslated", "dash"), ("real", "real images", "dot")):
                level = _rounded(evaluations[-1][kind][way].get(name))
                if level is not None:
                    curves.append({"name": f"{what}, {title}", "hue": hue, "dash": dash, "level": level})
        found.append(_chart(name, lines, curves))
    return found


def _looks(looks: list[dict]) -> dict:
    curves = [
        _curve(looks, f"{name}/{way}", f"{name}, {title}", hue, dash)
        for name, dash in (("diversity", ""), ("luminance", "dot"))
        for way, title, hue in WAYS
    ]
    return _chart("Translations beside real images", looks, curves)


def _pace(stats: list[dict]) -> list[dict]:
    rates = [_curve(stats, "lr_g", "generators", 1), _curve(stats, "lr_d", "discriminators", 2, "dot")]
    waiting = {**_curve(stats, "data_wait", "share waiting for data", 2), "share": True}
    speed = [_curve(stats, "pairs_per_second", "pairs a second", 1), waiting]
    return [_chart("Learning rates", stats, rates), _chart("Speed", stats, speed)]


def _flat(record: dict) -> dict:
    """{"name/way": value} of {way: {name: value}}."""
    return {f"{name}/{way}": value for way, _, _ in WAYS for name, value in record[way].items()}


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
