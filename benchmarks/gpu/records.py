"""Lines of results.jsonl as the scripts of the check write them, each at once: a script may be killed at any time."""

import json
import traceback
from pathlib import Path


class Records:
    """kind: what all the lines of one script are about."""

    def __init__(self, file: Path, kind: str):
        self.file, self.kind = file, kind
        self.failed = False

    def tell(self, **facts) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"kind": self.kind, **facts}) + "\n")

    def tell_error(self, error: Exception, **facts) -> None:
        """One case failed, and the others shall be tried all the same; the exit code then says so."""
        self.failed = True
        traceback.print_exc()
        self.tell(**facts, error=f"{type(error).__name__}: {str(error)[:900]}")
