"""Several ranks on this machine, by accelerate's launcher in this process, in whose place we have the last word."""

import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from zorse.config.schema import Config
from zorse.errors import UserError, first_sentence
from zorse.invocation import by_zorse
from zorse.processes import SIGNALS, TRUE
from zorse_prep.workers import cpu_count

SECONDS_TO_SAVE = 100  # that ranks have to save and end before they are killed
RESUME = "rerun the same command to resume from the latest checkpoint"
# A configuration of accelerate's that says what every option below says, in place of one that a user left behind.
CONFIGURATION = """compute_environment: LOCAL_MACHINE
debug: false
distributed_type: MULTI_GPU
gpu_ids: all
machine_rank: 0
mixed_precision: 'no'
num_machines: 1
num_processes: {count}
use_cpu: false
"""


def launched_as() -> int | None:
    """How many processes the launcher started that this one is of, such as torchrun; None where nothing launched it."""
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return int(world_size) if rank.isdecimal() and world_size.isdecimal() else None


def ranks_to_launch(config: Config) -> int:
    """How many ranks this process has to start; 1 where it is a rank itself.

    By default `zorse train` takes all GPUs. Raises UserError where a launcher started another number than --processes.
    """
    asked, world_size = config.compute.processes, launched_as()
    if world_size is not None:
        if asked not in (None, world_size):
            raise UserError(
                f"--processes {asked}: RANK and WORLD_SIZE are set, so a launcher started {world_size}; "
                "leave --processes out, or start without that launcher"
            )
        return 1
    if asked is not None or not by_zorse() or _on_cpus():
        return asked or 1
    import torch

    return max(1, torch.accelerator.device_count())


def _on_cpus() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE


def launch(command: str, config: Config, arguments: list[str], count: int) -> int:
    """Run a command of ours on `count` ranks, one on each GPU, or all on this machine's CPUs. Returns its exit code.

    The first of SIGNALS reaches all ranks, which save and end; a Ctrl-C after that kills them. One that is ignored, as
    a hangup under nohup, stays so.
    """
    import logging

    import torch

    # Where the ranks compute.
    gpus = 0 if _on_cpus() else torch.accelerator.device_count()
    if gpus and count > gpus:
        raise UserError(f"--processes {count}: more than the GPUs of this machine; give at most {gpus}")
    # Everything that the launcher would otherwise ask for, warn of, or take from somewhere else.
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGUSR2"  # none of ours, which are handled here
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SECONDS_TO_SAVE)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // count)))
    if not gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    precision = config.compute.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    how = ["--multi_gpu", "--num_processes", count, "--num_machines", 1, "--mixed_precision", precision]
    how += ["--dynamo_backend", "no", "--main_process_port", 0]
    program = ["--module", "zorse", command] if by_zorse() else [sys.argv[0]]
    logging.disable(logging.CRITICAL)  # of the launcher, in this process alone

    # Launch them, and read from the journal of this launch what a signal came to.
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with tempfile.TemporaryDirectory(prefix="zorse-launch-") as folder, _Signals() as signals:
        ours = Path(folder, "accelerate.yaml")
        ours.write_text(CONFIGURATION.format(count=count))
        journal = Path(os.environ.setdefault("ZORSE_JOURNAL", f"{folder}/journal"))
        journal.touch()
        before = len(journal.read_text().splitlines())
        words = [*map(str, ["--config_file", ours, *how]), *program, *arguments]
        try:
            launch_command(launch_command_parser().parse_args(words))
            return 0
        except ChildFailedError as error:
            if not signals.first:
                return _of_failure(error, command)
        except signals.Stop:
            pass
        except (ValueError, ImportError, NotImplementedError) as error:
            raise UserError(f"accelerate refuses its settings: {first_sentence(error)}") from None
        finally:
            signals.kill_ranks()  # of which none is left, unless it would not end
            if journal.parent == Path(folder):
                del os.environ["ZORSE_JOURNAL"]
        event = journal.read_text().splitlines()[before:][-1:]
    if event and event[0].startswith("finished"):
        return 0
    if command == "train" and not (event and event[0].startswith("stopped")):
        print(f"aborted; {RESUME}", file=sys.stderr)
    return 128 + signals.first


class _Signals:
    """Passes the first of SIGNALS on to the ranks, by the exception at which torch's agent does that, and no other."""

    def __init__(self):
        import psutil
        from torch.distributed.elastic.multiprocessing.api import SignalException

        self.Stop, self.first, self.us = SignalException, 0, psutil.Process()
        self.others = set(self.us.children(recursive=True))

    def __enter__(self) -> "_Signals":
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._act) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _act(self, number: int, _: object) -> None:
        if not self.first:
            self.first = number
            raise self.Stop("stopped", sigval=signal.Signals(number))
        if number == signal.SIGINT:
            self.kill_ranks()

    def kill_ranks(self) -> None:
        import psutil

        for rank in set(self.us.children(recursive=True)) - self.others:
            with suppress(psutil.Error):
                rank.kill()


def _of_failure(error, command: str) -> int:
    """The exit code after a rank failed, and a line about one that could not say so itself."""
    rank, failure = error.get_first_failure()
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        print(f"error: rank {rank} was ended by {name}{f'; {RESUME}' if command == 'train' else ''}", file=sys.stderr)
        return 1
    return failure.exitcode
