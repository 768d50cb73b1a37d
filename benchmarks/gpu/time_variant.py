"""Time one variant of the training step at some batches: one process each, so that nothing of another is left over.

With --warm one update only is taken, which fills the compilers' caches; nothing is timed then.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from contenders import Contender
from profiles import time_by_class, work_items
from records import Records
from torch.autograd import DeviceType
from torch.profiler import profile
from variants import maker
from yardsticks import flop_of_a_pair

from zorse.config.schema import Networks
from zorse.ops.cuda_graph import WARM_UP

ROUNDS = 5


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--batch", type=int, nargs="+", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of all rounds together, about")
    parser.add_argument("--reference", type=Path, help="the folder of the variant of that name")
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--no-profile", action="store_true")
    return parser.parse_args()


def timed(contender: Contender, batch: int, seconds: float, flop: int) -> dict:
    """Rates over rounds of equal length, after the steps in which algorithms are chosen and graphs recorded."""
    contender.run(WARM_UP + 1)
    once = contender.run(1)["wall"]
    steps = max(3, round(seconds / once / ROUNDS))
    contender.forget_peak()
    rounds = [contender.run(steps) for _ in range(ROUNDS)]
    rates = sorted(batch * each["steps"] / each["wall"] for each in rounds)
    median = rates[ROUNDS // 2]
    return {
        "pairs_per_second": median,
        "least": rates[0],
        "most": rates[-1],
        "tflops": median * flop / 1e12,
        "peak_mb": contender.peak_memory(),
        "cpu_ms_per_step": 1000 * sorted(each["cpu"] / each["steps"] for each in rounds)[ROUNDS // 2],
        "queueing_share": rounds[2]["queued"] / rounds[2]["wall"] if "queued" in rounds[2] else None,
        "last": contender.losses(),
    }


def profiled(contender: Contender) -> dict:
    """Where the time of a step goes, and its longest kernels."""
    with profile() as trace:
        contender.step()
        contender.synchronize()
    kernels = Counter()
    for event in trace.events():
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            kernels[event.name[:90]] += event.device_time_total
    return {
        "operations": work_items(trace),
        "ms_by_class": {name: round(us / 1000, 3) for name, us in time_by_class(trace).items()},
        "top": {name: round(us / 1000, 3) for name, us in kernels.most_common(20)},
    }


def main() -> int:
    options = read_options()
    networks = Networks(
        generator_channels=options.channels, generator_blocks=options.blocks, discriminator_channels=options.channels
    )
    flop = flop_of_a_pair(networks, options.size)
    make = maker(options.variant, networks, options.reference)
    records = Records(options.results, "warm" if options.warm else "step")
    for batch in options.batch:
        case = {"variant": options.variant, "precision": options.precision, "batch": batch, "size": options.size}
        began = time.time()
        try:
            contender = make()
            contender.start(options.precision, options.size, batch)
            contender.step()
            first = contender.losses()  # all variants have the same weights and images in it
            if options.warm:
                records.tell(**case, seconds=round(time.time() - began, 1), first=first)
                continue
            found = timed(contender, batch, options.seconds, flop)
            records.tell(**case, first=first, **found, seconds=round(time.time() - began, 1))
            if not options.no_profile:
                records.tell(**case, profile=profiled(contender))
        except Exception as error:  # out of memory at one batch says nothing about the next
            records.tell_error(error, **case)
        contender = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return int(records.failed)


if __name__ == "__main__":
    sys.exit(main())
