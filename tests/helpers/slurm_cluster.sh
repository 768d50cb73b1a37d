#!/bin/bash
# A real Slurm on this machine for tests: slurm_cluster.sh up|down DIR [NODES [HOSTS]]. Needs root and Debian's packages
# slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge. No systemd, no cgroups; nodes n1, n2, ... of 16 CPUs and
# 8 GPUs, which are copies of /dev/null.
#
# HOSTS is "shared", where all nodes are this host, or "apart", where each is a host with a name and a network of its
# own, in network namespaces zorse-n1, zorse-n2, ...; then clients run inside of zorse-net, where their cables end.
# SLURM_TEST_PORT moves the cluster to other ports; SLURM_TEST_CRED_EXPIRE: a thousand nodes take more than 5 seconds.
set -euo pipefail
action=$1 dir=$(realpath -m "$2") nodes=${3:-2} hosts=${4:-shared} port=${SLURM_TEST_PORT:-16800}
conf=$dir/slurm.conf
patience=$((10 + nodes / 10)) # seconds; two cores are slow to answer for a thousand nodes

ended() { [[ $(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null || echo Z) == Z ]]; } # a zombie has ended

stop() { # by pid files; nothing that is theirs is wanted any more
  local pids=() pid
  for file in "$@"; do pids+=("$(cat "$file" 2>/dev/null)") || true; done
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    until ended "$pid"; do sleep 0.05; done
  done
}

remove_network() {
  local name
  for name in $(ip netns list | grep -o '^zorse-[a-z0-9]*'); do
    ip netns pids "$name" | xargs --no-run-if-empty kill -9
    ip netns del "$name"
  done
}

if [[ $action == down ]]; then
  if [[ $hosts == shared ]]; then # what is left of jobs; hosts of their own end with all that is on them
    SLURM_CONF=$conf squeue -h -o %A | SLURM_CONF=$conf xargs --no-run-if-empty scancel --signal=KILL --full
    for _ in {1..50}; do [[ $(SLURM_CONF=$conf squeue -h) ]] || break; sleep 0.1; done
  fi
  stop "$dir"/run/slurmd-*.pid
  stop "$dir"/run/ctld.pid "$dir"/run/munged.pid
  [[ $hosts == shared ]] || remove_network
  exit 0
fi

mkdir -p "$dir"/{state,log,run,dev}
chmod 755 "$dir" "$dir"/{log,run}
(umask 077 && head -c 1024 /dev/urandom >"$dir/run/munge.key")
for ((i = 0; i < 8; i++)); do mknod "$dir/dev/gpu$i" c 1 3; done

define_nodes() {
  local i what="CPUs=16 CoresPerSocket=16 RealMemory=64000 Gres=gpu:8 State=UNKNOWN"
  if [[ $hosts == shared ]]; then
    what="Port=[$((port + 1))-$((port + nodes))] $what"
    echo "NodeName=n[1-$nodes] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 $what"
  else
    for ((i = 1; i <= nodes; i++)); do echo "NodeName=n$i NodeAddr=10.77.0.$i Port=$((port + 1)) $what"; done
  fi
}

make_network() { # a bridge, and a cable from it to each host
  local i
  remove_network
  ip netns add zorse-net
  ip -n zorse-net link set lo up
  ip -n zorse-net link add bridge type bridge
  ip -n zorse-net addr add 10.77.0.254/24 dev bridge
  ip -n zorse-net link set bridge up
  for ((i = 1; i <= nodes; i++)); do
    ip netns add "zorse-n$i"
    ip link add eth0 netns "zorse-n$i" type veth peer name "cable-n$i" netns zorse-net
    ip -n zorse-net link set "cable-n$i" master bridge up
    ip -n "zorse-n$i" addr add "10.77.0.$i/24" dev eth0
    ip -n "zorse-n$i" link set eth0 up
    ip -n "zorse-n$i" link set lo up
    echo "10.77.0.$i n$i"
  done >"$dir/hosts"
  echo "10.77.0.254 controller
127.0.0.1 localhost" >>"$dir/hosts"
}

on() { # HOST COMMAND...
  local host=$1
  shift
  [[ $hosts == shared ]] && { "$@"; return; }
  # Not `ip netns exec`: it mounts /sys anew, which slurmd does not stand.
  # shellcheck disable=SC2016
  nsenter --net="/run/netns/zorse-${host/controller/net}" unshare --uts --mount \
    bash -c 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; exec "$@"' _ "$host" "$dir/hosts" "$@"
}

if [[ $hosts == shared ]]; then
  controller="$(hostname -s)(127.0.0.1)"
else
  make_network
  controller="controller(10.77.0.254)"
fi
cat >"$conf" <<CONF
ClusterName=test
SlurmctldHost=$controller
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# The time a credential lives is also the delay of a requeue.
AuthInfo=socket=$dir/run/munge.socket,cred_expire=${SLURM_TEST_CRED_EXPIRE:-5}
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
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
KillWait=$([[ $hosts == shared ]] && echo 30 || echo 5) # a save has so long; a rank cut off cannot save
CompleteWait=0
MinJobAge=3600
MessageTimeout=$((patience < 100 ? patience : 100))
SlurmdTimeout=$((nodes > 100 ? 300 : 15))
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Nodes that are never there, to ask whether a large job could run. Slurm wants programs that would start such ones.
ResumeProgram=/bin/false
SuspendProgram=/bin/false
NodeName=big[1-1100] CPUs=96 CoresPerSocket=96 RealMemory=1500000 Gres=gpu:8 State=CLOUD
PartitionName=big Nodes=big[1-1100] State=UP
$(define_nodes)
PartitionName=low Nodes=n[1-$nodes] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 State=UP
PartitionName=high Nodes=n[1-$nodes] PriorityTier=10 PreemptMode=OFF State=UP
CONF
cat >"$dir/gres.conf" <<CONF
AutoDetect=off
NodeName=n[1-$nodes],big[1-1100] Name=gpu File=$dir/dev/gpu[0-7]
CONF
export SLURM_CONF=$conf
munged --socket "$dir/run/munge.socket" --key-file "$dir/run/munge.key" --log-file "$dir/run/munged.log" \
  --pid-file "$dir/run/munged.pid" --seed-file "$dir/run/munged.seed"
on controller slurmctld -c -f "$conf"
for ((i = 1; i <= nodes; i++)); do
  mkdir -p "$dir/spool-n$i"
  on "n$i" slurmd -f "$conf" -N "n$i"
done
for ((tenths = 0; tenths < 200 + nodes; tenths++)); do
  [[ $(on controller sinfo -h -N -p low -o %T 2>/dev/null | grep -c '^idle$') == "$nodes" ]] && exit 0
  sleep 0.1
done
echo "the nodes did not become idle" >&2
on controller sinfo >&2
exit 1
