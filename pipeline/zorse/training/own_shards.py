"""Shards that a run makes itself, of the two folders that --a and --b name."""

import dataclasses
import re
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

OF_SHARDING = re.compile("--(restart|max-corrupt|source|test-|range|mode)")  # what train.py has not
PAUSE = 0.2  # seconds between looks for the shards that rank 0 is making


def with_own_shards(config: Config, rank: int) -> Config:
    """The configuration whose data are shards of --a and --b, in the run directory; unchanged without these.

    Rank 0 makes what is missing of them and the others wait. Raises UserError, as shard.py does, also where the folders
    hold other images than at the first start.
    """
    if config.data.a is None:
        return config
    run, folders = run_directory(config), {"--a": config.data.a, "--b": config.data.b}
    out, options = run / "shards", [word for pair in folders.items() for word in pair]
    for name, folder in folders.items():
        if run.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {run}: lies in {name} {folder}, whose images it would join; give another --out")
    if config.output.dry_run:
        make = command_line("shard", *options, "--out", out)
        raise UserError(f"--dry-run needs shards; make them with: {make}, and give --data {out}")
    if rank == 0:
        there = (out / MANIFEST).exists()
        try:
            shard(Options(a=config.data.a, b=config.data.b, out=out), to_train=True)
        except UserError as error:
            if there:
                raise UserError(
                    f"{out} holds other images than --a and --b now: put them back, give another --out for a new run, "
                    f"or go on with what it holds: --data {out} --out {run}, without --a and --b"
                ) from None
            if not OF_SHARDING.search(str(error)):
                raise
            make = command_line("shard", *options, "--out", out, "--restart")
            raise type(error)(f"{error}. All options are those of: {make}; then train with --data {out}") from None
    while not (out / MANIFEST).exists():
        if launcher_is_gone():  # as it does when rank 0 fails
            sys.exit(1)
        time.sleep(PAUSE)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(out)))
