"""One HTML page of a run, that needs no network: python pipeline/report.py RUN. The trainer renews it, too."""

import base64
import io
import json
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import tyro
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from pipeline.errors import UserError
from pipeline.monitor import EVENTS, LOOKS, STATS
from pipeline.pictures import GAP, HEADER, TITLES, through_time
from pipeline.rundir import write_durably

FRAMES = 24  # sample grids in the page, evenly chosen; the first and the last are always there
POINTS = 1000  # of a curve; more are averaged


def write_report(run: Path, out: Path | None = None) -> Path:
    """RUN/report.html. Raises UserError where there is no run, OSError where it cannot be written."""
    config = read_json(run / "config.json")
    if config is None:
        raise UserError(f"{run}: no run here; give a run directory of pipeline/train.py")
    stats, evaluations = read_lines(run / STATS), []
    for path in sorted((run / "eval").glob("*.json")):
        if record := read_json(path):
            evaluations.append({"file": path.stem, "trained": path.stem.isdecimal(), **record})
    total = None
    if stats:
        epoch = stats[-1]["pairs"] / stats[-1]["epoch"]
        total = round((config["optimization"]["epochs"] + config["optimization"]["decay_epochs"]) * epoch)
    environment = Environment(loader=PackageLoader("pipeline", "."), autoescape=select_autoescape())
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    text = environment.get_template("report.html").render(
        name=run.resolve().name,
        plotly=files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8"),
        pairs=stats[-1]["pairs"] if stats else 0,
        total=total,
        evaluations=evaluations,
        events=read_lines(run / EVENTS),
        quarantined=sum(len(read_lines(path)) for path in run.glob("quarantine-*.jsonl")),
        config=config,
        data={
            "stats": thinned(stats),
            "looks": read_lines(run / LOOKS),
            "evaluations": [record for record in evaluations if record["trained"]],
            "frames": [frame(path) for path in through_time(run, FRAMES)],
            "grid": {"gap": GAP, "header": HEADER, "columns": len(TITLES)},
        },
    )
    out = out or run / "report.html"
    write_durably(out, text)
    return out


def read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def read_lines(path: Path) -> list[dict]:
    """Of a .jsonl file that may be written at this moment."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    except FileNotFoundError:
        return []


def thinned(lines: list[dict]) -> list[dict]:
    """At most POINTS lines, means of equally many neighbours each."""
    step = -(-len(lines) // POINTS) or 1
    groups = [lines[i : i + step] for i in range(0, len(lines), step)]
    return [
        {name: sum(line[name] for line in group if name in line) / len(group) for name in group[-1]} for group in groups
    ]


def frame(grid: Path) -> dict:
    """A sample grid for the page: {"pairs", "image": data URL}."""
    jpeg = io.BytesIO()
    Image.open(grid).convert("RGB").save(jpeg, "jpeg", quality=88, subsampling=0)
    return {"pairs": int(grid.stem), "image": f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"}


@dataclass(frozen=True)
class Options:
    """One page of a run, that needs no network: curves, samples through time, evaluations, what happened, options."""

    run: Annotated[Path, tyro.conf.Positional]
    """run directory of pipeline/train.py; the run may be going on"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """HTML file to write; by default RUN/report.html"""


def main() -> None:
    """Exit codes: 0 done, 2 no run or nowhere to write."""
    options = tyro.cli(Options, prog="python pipeline/report.py")
    try:
        print(f"written to {write_report(options.run, options.out)}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
