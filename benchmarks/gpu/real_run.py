"""How the real run at the end is set up: with the fastest variant that was measured, as long as there is time for."""

import json
from pathlib import Path

FLAGS = {"compile": "--compile", "fused": "--fused-norm", "graph": "--cuda-graph"}
COMPILING = 0.85  # a run compiles again, or reads that from a cache: the gain must be worth it
UNMEASURED = 20.0  # pairs/s, where no timing came to its end
ASIDE = 50.0  # seconds for the start, and for the evaluations at the start and at the end
SHARE = 0.8  # of the measured rate, since a run also loads, averages and saves


def fastest(results: Path, batch: int) -> tuple[list[str], float]:
    """Options of train.py, and the pairs per second that they gave in the timings."""
    best, options = 0.0, []
    for line in results.read_text().splitlines():
        case = json.loads(line)
        words = case.get("variant", "").split("-")
        if case.get("kind") != "step" or case["batch"] != batch or not set(words) <= {*FLAGS, "eager"}:
            continue
        rate = case.get("pairs_per_second", 0.0) * (COMPILING if "compile" in words else 1)
        if rate > best:
            best, options = rate, [FLAGS[word] for word in words if word in FLAGS]
    return options, best or UNMEASURED


def epochs(rate: float, seconds: float, shards: Path) -> float:
    """Epochs at the full learning rate, and as many again while it falls, so that the run ends by itself."""
    splits = json.loads((shards / "manifest.json").read_text())["splits"]
    pairs = max(splits[name]["samples"] for name in ("trainA", "trainB"))
    return max(0.02, round(SHARE * rate * seconds / pairs / 2, 2))
