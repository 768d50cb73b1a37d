"""The shape of a large launch: what launch/train.sbatch asks of Slurm, and what each of many nodes is told to start."""

import os
import time
from collections import Counter

import pytest
from running import ROOT
from slurm_tools import Job, running

pytestmark = pytest.mark.slow
NODES = int(os.environ.get("SLURM_TEST_NODES", "1024"))  # of which 64 take a quarter of the time


@pytest.fixture(scope="module")
def slurm():
    with running(NODES, SLURM_TEST_CRED_EXPIRE="120") as cluster:
        del cluster["CPU_RANKS"], cluster["MASTER_ADDR"]
        yield cluster


def test_slurm_would_run_it_on_1024_nodes_of_8_gpus(slurm):
    asked = f"sbatch --test-only --nodes=1024 --partition=big --gres=gpu:8 {ROOT / 'launch' / 'train.sbatch'} 2>&1"
    assert "on nodes big[1-1024] " in slurm.run("sh", "-c", asked)


def test_every_node_is_told_its_rank_and_one_address(slurm, tmp_path, record_property):
    stub = """echo "$@" >"${0%/*}/told-$SLURM_NODEID"
        ((SLURM_NODEID)) || echo finished 1 >>"$ZORSE_JOURNAL" """
    begin = time.monotonic()
    job = Job(slurm, tmp_path, "--gres=gpu:8", accelerate=stub, nodes=NODES)
    assert job.wait_until_over(600) == "COMPLETED", job.text()
    record_property("launch_s", round(time.monotonic() - begin, 1))
    told = [file.read_text().split() for file in tmp_path.glob("told-*")]
    assert len(told) == NODES and {words[0] for words in told} == {"launch"}

    def of(option):
        return Counter(words[words.index(option) + 1] for words in told)

    assert of("--machine_rank") == {str(rank): 1 for rank in range(NODES)}
    assert of("--num_machines") == {str(NODES): NODES}
    assert of("--num_processes") == {str(8 * NODES): NODES}
    assert of("--main_process_ip") == {"n1": NODES}
    assert len(of("--main_process_port")) == 1
    assert of("--out") == {str(job.out): NODES}  # the trainer's options, whole
