"""The closing words of a run, and tables of distances."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from zorse.directions import Direction
from zorse.invocation import command_line
from zorse.runs.reading import read_evaluation

HIGHER = ("cycle_psnr", "psnr", "ssim", "share_of_class")  # is better; of all other metrics lower is
NAMES = {  # of metrics, in words; what follows in a metric's name is the network or the class
    "kid": "KID", "fid": "FID", "sliced_wasserstein": "sliced Wasserstein", "cycle_l1": "round trip, L1",
    "cycle_psnr": "round trip, PSNR in dB", "structure_distance": "structure distance", "mae": "MAE",
    "psnr": "PSNR in dB", "ssim": "SSIM", "share_of_class": "share taken for class",
}  # fmt: skip


def in_words(metric: str) -> str:
    """What a metric is called where people read it, with an arrow in the direction that is better."""
    if metric.endswith("_std"):
        return "deviation"
    kind = next((kind for kind in NAMES if metric == kind or metric.startswith(f"{kind}_")), None)
    if kind is None:
        return metric
    rest = metric.removeprefix(kind).strip("_")
    return " ".join([NAMES[kind], *([rest] if rest else []), "↑" if metric.startswith(HIGHER) else "↓"])


def print_summary(console: Console, out: Path, pairs_seen: int) -> None:
    """The closing words: what the distance was and is, and where to look."""
    found = (read_evaluation(path) for path in sorted((out / "eval").glob("*.json")) if path.stem.isdecimal())
    evaluations = [record for record in found if record]
    if len(evaluations) > 1:
        first, last = evaluations[0], evaluations[-1]
        columns = {"untranslated": last["untranslated"], "real images": last["real"]}
        columns |= {f"{each['pairs']} pairs": each for each in (first, last)}
        images = " and ".join(str(last["protocol"]["images"][direction]) for direction in Direction)
        console.print(distance_table(f"{images} test images, compared with real ones", columns))
    console.print(f"{out} is finished at {pairs_seen} pairs; look at {out}/report.html")
    console.print(f"next: {command_line('translate', out, 'IN', 'OUT', '--direction', 'a2b')}")


def distance_table(title: str, columns: dict[str, dict]) -> Table:
    """Metrics by direction. columns: {title: {"a_to_b": {metric: value}, "b_to_a": ...}}, the metrics of the last."""
    table = Table(title=title, caption="↓ lower is better, ↑ higher is better")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for direction in Direction:
        table.add_section()
        table.add_row(direction.title, style="bold")
        for metric in next(reversed(columns.values()))[direction]:
            if not metric.endswith("_std"):  # deviations are in the records
                values = [each[direction].get(metric) for each in columns.values()]
                table.add_row(in_words(metric), *["" if value is None else f"{value:.4g}" for value in values])
    return table
