"""Several ranks on this machine, by accelerate's launcher in this process, in whose place we have the last word."""

import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from zorse.config.schema import Config
from zorse.errors import UserError
from zorse.invocation import by_zorse
from zorse.processes import LAUNCHED
from zorse_prep.workers import cpu_count

SECONDS_TO_SAVE = 100  # that ranks have to save and end before they are killed
RESUME = "rerun the same command to resume from the latest checkpoint"


def launched() -> bool:
    """Whether accelerate launch, torchrun or the like started this process."""
    return any(name in os.environ for name in (*LAUNCHED, "WORLD_SIZE"))


def ranks_to_launch(config: Config) -> int:
    """How many ranks this process has to start; 1 where it is a rank itself.

    By default `zorse train` takes all GPUs. Raises UserError where a launcher started another number than --processes.
    """
    asked = config.compute.processes
    if launched():
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if asked not in (None, world_size):
            raise UserError(
                f"--processes {asked}: the launcher started {world_size}; leave --processes out, or start without it"
            )
        return 1
    if asked is not None or not by_zorse():
        return asked or 1
    import torch

    return max(1, torch.accelerator.device_count())


def launch(command: str, arguments: list[str], count: int) -> int:
    """Run a command of ours on `count` ranks, one on each GPU, or all on this machine's CPUs. Returns its exit code.

    The first SIGINT, SIGTERM, SIGHUP or SIGUSR1 reaches all ranks, which save and end; a second Ctrl-C kills them.
    """
    # The launcher's settings: everything that it would otherwise ask for, warn of, or take from somewhere else.
    import logging

    import psutil
    import torch

    on_cpus = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    gpus = 0 if on_cpus else torch.accelerator.device_count()
    if gpus and count > gpus:
        raise UserError(f"--processes {count}: this machine has {gpus} GPUs; give --processes {gpus}, or fewer")
    settings = {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGUSR1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "100"}
    settings["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cpu_count() // count)))
    if not gpus:
        settings["ACCELERATE_USE_CPU"] = "true"
    os.environ |= settings
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # of the launcher, in this process alone
    how = ["--multi_gpu", "--num_processes", count, "--num_machines", 1, "--mixed_precision", "no"]
    how += ["--dynamo_backend", "no", "--main_process_port", 0]
    how += ["--module", "zorse", command] if by_zorse() else [sys.argv[0]]
    with tempfile.NamedTemporaryFile(prefix="zorse-journal-") as journal:
        path = Path(os.environ.setdefault("ZORSE_JOURNAL", journal.name))
        before = len(path.read_text().splitlines())
        try:
            launch_command(launch_command_parser().parse_args([*map(str, how), *arguments]))
            return 0
        except ChildFailedError as error:
            return _of_failure(error)
        except (SignalException, KeyboardInterrupt) as stop:
            number = int(getattr(stop, "sigval", signal.SIGINT))
        finally:
            with suppress(psutil.Error):  # a second signal, before they have ended
                for rank in psutil.Process().children(recursive=True):
                    rank.kill()
        event = path.read_text().splitlines()[before:][-1:]
    if event and event[0].startswith(("stopped", "finished")):
        return 0 if event[0].startswith("finished") else 128 + number
    print(f"aborted; {RESUME}", file=sys.stderr)
    return 128 + number


def _of_failure(error) -> int:
    """The exit code after a rank failed, and a line about one that could not say so itself."""
    rank, failure = error.get_first_failure()
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        print(f"error: rank {rank} was ended by {name}; {RESUME}", file=sys.stderr)
        return 1
    if failure.exitcode == 1:
        print(f"error: rank {rank} failed, see above; {RESUME}", file=sys.stderr)
    return failure.exitcode
