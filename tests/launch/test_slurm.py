"""launch/train.sbatch on a real Slurm: time limits, preemption, requeue, scancel, failed ranks, mistakes, the guard."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import slurm_tools
from runs import said
from slurm_tools import Job, running

pytestmark = pytest.mark.slow
whole = slurm_tools.whole


@pytest.fixture(scope="module")
def slurm():
    """Nodes n1 and n2 for a test each, n3 and n4 for what takes minutes meanwhile."""
    with running(4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def job(slurm, shards, tmp_path_factory):
    """job(...) submits one to n1 and n2."""

    def submit(*sbatch, **how):
        return Job(slurm, tmp_path_factory.mktemp("job"), "--nodelist=n[1-2]", *sbatch, data=shards, **how)

    return submit


# Slurm looks at time limits every 30 s, and so warns up to 30 s early: 45 to 75 s after the start. Two minutes are the
# time that a start has here to come to its first step.
SHORT = ["--partition=high", "--time=2", "--signal=B:USR1@45"]


@pytest.fixture(scope="module", autouse=True)
def time_limited(slurm, shards, tmp_path_factory):
    """At this pace, all of the run would take five minutes: four starts."""
    folder = tmp_path_factory.mktemp("limited")
    return Job(slurm, folder, "--nodelist=n[3-4]", *SHORT, data=shards, pace=3)


@pytest.fixture(scope="module", autouse=True)
def deaf(slurm, tmp_path_factory):
    """A trainer that does not hear of its time limit, as if it were still starting; its second start has an end."""
    stub = 'trap "" USR1 TERM; [[ $SLURM_RESTART_COUNT ]] && echo finished 2 >>"$ZORSE_JOURNAL" && exit; sleep 200'
    return Job(slurm, tmp_path_factory.mktemp("deaf"), "--nodelist=n3", *SHORT, accelerate=stub, nodes=1)


@pytest.mark.fault(5)
def test_requeue_comes_back_and_goes_on(slurm, job, whole, record_property):
    requeued = job()
    requeued.wait_for_pairs(10)
    slurm.run("scontrol", "requeue", requeued.id)
    requeued.wait_for_recovery(record_property)
    requeued.assert_same_as(whole)
    events = requeued.journal()
    assert re.fullmatch(r"launched started 0 stopped (\d+) launched started \1 finished 198", " ".join(events))


@pytest.mark.fault(4)
def test_preempted_by_a_more_urgent_job(slurm, job, whole, record_property):
    preempted = job()
    preempted.wait_for_pairs(10)
    urgent = ["sbatch", "--parsable", "--partition=high", "--nodelist=n[1-2]", "--exclusive", "--output=/dev/null"]
    slurm.run(*urgent, "--wrap", "sleep 1")
    preempted.wait_for_recovery(record_property)
    preempted.assert_same_as(whole)
    assert "restart 1" in preempted.text() and re.search(
        r" stopped (\d+) launched started \1 ", " ".join(preempted.journal())
    )


@pytest.mark.fault(4)
def test_preempted_while_starting(slurm, job):
    """Slurm tells the step alone, and the trainer does not listen yet: the batch script tells it again."""
    stub = """trap "" USR1 TERM
        [[ $SLURM_RESTART_COUNT ]] && echo finished 2 >>"$ZORSE_JOURNAL" && exit
        echo started 0 >>"$ZORSE_JOURNAL"; sleep 5
        trap 'echo stopped 1 >>"$ZORSE_JOURNAL"; exit' USR1; for i in {1..200}; do sleep 0.1; done"""
    preempted = job(accelerate=stub)  # on both nodes
    preempted.wait(lambda: preempted.journal().count("started 0") == 2)
    slurm.run("sbatch", "--partition=high", "--nodelist=n1", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    assert preempted.wait_until_over() == "COMPLETED"
    assert "stopped 1" in preempted.journal() and "finished 2" in preempted.journal()


@pytest.mark.fault(3)
def test_a_warning_while_python_starts_is_not_lost(slurm, job, whole, record_property):
    warned = job()
    warned.wait(lambda: warned.starts() == 1)
    slurm.run("scancel", "--batch", "--signal=USR1", warned.id)  # as Slurm does before the time limit
    warned.wait_for_recovery(record_property)
    warned.assert_same_as(whole)
    stopped = int(re.search(r"stopped (\d+)", " ".join(warned.journal()))[1])
    assert stopped < 40  # after a few of its 99 steps
    assert "got USR1" in warned.text() and "restart 1" in warned.text()


@pytest.mark.fault(5)
def test_cancelled_stays_cancelled(slurm, job):
    cancelled = job()
    cancelled.wait_for_pairs(10)
    slurm.run("scancel", cancelled.id)
    assert cancelled.wait_until_over() == "CANCELLED"
    cancelled.wait(lambda: not slurm.run("squeue", "-h", "-j", cancelled.id))
    time.sleep(2)
    assert cancelled.state() == "CANCELLED" and cancelled.starts() == 1
    assert re.fullmatch(r"stopped \d+", cancelled.journal()[-1])  # saved all the same


@pytest.mark.fault(1)
@pytest.mark.fault(8)
@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_a_failed_rank_is_started_again_in_the_allocation(job, whole, record_property, fault):
    failed = job(fault=f"{fault} 1 30")
    failed.wait(lambda: (failed.folder / "once").exists())
    failed.wait_for_recovery(record_property)
    failed.assert_same_as(whole)
    text, events = failed.text(), " ".join(failed.journal())
    assert "starting again in this allocation" in text and "restart 1" not in text
    assert re.fullmatch(r"launched started 0 launched started (40|60) finished 198", events)
    if fault == "raise":  # its traceback once, before what launchers say, and no other rank's complaint
        assert text.index("rank 1 failed") < text.index("Traceback")
        assert said(text, "RuntimeError: this fault was asked for") == 1 and "lost contact" not in text


def test_a_node_too_late_for_its_credential_is_asked_again(slurm, job):
    """Where a node takes longer to answer than credentials live, the step ends; so does one of a thousand nodes."""
    folder = Path(slurm["SLURM_CONF"]).parent
    slurmd = int((folder / "run" / "slurmd-n2.pid").read_text())
    stub = """(($(grep -c launched "$ZORSE_JOURNAL") == 1)) && sleep 100
        ((SLURM_NODEID)) || echo finished 2 >>"$ZORSE_JOURNAL" """
    os.kill(slurmd, signal.SIGSTOP)
    try:
        late = job(accelerate=stub)
        late.wait(lambda: late.starts() == 1)
        time.sleep(8)  # credentials live for 5
    finally:
        os.kill(slurmd, signal.SIGCONT)
    assert late.wait_until_over() == "COMPLETED", late.text()
    assert "credential expired" in late.text() and late.starts() == 2 and "restart 1" not in late.text()


def guarded(job, stub):
    """A job over, in which this stands for the trainer of rank 0."""
    done = job(accelerate=f"((SLURM_NODEID)) && exit; {stub}")
    done.wait_until_over()
    return done


@pytest.mark.fault(8)
@pytest.mark.parametrize("stub", ["exit 1", 'echo started 40 >>"$ZORSE_JOURNAL"; exit 1'], ids=["before", "after"])
def test_three_starts_that_fail_at_once_end_the_job(job, stub):
    failed = guarded(job, stub)
    assert failed.state() == "FAILED" and failed.starts() == 3
    assert "3 consecutive starts made no progress" in failed.text()


def test_starts_that_each_bring_new_pairs_go_on(job):
    stub = """n=$(grep -c launched "$ZORSE_JOURNAL")
        ((n == 6)) && echo finished 6 >>"$ZORSE_JOURNAL" && exit
        echo started $((n / 2)) >>"$ZORSE_JOURNAL"; exit 1"""
    going = guarded(job, stub)
    assert going.state() == "COMPLETED" and going.starts() == 6


@pytest.mark.fault(3)
def test_three_requeues_without_a_new_pair_end_the_job(job):
    stub = """trap 'echo stopped 0 >>"$ZORSE_JOURNAL"; exit 1' USR1; echo started 0 >>"$ZORSE_JOURNAL"
        scancel --batch --signal=USR1 "$SLURM_JOB_ID"
        for i in {1..200}; do sleep 0.1; done"""
    failed = guarded(job, stub)
    assert failed.state() == "FAILED" and failed.starts() == 3 and "restart 2" in failed.text()
    assert "3 consecutive starts made no progress" in failed.text()


@pytest.mark.fault(9)
@pytest.mark.parametrize(("options", "told"), [(["--lr", "-1"], "error: --lr -1.0"), (["--lrr", "1"], "--lrr")])
def test_a_mistake_is_not_started_again(job, options, told):
    mistaken = job(options=options)
    assert mistaken.wait_until_over() == "FAILED"
    assert mistaken.starts() == 1 and told in mistaken.text()
    assert "a restart would not fix" in mistaken.text()


@pytest.mark.fault(3)
def test_a_time_limit_that_nobody_hears_of_is_requeued(deaf):
    assert deaf.wait_until_over() == "COMPLETED", deaf.text()
    assert "restart 1" in deaf.text() and deaf.starts() == 2


@pytest.mark.fault(3)
def test_time_limits_save_and_requeue(time_limited, whole):
    """Begun at the top of this file."""
    time_limited.wait(lambda: " ".join(time_limited.journal()).count("stopped") >= 3, 400)
    time_limited.slow.unlink()
    time_limited.assert_same_as(whole)
    assert time_limited.text().count("got USR1") >= 3 and "restart 3" in time_limited.text()
    reached = [int(event.split()[1]) for event in time_limited.journal() if event.startswith("stopped")]
    assert reached == sorted(set(reached)) and reached[0] > 0 and reached[-1] < 198
