"""The progress of a command: a bar on a terminal, plain lines elsewhere, as in a batch job's log.

Training shows its progress by runs/progress.py.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zorse.terminal import plain_console

LINE_SECONDS = 10  # between lines without a terminal

Show = Callable[[dict[str, int], int], None]


@contextmanager
def progress(what: str, totals: dict[str, int], before: dict[str, int] | None = None) -> Iterator[Show]:
    """Yields show(done, n_bytes), to be called as often as one likes.

    totals: images by split, or {} where nobody knows. before: those done by an earlier run. done, n_bytes: what this
    run has done, images by split and bytes.
    """
    before = before or dict.fromkeys(totals, 0)
    with (_bars if sys.stdout.isatty() else _lines)(what, totals, before) as show:
        yield show


@contextmanager
def parts_shown(parts: str) -> Iterator[Callable[[int, int], None]]:
    """Yields show(done, total) for the parts of one long piece of work, such as the bands of one large image."""
    columns = TextColumn(parts, markup=False), *_columns()
    with Progress(*columns, console=plain_console(), transient=True, disable=not sys.stdout.isatty()) as bars:
        row, started = bars.add_task("", total=None, visible=False), time.monotonic()
        shown = started

        def show(done: int, total: int) -> None:
            nonlocal shown
            bars.update(row, completed=done, total=total, visible=True)
            if bars.disable and time.monotonic() - shown > LINE_SECONDS:
                shown = time.monotonic()
                left = timedelta(seconds=round((shown - started) * (total - done) / done))
                print(f"{done} of {total} {parts}, {left} left", flush=True)

        yield show


def _columns() -> tuple:
    return BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


@contextmanager
def _bars(what: str, totals: dict[str, int], before: dict[str, int]) -> Iterator[Show]:
    name, rates = (TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[rates]}"))
    columns = name, *_columns(), rates
    with Progress(*columns, console=plain_console(), transient=True) as bars:
        several = totals if len(totals) > 1 else {}
        rows = {split: bars.add_task(split, total=total or None, rates="") for split, total in several.items()}
        everything = bars.add_task(what, total=sum(totals.values()) or None, rates="")
        started = time.monotonic()

        def show(done: dict[str, int], n_bytes: int) -> None:
            for split, row in rows.items():
                bars.update(row, completed=before[split] + done.get(split, 0))
            now = sum(done.values())
            rates = _rates(now, n_bytes, time.monotonic() - started)
            bars.update(everything, completed=sum(before.values()) + now, rates=rates)

        yield show


@contextmanager
def _lines(what: str, totals: dict[str, int], before: dict[str, int]) -> Iterator[Show]:
    total, left = sum(totals.values()), sum(totals.values()) - sum(before.values())
    if total:
        print(f"{what}: {left} of {total} images to do" if left != total else f"{what}: {total} images", flush=True)
    started = shown = time.monotonic()

    def show(done: dict[str, int], n_bytes: int) -> None:
        nonlocal shown
        now, seconds = sum(done.values()), time.monotonic() - started
        if time.monotonic() - shown < LINE_SECONDS:
            return
        shown = time.monotonic()
        rest = f", {timedelta(seconds=round((left - now) / now * seconds))} left" if now and total else ""
        print(f"{what}: {now}{f'/{left}' if total else ''} images, {_rates(now, n_bytes, seconds)}{rest}", flush=True)

    yield show


def _rates(images: int, n_bytes: int, seconds: float) -> str:
    seconds = max(seconds, 1e-3)
    megabytes = f" {n_bytes / seconds / 1e6:.1f} MB/s" if n_bytes else ""
    rate = images / seconds
    return f"{rate:.{0 if rate >= 10 else 2}f} img/s{megabytes}"
