"""What is shown at the end: the numbers that decide, a line each; all others are in results.jsonl."""

import json
from pathlib import Path


def _step(case: dict) -> str:
    what = f"{case['variant']:22s} {case['precision']} batch {case['batch']:2d}"
    rate = f"{case['pairs_per_second']:7.1f} pairs/s ({case['least']:.1f} to {case['most']:.1f})"
    queueing = "" if case["queueing_share"] is None else f", queueing {case['queueing_share']:.0%}"
    return f"{what}: {rate}, {case['tflops']:5.1f} TFLOP/s, {case['peak_mb']:.0f} MB{queueing}"


def _gate(case: dict) -> str:
    parts = [
        f"{what} {case['ours'][what]:.1e} (eager {case['eager'][what]:.1e}, allowed {most:.1e})"
        for what, most in case["allowed"].items()
    ]
    verdict = "the same step" if case["passed"] else "DIFFERS"
    return f"gate, {case['variant']} in {case['precision']}: {verdict}; {', '.join(parts)}"


def _other(case: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in case.items())


def lines_of(results: Path) -> list[str]:
    """Of layers and norms those of batch 4 alone, unless there are no others."""
    cases = [json.loads(line) for line in results.read_text().splitlines()]
    told = []
    for case in cases:
        kind = case.get("kind")
        if "error" in case:
            told.append(_other(case)[:400])
        elif kind == "gate":
            told.append(_gate(case))
        elif "pairs_per_second" in case:
            told.append(_step(case))
        elif kind == "join in last" or (kind in ("layer", "norm") and case.get("n") in (None, 4)):
            told.append(_other(case))
    return told


def evaluations(run: Path) -> list[str]:
    """Distances of each evaluation of the run."""
    told = []
    for file in sorted(run.glob("eval/[0-9]*.json")):
        found = json.loads(file.read_text())
        for way in ("a_to_b", "b_to_a"):
            distances = ", ".join(f"{name} {value:.4f}" for name, value in found[way].items())
            told.append(f"after {found['pairs']} pairs, {way}: {distances}")
    return told
