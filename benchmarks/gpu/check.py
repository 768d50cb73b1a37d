"""What a machine with a GPU has to show, in nine minutes: make gpu-check. make gpu-rehearse runs it on a CPU.

In this order, since time may run out: the tests that need a GPU, and whether the fastest step is still the paper's step
(gate.py); how fast each variant of the step is (time_variant.py), beside the well-known PyTorch code if its folder was
packed; what single layers and kernels reach (time_layers.py, time_norm.py, join_in_last.py); a real run with the
fastest variant, for all the time that is left. `make gpu-pack` puts what such a machine may lack into .gpu/.

It ends itself after --limit seconds. Results are written as they come, into $OUT or runs/gpu-check: results.jsonl has
a line for each section and each measurement; log.txt, details.log, pytest.log and train.log what was printed;
stats.jsonl, grid.png and eval.json are those of the run. Numbers worth keeping go into benchmarks/RESULTS.md, with the
card's name.

Exit codes: 0 every section done or skipped, 1 one failed, 2 it could not begin.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from course import REAL, REHEARSAL, Course
from jobs import Jobs
from machine import install_missing
from sections import ROOT, Sections
from summary import lines_of

FILES = (
    "results.jsonl", "log.txt", "details.log", "pytest.log", "train.log", "stats.jsonl", "grid.png", "eval.json",
)  # fmt: skip


def _environment(course: Course, site: Path) -> dict[str, str]:
    """That of every process: benchmarks/ comes first, since pipeline/ has modules of the same names."""
    folders = [ROOT / "benchmarks", ROOT / "pipeline", ROOT / "data_prep", site]
    given = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, folders), *([given] if given else [])]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        **course.environment,
    }


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="the whole course on a CPU, with tiny networks")
    parser.add_argument("--packed", type=Path, default=ROOT / ".gpu", help="what make gpu-pack filled")
    parser.add_argument("--limit", type=float, help="seconds after which it ends itself; by default 535, or 840")
    options = parser.parse_args()
    options.out = Path(os.environ.get("OUT") or ROOT / "runs" / "gpu-check").absolute()
    options.packed = options.packed.absolute()
    return options


def main() -> int:
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, too
    course = REHEARSAL if options.rehearse else REAL
    if not course.rehearsal and shutil.which("nvidia-smi") is None:
        print("error: there is no NVIDIA GPU here; make gpu-rehearse needs none", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # of an earlier check
        (options.out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
        site = Path(work) / "site"
        os.chdir(ROOT)
        with Jobs(options.out, options.limit or course.limit, course.patience, _environment(course, site)) as jobs:
            try:
                if added := install_missing(options.packed / "wheels", site):
                    jobs.say(f"from wheels: {', '.join(added)}")
            except (subprocess.SubprocessError, OSError) as error:
                print(f"error: the packed wheels cannot be installed ({error}); make gpu-pack again", file=sys.stderr)
                return 2
            Sections(course, jobs, options.packed, Path(work)).run()
            for line in lines_of(options.out / "results.jsonl"):
                print(line)
            jobs.say(f"failed: {', '.join(jobs.failed)}" if jobs.failed else "every section done or skipped")
            return int(bool(jobs.failed))


if __name__ == "__main__":
    sys.exit(main())
