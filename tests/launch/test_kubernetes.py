"""launch/kubernetes.yaml: what a cluster would accept, and what its pods do, as processes of this machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from running import ROOT, TINY
from runs import assert_same, nobody_left, pairs_reach, place_faulty_trainer, run, wait_for

BATCH_16 = [
    "--batch",
    "16",
    "--image-pool-size",
    "2",
    "--epochs",
    "16",
    "--decay-epochs",
    "16",
    "--checkpoint-every",
    "48",
]
KUBERNETES = ROOT / "launch" / "kubernetes.yaml"


def documents(text):
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.mark.parametrize("version", ["1.33", kubernetes_validate.latest_version()])
def test_the_kubernetes_example_is_valid(version):
    for document in documents(KUBERNETES.read_text()).values():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("maxFailedIndexes: 0", "maxFailedIndices: 0"),
        ("parallelism: 2", 'parallelism: "two"'),
        ("medium: Memory", "medum: Memory"),
        ("operator: In,", ""),
    ],
)
def test_the_validation_sees_a_slip(line, wrong):
    text = KUBERNETES.read_text()
    assert line in text
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(documents(text.replace(line, wrong))["Job"], "1.33", strict=True)


def test_the_kubernetes_example_agrees_with_itself():
    """What no schema knows: its parts name each other."""
    job, service, claim = (
        documents(KUBERNETES.read_text())[kind] for kind in ("Job", "Service", "PersistentVolumeClaim")
    )
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert int(env["NODES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {
        "job-name": job["metadata"]["name"]
    }
    assert env["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert all(rule["onExitCodes"]["containerName"] == container["name"] for rule in rules if "onExitCodes" in rule)


class Pods:
    """The pods of launch/kubernetes.yaml as processes of this machine, each of them process 1 of its own name space."""

    def __init__(self, folder, data):
        place_faulty_trainer(folder)
        (folder / "data" / "shards").mkdir(parents=True)
        (folder / "data" / "shards" / "mine").symlink_to(data)
        self.folder, self.out, self.fault = folder, folder / "data" / "runs" / "mine", folder / "fault"
        self.spec = documents(KUBERNETES.read_text())["Job"]["spec"]
        (self.container,) = self.spec["template"]["spec"]["containers"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def _here(self, text, **values):
        """As on the cluster: references resolved. As on this machine: its paths and its address."""
        text = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], text)
        text = re.sub("^/(?=data/)", f"{self.folder}/", re.sub("^/zorse(?=/)", str(self.folder), text))
        return "127.0.0.1" if text == "zorse-0.zorse" else text

    def start(self, index, fault):
        fields = {
            "metadata.annotations['batch.kubernetes.io/job-completion-index']": str(index),
            "metadata.labels['batch.kubernetes.io/controller-uid']": "0a1b2c",
        }
        env = {}
        for entry in self.container["env"]:
            path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            env[entry["name"]] = fields[path] if path else self._here(entry["value"], **env)
        env |= {"BIN": str(Path(sys.executable).parent), "CPU_RANKS": "1", "OMP_NUM_THREADS": "1"}
        env |= {"MASTER_PORT": str(self.port), "GLOO_SOCKET_IFNAME": "lo"}
        env |= {"ZORSE_FAULT": fault, "ZORSE_FAULT_ONCE": str(self.fault)}
        line = [self._here(part) for part in (*self.container["command"], *self.container["args"])]
        options = [*TINY, "--sample-images", "1", "--log-every", "1", *BATCH_16[2:]]
        return subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", *line, *options],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def action(self, code):
        """What the Job does about a pod that ended so."""
        if code == 0:
            return "Complete"
        for rule in self.spec["podFailurePolicy"]["rules"]:
            if code in rule.get("onExitCodes", {"values": []})["values"]:
                return rule["action"]
        return "Count"


def terminate_process_1(pod):
    (process_1,) = Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text().split()
    os.kill(int(process_1), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.fault(1)
def test_pods_stop_together_come_back_and_survive_a_killed_rank(shards, tmp_path, record_property):
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("unshare needs root")
    run(shards, tmp_path / "whole", *BATCH_16, ranks=2)
    pods = Pods(tmp_path, shards)
    first = [pods.start(index, "pace 0.5") for index in (0, 1)]
    pairs_reach(first[0], 32)
    terminate_process_1(first[1])  # that machine is drained
    output = [pod.communicate(timeout=100)[0] for pod in first]
    assert [pods.action(pod.returncode) for pod in first] == ["Ignore", "Ignore"], output
    assert nobody_left(pods.out, 0)
    stopped = int(re.search(r"\] stopped (\d+)", output[0])[1])

    second = [pods.start(index, "kill 1 3") for index in (0, 1)]
    wait_for(second[0], f"^resuming .* at {stopped} of 352 pairs")
    wait_for(second[0], "starting again")  # in the same pod
    pairs_reach(second[0], stopped)
    record_property("recovery_s", time.time() - pods.fault.stat().st_mtime)
    output = [pod.communicate(timeout=200)[0] for pod in second]
    assert "starting again" in output[1]
    assert [pods.action(pod.returncode) for pod in second] == ["Complete", "Complete"], output
    assert_same(pods.out, tmp_path / "whole")

    late = pods.start(1, "pace 0")  # it was lost after the end, before Kubernetes knew
    assert "finished 352" in late.communicate(timeout=20)[0] and late.returncode == 0


@pytest.mark.slow
@pytest.mark.fault(9)
def test_a_mistake_in_a_pod_fails_the_job(shards, tmp_path):
    pods = Pods(tmp_path, shards)
    pods.container["args"] += ["--lr", "-1"]
    both = [pods.start(index, "pace 0") for index in (0, 1)]
    output = [pod.communicate(timeout=100)[0] for pod in both]
    assert [pods.action(pod.returncode) for pod in both] == ["FailJob", "FailJob"], output
    assert "error: --lr -1.0" in output[0]
