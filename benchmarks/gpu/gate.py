"""Is a variant the same step? Its losses and gradients beside those of eager in float64, which has next to no rounding.

It may be off a few times as far as eager itself is in the same precision; benchmarks/step.py has the same rule.
"""

import argparse
import sys
from pathlib import Path

from records import Records
from step import LUCK, TIMES, distance
from variants import maker

from zorse.config.schema import Networks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    options, _ = parser.parse_known_args()  # size and seconds, which the timings share with it
    networks = Networks(
        generator_channels=options.channels, generator_blocks=options.blocks, discriminator_channels=options.channels
    )
    records = Records(options.results, "gate")
    eager = maker("eager", networks, None)
    exact = eager().gate("fp64")
    plain = {precision: distance(eager().gate(precision), exact) for precision in ("fp32", "bf16")}
    variant = maker(options.variant, networks, None)  # after eager's: what it may change of the networks stays
    for precision, times in (("fp32", TIMES), ("bf16", 2)):
        try:
            ours = distance(variant().gate(precision), exact)
        except Exception as error:
            records.tell_error(error, variant=options.variant, precision=precision)
            continue
        allowed = {what: times * max(plain[precision][what], luck) for what, luck in LUCK.items()}
        passed = all(ours[what] <= most for what, most in allowed.items())
        records.failed |= not passed
        facts = {"passed": passed, "ours": ours, "eager": plain[precision], "allowed": allowed}
        records.tell(variant=options.variant, precision=precision, **facts)
    return int(records.failed)


if __name__ == "__main__":
    sys.exit(main())
