"""Shards that a run makes itself, of the two folders that --a and --b name."""

import dataclasses
import sys
import time

from zorse.config.resolve import run_directory
from zorse.config.schema import Config
from zorse.errors import UserError
from zorse.invocation import command_line
from zorse.processes import launcher_is_gone
from zorse_prep.format import MANIFEST
from zorse_prep.options import Options
from zorse_prep.shard import shard

PAUSE = 0.2  # seconds between looks for the shards that rank 0 is making


def with_own_shards(config: Config, rank: int) -> Config:
    """The configuration whose data are shards of --a and --b, in the run directory; unchanged without these.

    Rank 0 makes what is missing of them and the others wait. Raises UserError, as shard.py does, also where the folders
    hold other images than at the first start.
    """
    if config.data.a is None:
        return config
    out = run_directory(config) / "shards"
    if config.output.dry_run:
        make = command_line("shard", "--a", config.data.a, "--b", config.data.b, "--out", out)
        raise UserError(f"--dry-run needs shards; make them with: {make}, and give --data {out}")
    if rank == 0:
        shard(Options(a=config.data.a, b=config.data.b, out=out), to_train=True)
    while not (out / MANIFEST).exists():
        if launcher_is_gone():  # as it does when rank 0 fails
            sys.exit(1)
        time.sleep(PAUSE)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(out)))
