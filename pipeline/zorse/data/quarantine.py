"""Training samples that could not be read: listed in a file, warned of once; too many of them stop the run."""

import json
from collections.abc import Callable
from pathlib import Path

from zorse.errors import OneRankError
from zorse.files import append

ALLOWED = 10  # distinct samples of a domain, or
ALLOWED_SHARE = 0.001  # of those that were read, if that is more
ALLOWED_IN_A_ROW = 100  # pairs


class Quarantine:
    """The unreadable samples that this rank has met since it started.

    samples: number of samples in each domain. file: OUT/quarantine-RRRRR.jsonl, a line for each distinct sample.
    """

    def __init__(self, out: Path, rank: int, samples: dict[str, int], warn: Callable[[str], None]):
        self.file, self.rank, self.samples, self.warn = out / f"quarantine-{rank:05d}.jsonl", rank, samples, warn
        self.reads = dict.fromkeys(samples, 0)
        self.in_a_row = dict.fromkeys(samples, 0)
        self.found = {domain: set() for domain in samples}

    def take(self, batch: dict) -> None:
        """Count a batch's failed reads. Raises OneRankError if there are too many."""
        for domain in self.samples:
            failed = [entry for entry in batch["failed"] if entry["domain"] == domain]
            self.reads[domain] += len(batch["positions"]) + len(failed)
            without_own = {entry["pair"] for entry in failed}
            for position in batch["positions"]:
                self.in_a_row[domain] = self.in_a_row[domain] + 1 if position in without_own else 0
                self._limit(domain, self.in_a_row[domain], ALLOWED_IN_A_ROW - 1, "in a row")
            for entry in failed:
                self._keep(entry)
            seen = min(self.reads[domain], self.samples[domain])
            self._limit(domain, len(self.found[domain]), max(ALLOWED, ALLOWED_SHARE * seen), f"of {seen}")

    def _keep(self, entry: dict) -> None:
        found, sample = self.found[entry["domain"]], (entry["shard"], entry["sample"])
        if sample in found:
            return
        if not any(self.found.values()):
            self.warn(
                f"warning: rank {self.rank}: {entry['shard']} sample {entry['sample']} cannot be read "
                f"({entry['reason']}); replaced by another sample; further ones are listed in {self.file}"
            )
        found.add(sample)
        try:
            append(self.file, json.dumps({"rank": self.rank, **entry}) + "\n")
        except OSError as error:
            self.warn(f"warning: {entry['shard']} sample {entry['sample']} is not in {self.file} ({error.strerror})")

    def _limit(self, domain: str, count: int, most: float, how: str) -> None:
        if count > most:
            raise OneRankError(
                f"{count} samples of domain {domain} {how} cannot be read, more than a run tolerates; "
                f"they are listed in {self.file}; copy the shards again, or make them again"
            )
