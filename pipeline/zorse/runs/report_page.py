"""HTML pages that need no network: of a run, which the trainer renews at each evaluation, and of runs side by side."""

import base64
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from zorse.config.resolve import read
from zorse.config.schema import Config, flag
from zorse.errors import UserError
from zorse.files import write_durably
from zorse.runs.charts import charts, compared
from zorse.runs.reading import EVENTS, STATS, count_unreadable, read_evaluation, read_lines, read_samples
from zorse.runs.records import MADE
from zorse.runs.sample_grid import GAP, HEADER, TITLES, opened, through_time
from zorse.runs.summary import in_words

GENERATOR = b'<meta name="generator" content="Zorse">'  # of report.html
OUT = ("output", "out")  # the option that differs between all runs
FRAMES = 24  # sample grids in the page, evenly chosen; the first and the last are always there


def write_report(run: Path, out: Path | None = None, warn: Callable[[str], None] = lambda line: None) -> Path:
    """Write RUN/report.html, or `out`. Raises UserError if there is no run, OSError if it cannot be written.

    `out` is replaced whatever it holds; RUN/report.html only if it is such a page. warn: is told which records are
    damaged, so that they are not in the page.
    """
    records = Records.read(run, warn)
    if out is None:
        out = run / "report.html"
        if out.exists() and not is_report(out):
            raise UserError(f"{out}: already exists and holds something else; give another --out")
    height, width = records.config.eval_size
    data = {
        "charts": charts(records.stats, records.samples, records.evaluations),
        "frames": [made for path in through_time(run, FRAMES) if (made := frame(path, warn))],
        "grid": {"gap": GAP, "header": HEADER, "columns": len(TITLES), "aspect": height / width},
    }
    config, quarantined = asdict(records.config), count_unreadable(run)
    return _write(out, "report.html", run=records, config=config, quarantined=quarantined, data=data)


def write_comparison(runs: list[Path], out: Path, warn: Callable[[str], None] = lambda line: None) -> Path:
    """Write a page of several runs side by side: numbers, options that differ, last sample grids, curves.

    `out` is replaced whatever it holds. Raises UserError where one of them is no run.
    """
    all_records = [Records.read(run, warn) for run in runs]
    names = [records.name for records in all_records]
    if len(set(names)) < len(names):  # such as a/run and b/run
        all_records = [replace(records, name=str(run)) for run, records in zip(runs, all_records, strict=True)]
    # What differs: options by name, and how distances were measured.
    options = [
        {(group, name): value for group, values in asdict(records.config).items() if isinstance(values, dict)
         for name, value in values.items()}
        for records in all_records
    ]  # fmt: skip
    differing = {
        flag(name): values
        for group, name in options[0]
        if len({*map(str, values := [each.get((group, name)) for each in options])}) > 1 and (group, name) != OUT
    }
    last = [records.evaluations[-1] if records.evaluations else None for records in all_records]
    protocols = {str(record["protocol"]) for record in last if record}
    grids = [
        next((made for path in reversed(through_time(run, FRAMES)) if (made := frame(path, warn))), None)
        for run in runs
    ]
    data = {"charts": compared({each.name: charts(each.stats, each.samples, each.evaluations) for each in all_records})}
    return _write(
        out, "comparison.html", runs=all_records, last=last, differing=differing, grids=grids,
        comparable=len(protocols) < 2, data=data,
    )  # fmt: skip


@dataclass(frozen=True)
class Records:
    """What a run directory has recorded. evaluations: the run's own; others: those of evaluate.py."""

    name: str
    config: Config
    stats: list[dict]
    samples: list[dict]
    evaluations: list[dict]
    others: list[dict]
    events: list[dict]

    @classmethod
    def read(cls, run: Path, warn: Callable[[str], None]) -> "Records":
        """Raises UserError where there is no run."""
        config = read(run / "config.json", "give another run directory")
        if config is None:
            raise UserError(f"{run}: holds no run; give the directory of a run")
        stats, samples = read_lines(run / STATS, warn), read_samples(run, warn)
        evaluations, others = [], []
        for path in sorted((run / "eval").glob("*.json")):
            record = read_evaluation(path, warn)
            if record:
                (evaluations if path.stem.isdecimal() else others).append({"name": path.stem, **record})
        events = read_lines(run / EVENTS, warn)
        return cls(run.resolve().name, config, stats, samples, evaluations, others, events)

    @property
    def now(self) -> dict | None:
        """The newest line of stats.jsonl."""
        return self.stats[-1] if self.stats else None

    @property
    def pairs(self) -> int:
        """Pairs seen."""
        return self.now["pairs"] if self.now else 0

    @property
    def total(self) -> int | None:
        """Pairs of the whole run, where that is known."""
        if not self.now:
            return None
        epochs = self.config.optimization.epochs + self.config.optimization.decay_epochs
        return round(epochs * self.now["pairs"] / self.now["epoch"])

    @property
    def hours(self) -> float:
        """Of training steps, without what lies between them."""
        seconds, before = 0.0, 0
        for line in self.stats:
            seconds += (line["pairs"] - before) / line["pairs_per_second"]
            before = line["pairs"]
        return seconds / 3600

    @property
    def made(self) -> str | None:
        """The command, versions and machine of the newest start."""
        return next((event["text"] for event in reversed(self.events) if event["text"].startswith(MADE)), None)

    @property
    def active(self) -> list[str]:
        """The warnings since the run was last started."""
        return active(self.events)


def in_a_cell(value: object) -> str:
    """A value of a configuration or a protocol as people write it."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {in_a_cell(each)}" for name, each in value.items())
    if isinstance(value, tuple | list):
        return " ".join(map(in_a_cell, value)) or "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "-" if value is None else str(value)


def _write(out: Path, template: str, **values) -> Path:
    environment = Environment(loader=PackageLoader("zorse.runs", "."), autoescape=select_autoescape())
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    text = environment.get_template(template).render(in_words=in_words, in_a_cell=in_a_cell, **values)
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
