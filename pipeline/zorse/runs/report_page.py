"""One HTML page of a run that needs no network; the trainer renews it at each evaluation."""

import base64
import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from zorse.config.resolve import read
from zorse.errors import UserError
from zorse.files import write_durably
from zorse.runs.charts import charts
from zorse.runs.reading import EVENTS, STATS, count_unreadable, read_evaluation, read_lines, read_samples
from zorse.runs.records import MADE
from zorse.runs.sample_grid import GAP, HEADER, TITLES, opened, through_time
from zorse.runs.summary import in_words

GENERATOR = b'<meta name="generator" content="Zorse">'  # of report.html
FRAMES = 24  # sample grids in the page, evenly chosen; the first and the last are always there


def write_report(run: Path, out: Path | None = None, warn: Callable[[str], None] = lambda line: None) -> Path:
    """Write RUN/report.html, or `out`. Raises UserError if there is no run, OSError if it cannot be written.

    `out` is replaced whatever it holds; RUN/report.html only if it is such a page. warn: is told which records are
    damaged, so that they are not in the page.
    """
    config = read(run / "config.json", "give another run directory")
    if config is None:
        raise UserError(f"{run}: holds no run; give a run directory of pipeline/train.py")
    if out is None:
        out = run / "report.html"
        if out.exists() and not is_report(out):
            raise UserError(f"{out}: already exists and holds something else; give another --out")
    # All records, the run's own evaluations apart from those of evaluate.py.
    stats, samples = read_lines(run / STATS, warn), read_samples(run, warn)
    evaluations, others = [], []
    for path in sorted((run / "eval").glob("*.json")):
        record = read_evaluation(path, warn)
        if record:
            (evaluations if path.stem.isdecimal() else others).append({"name": path.stem, **record})
    total = None
    if stats:
        epoch = stats[-1]["pairs"] / stats[-1]["epoch"]
        total = round((config.optimization.epochs + config.optimization.decay_epochs) * epoch)
    events = read_lines(run / EVENTS, warn)
    # The page.
    height, width = config.eval_size
    environment = Environment(loader=PackageLoader("zorse.runs", "."), autoescape=select_autoescape())
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    text = environment.get_template("report.html").render(
        name=run.resolve().name,
        now=stats[-1] if stats else None,
        pairs=stats[-1]["pairs"] if stats else 0,
        total=total,
        evaluations=evaluations,
        others=others,
        events=events,
        active=active(events),
        made=next((event["text"] for event in reversed(events) if event["text"].startswith(MADE)), None),
        in_words=in_words,
        quarantined=count_unreadable(run),
        config=asdict(config),
        data={
            "charts": charts(stats, samples, evaluations),
            "frames": [made for path in through_time(run, FRAMES) if (made := frame(path, warn))],
            "grid": {"gap": GAP, "header": HEADER, "columns": len(TITLES), "aspect": height / width},
        },
    )
    write_durably(out, text.encode(errors="backslashreplace"))  # names of files may hold bytes that are no UTF-8
    return out


def active(events: list[dict]) -> list[str]:
    """The warnings since the run was last started, each once, and whether they ended it."""
    found: dict[str, None] = {}
    for event in events:
        if event["text"].startswith(("starting ", "resuming ")):
            found.clear()
        elif event["text"].startswith("warning: ") or event["text"] == "stopped":
            found[event["text"]] = None
    return ["stopped by its warnings" if text == "stopped" else text.removeprefix("warning: ") for text in found]


def is_report(path: Path) -> bool:
    """Whether a file is a page that was written here; version 0.1 did not name itself in it."""
    page = path.read_bytes()
    return GENERATOR in page or all(part in page for part in (b" pairs seen", b"<h2>What happened</h2>"))


def frame(grid: Path, warn: Callable[[str], None]) -> dict | None:
    """A sample grid for the page: {"pairs", "image": data URL}; None for one that cannot be read, told to `warn`."""
    jpeg, image = io.BytesIO(), opened(grid, warn)
    if image is None:
        return None
    image.convert("RGB").save(jpeg, "jpeg", quality=88, subsampling=0)
    return {"pairs": int(grid.stem), "image": f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"}
