"""The run directory: the configuration that made it, and the journal that tells batch scripts what happened."""

import logging
import os
from pathlib import Path

from zorse.config.resolve import to_json
from zorse.config.schema import Config
from zorse.errors import UserError
from zorse.files import write_durably

log = logging.getLogger(__name__)


def start_run_directory(config: Config, resumed: Path | None) -> None:
    """Record the configuration. resumed: the checkpoint that the run resumes, if any.

    Raises UserError where there are records of training but no checkpoint, so that it must have been lost.
    """
    if not resumed:
        check_new(config.output.out)
    write_durably(config.output.out / "config.json", to_json(config) + "\n")


def check_new(out: Path) -> None:
    """Raise UserError for a run directory that has records of training but no checkpoint."""
    if (out / "stats.jsonl").exists() or records_after(out, 0):
        raise UserError(
            f"{out} has records of a run but no checkpoint; restore its checkpoints, give another --out, or remove it"
        )


def records_after(out: Path, pairs_seen: int) -> list[Path]:
    """Evaluations and sample grids made after `pairs_seen`."""
    files = [*(out / "eval").glob("[0-9]*.json"), *(out / "samples").glob("[0-9]*.png")]
    return [path for path in files if path.stem.isdecimal() and int(path.stem) > pairs_seen]


def journal(event: str) -> None:
    """Append an event to the file named by ZORSE_JOURNAL, if any.

    Batch scripts read it, since exit codes do not survive the launcher between them and the trainer.
    """
    path = os.environ.get("ZORSE_JOURNAL")
    if path:
        try:
            with Path(path).open("a") as file:
                file.write(event + "\n")
        except OSError as error:
            log.warning(f"warning: {path} cannot be written ({error.strerror}): {event}")
