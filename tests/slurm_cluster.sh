#!/bin/bash
# A real Slurm on this machine for tests: slurm_cluster.sh up|down DIR [NODES]. Needs root and Debian's packages slurmctld
# slurmd slurm-client slurm-wlm-basic-plugins munge. No systemd, no cgroups, loopback only; nodes n1, n2, ... of 16 CPUs.
set -euo pipefail
action=$1 dir=$(realpath -m "$2") nodes=${3:-2} port=${SLURM_TEST_PORT:-16800}
conf=$dir/slurm.conf

stop() { # by pid file, politely and then not
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in {1..100}; do [[ $(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null || echo Z) == Z ]] && return 0; sleep 0.05; done
  kill -9 "$pid" 2>/dev/null || true
}

if [[ $action == down ]]; then
  for file in "$dir"/run/slurmd-*.pid "$dir"/run/ctld.pid "$dir"/run/munged.pid; do stop "$file"; done
  exit 0
fi

mkdir -p "$dir"/{state,log,run}
chmod 755 "$dir" "$dir"/{log,run}
(umask 077 && head -c 1024 /dev/urandom >"$dir/run/munge.key")
host=$(hostname -s)
cat >"$conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# The time a credential lives is also the delay of a requeue.
AuthInfo=socket=$dir/run/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/run/ctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/ctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
KillWait=10
CompleteWait=0
MinJobAge=300
SlurmdTimeout=15
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=16 CoresPerSocket=16 RealMemory=64000 State=UNKNOWN
PartitionName=low Nodes=n[1-$nodes] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 State=UP
PartitionName=high Nodes=n[1-$nodes] PriorityTier=10 PreemptMode=OFF State=UP
CONF
export SLURM_CONF=$conf
munged --socket "$dir/run/munge.socket" --key-file "$dir/run/munge.key" --log-file "$dir/run/munged.log" \
  --pid-file "$dir/run/munged.pid" --seed-file "$dir/run/munged.seed"
slurmctld -c -f "$conf"
for ((i = 1; i <= nodes; i++)); do
  mkdir -p "$dir/spool-n$i"
  slurmd -f "$conf" -N "n$i"
done
for _ in {1..100}; do
  [[ $(sinfo -h -N -p low -o %T 2>/dev/null | grep -c '^idle$') == "$nodes" ]] && exit 0
  sleep 0.1
done
echo "the nodes did not become idle" >&2
sinfo >&2
exit 1
