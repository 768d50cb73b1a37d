"""Train a CycleGAN: accelerate launch pipeline/train.py [--data DIR] [options]. Run it again to resume."""

import os
import sys

from safetensors import SafetensorError

from zorse.commands.local_launch import launch, ranks_to_launch
from zorse.config.command_line import parse
from zorse.config.resolve import run_directory
from zorse.errors import OneRankError, TransientError, UserError, of_system
from zorse.runs import failure
from zorse.runs.directory import journal
from zorse.runs.watchdog import Watchdog
from zorse.terminal import error_line, print_error, protect_terminal, tell_launcher
from zorse.training.own_shards import with_own_shards


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 a mistake in the options or the data, 128 + N stopped by signal N and saved."""
    rank, out = int(os.environ["RANK"]) if os.environ.get("RANK", "").isdecimal() else 0, None
    protect_terminal()
    try:
        # Where several ranks are asked for, this process launches them, and trains nothing itself.
        config = parse(sys.argv[1:])
        out, count = run_directory(config), ranks_to_launch(config)
        config = with_own_shards(config, rank)
        if count > 1:
            sys.exit(launch("train", config, sys.argv[1:], count))
        if rank == 0:
            failure.start(out)
        watchdog = Watchdog(rank, config.compute.step_timeout)
        # Only now, so that mistakes are reported without waiting for torch to load.
        from zorse.training.trainer import train

        sys.exit(train(config, watchdog))
    # Mistakes, which a restart would not fix and the launcher is told; one rank prints the line.
    except UserError as error:
        line = error_line(error)
        if failure.claim_failure_report(out, f"{line}\n") if isinstance(error, OneRankError) else rank == 0:
            print_error(line)
        tell_launcher(line)
        if isinstance(error, TransientError):
            sys.exit(1)
        journal("mistake")
        sys.exit(2)
    except (OSError, SafetensorError) as error:  # a full disk, a file of another kind in the run directory, ...
        what = of_system(error) if isinstance(error, OSError) else error
        line = error_line(f"{what}; fix this and rerun the same command to resume from the latest checkpoint")
        if failure.claim_failure_report(out, f"{line}\n"):
            print_error(line)
        tell_launcher(line)
        sys.exit(2)
    # Ctrl-C, and failures of ours or of another rank, after which the launcher starts again.
    except KeyboardInterrupt:
        if rank == 0:
            saved = out is not None and any((out / "checkpoints").glob("pairs-*"))
            told = "resume from the latest checkpoint" if saved else "start again, since nothing was saved yet"
            print(f"aborted; rerun the same command to {told}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if text := failure.report(error, out, rank):  # nothing of what only follows from another rank's failure
            print(text, end="", file=sys.stderr, flush=True)
            tell_launcher(f"{type(error).__name__}: {error}")
        os._exit(1)  # at once: leaving in an orderly way may wait for ranks that are gone
