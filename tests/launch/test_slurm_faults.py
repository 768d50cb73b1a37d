"""launch/train.sbatch loses a node of a real Slurm, whose nodes are hosts of their own: killed, or its cable pulled."""

import subprocess

import pytest
import slurm_tools
from slurm_tools import Job, running
from writers import Writers

pytestmark = [pytest.mark.slow, pytest.mark.fault(6)]
whole = slurm_tools.whole


@pytest.fixture(scope="module")
def slurm():
    """Two nodes, and spare ones."""
    host = "ip link add type veth && ip link add type bridge"
    made = subprocess.run(["unshare", "--net", "--uts", "--mount", "sh", "-c", host], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"hosts cannot be made of namespaces here: {made.stderr.strip()}")
    with running(4, "apart") as cluster:
        yield cluster


def nodes_of(job):
    """The first one runs the batch script and rank 0."""
    return job.cluster.run(
        "scontrol", "show", "hostnames", job.cluster.run("squeue", "-h", "-j", job.id, "-o", "%N")
    ).split()


def processes_on(node):
    """slurmd, step daemons and all below them."""
    return subprocess.run(["ip", "netns", "pids", f"zorse-{node}"], capture_output=True, text=True).stdout.split()


def test_a_killed_node_is_replaced(slurm, shards, whole, tmp_path, record_property):
    job = Job(slurm, tmp_path, data=shards)
    job.wait_for_pairs(30)
    _, killed = nodes_of(job)
    subprocess.run(["kill", "-9", *processes_on(killed)], check=True)
    job.wait_for_recovery(record_property)
    assert killed not in nodes_of(job)
    job.assert_same_as(whole)
    assert "restart 1" in job.text() and job.journal()[-3:] == ["launched", "started 20", "finished 198"]


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_node_without_network_is_replaced_and_writes_no_more(slurm, shards, whole, tmp_path, record_property, rank):
    """Its network is that of Slurm and of gloo; the file system it keeps."""
    job = Job(slurm, tmp_path, data=shards)
    job.wait_for_pairs(30)
    cut = nodes_of(job)[rank]
    writers, old = Writers(job.out), {int(process) for process in processes_on(cut)}
    job.wait(lambda: writers.written)
    cable = ["ip", "-n", "zorse-net", "link", "set", f"cable-{cut}"]
    subprocess.run([*cable, "down"], check=True)
    job.wait_for_recovery(record_property)
    assert cut not in nodes_of(job)
    before = len(writers.written)
    job.assert_same_as(whole)
    assert "restart 1" in job.text() and len(writers.written) > before
    # When it is back, Slurm ends what was left on it.
    assert len(processes_on(cut)) > 1
    subprocess.run([*cable, "up"], check=True)
    job.wait(lambda: len(processes_on(cut)) == 1)
    assert not [path for process, path in writers.written[before:] if process in old]
    job.assert_same_as(whole)
