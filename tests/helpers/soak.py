"""A storm of faults on one run: python tests/helpers/soak.py [--minutes 15] [--every 30] [--seed 0].

Every so many seconds a random fault meets a run of two ranks (gloo, tiny networks), which is started again whenever it
is down. At the end its losses, weights, optimizer and history must be, to the last bit, those of a run that nobody
disturbed. Prints a line per fault; exit code 1 when something was lost.
"""

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from running import draw, shard
from runs import change_one_byte, cut, final, losses, nobody_left, processes_of, run, start

from zorse.checkpoints import format as checkpoint

PACE = 0.1  # seconds added to each step while the storm lasts
STEPS_A_SECOND = 7  # that are then taken, restarts included, at most
RUN = ["--batch", "2", "--image-pool-size", "3", "--checkpoint-every", "50", "--keep", "4", "--step-timeout", "5"]


class Run:
    """The trainers of a run and their launcher, with what they print."""

    def __init__(self, data, out, options):
        self.data, self.out, self.options, self.process, self.text = data, out, options, None, ""

    def start(self, fault="pace 0"):
        self.text = ""
        self.process = start(self.data, self.out, *self.options, ranks=2, fault=fault)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process):
        for line in process.stdout:
            self.text += line

    def alive(self):
        return self.process.poll() is None

    def trainers(self):
        return sorted(pid for pid in processes_of(self.out) if pid != self.process.pid)

    def wait_for_steps(self):
        """Up to the first new step. Returns whether it came."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.alive():
            if re.search(r"^ +\d+/\d+ pairs", self.text, re.M):
                return True
            time.sleep(0.05)
        return False

    def wait_until_down(self):
        """The launcher may take half a minute to end a rank that does not."""
        self.process.wait(60)
        assert nobody_left(self.out), processes_of(self.out)


def kill(run, rng):
    os.kill(rng.choice(run.trainers()), signal.SIGKILL)


def kill_launcher(run, rng):
    run.process.kill()


def kill_all(run, rng):
    for pid in [run.process.pid, *run.trainers()]:
        os.kill(pid, signal.SIGKILL)


def stop_for_good(run, rng):
    os.kill(rng.choice(run.trainers()), signal.SIGSTOP)


def tell_to_stop(run, rng):
    os.kill(run.process.pid, signal.SIGTERM)


def tell_everyone_to_stop(run, rng):
    for pid in run.trainers():
        os.kill(pid, rng.choice([signal.SIGUSR1, signal.SIGTERM, signal.SIGINT]))


def damage(run, rng):
    """The newest checkpoint, after everybody was killed."""
    kill_all(run, rng)
    run.wait_until_down()
    whole = checkpoint.latest_valid(run.out)
    if len(list((run.out / "checkpoints").glob("pairs-*"))) > 1:
        rng.choice([cut, change_one_byte, Path.unlink])(rng.choice(sorted(whole.iterdir())))


FAULTS = [kill, kill_launcher, kill_all, stop_for_good, tell_to_stop, tell_everyone_to_stop, damage]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, seconds = random.Random(options.seed), 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="zorse-soak-") as folder:
        base = Path(folder)
        for number, (name, count) in enumerate({"trainA": 7, "trainB": 11, "testA": 3, "testB": 5}.items()):
            draw(base / "images" / name, count, seed=number)
        data = shard(base / "images", base / "shards", "--shard-size", "4", "--workers", "1")
        pairs = 2 * STEPS_A_SECOND * seconds
        length = [*RUN, "--epochs", str(pairs / 11), "--decay-epochs", "0"]
        print(f"{pairs:.0f} pairs, first without faults", flush=True)
        run(data, base / "whole", *length, ranks=2, timeout=3600)

        storm = Run(data, base / "run", length)
        storm.start(f"pace {PACE}")
        assert storm.wait_for_steps(), storm.text
        began, recoveries = time.monotonic(), []
        while (now := time.monotonic() - began) < seconds and storm.alive():
            time.sleep(min(options.every * rng.uniform(0.5, 1.5), seconds - now))
            fault = rng.choice(FAULTS)
            at = time.monotonic()
            fault(storm, rng)
            storm.wait_until_down()
            down = time.monotonic() - at
            storm.start(f"pace {PACE}")
            assert storm.wait_for_steps(), storm.text
            recoveries.append(time.monotonic() - at)
            resumed = re.search(r"at (\d+) of", storm.text)[1]
            print(
                f"{at - began:6.1f} s  {fault.__name__:<22} down after {down:4.1f} s, "
                f"a new step after {recoveries[-1]:4.1f} s, resumed at {resumed} pairs",
                flush=True,
            )
        tell_to_stop(storm, rng)
        storm.wait_until_down()
        reached = max(map(int, re.findall(r"^ *(\d+)/\d+ pairs", storm.text, re.M)))
        print(
            f"{len(recoveries)} faults in {options.minutes:g} minutes, {reached} pairs; now to the end without",
            flush=True,
        )
        run(data, base / "run", *length, ranks=2, timeout=3600)

        one, other = final(base / "whole"), final(base / "run")
        same_losses = losses(base / "run") == losses(base / "whole")
        same_state = one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())
        result = {"faults": len(recoveries), "slowest_recovery_s": max(recoveries, default=0)}
        print(json.dumps(result | {"same_losses": same_losses, "same_state": same_state}))
        sys.exit(not (same_losses and same_state and recoveries))


if __name__ == "__main__":
    main()
