#!/bin/bash
# Train on this machine and start again by itself when a process fails: launch/train.sh [options of pipeline/train.py]
#
# It uses all GPUs; with CPU_RANKS=N in the environment, N processes on CPUs. TERM, USR1, HUP and a first Ctrl-C save
# and end the run, a second Ctrl-C aborts it; rerun the same command to resume. A run that is to outlive its
# terminal wants tmux, or nohup launch/train.sh ... >train.log 2>&1 &. A systemd service wants KillMode=mixed and
# TimeoutStopSec=150.
#
# Several machines that share a file system, each with its number as NODE_RANK, all with the same new journal:
#   NODES=2 NODE_RANK=0 MASTER_ADDR=the-first-machine ZORSE_JOURNAL=/shared/run-1.journal launch/train.sh ...
#
# Exit codes: 0 finished, 2 a mistake in the options or the data, 128 + N saved and stopped by signal N, else a failure.

TRIES=3 # starts in a row that may fail to see a new pair
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=${BIN:-$project/.venv/bin} NODES=${NODES:-1} NODE_RANK=${NODE_RANK:-0} MASTER_PORT=${MASTER_PORT:-29500}

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi

say() { printf '[train %s] %s\n' "$(date +%T)" "${*//[[:cntrl:]]/?}"; }
mistake() {
  printf 'error: %s\n' "${*//[[:cntrl:]]/?}" >&2
  exit 2
}

for name in NODES NODE_RANK MASTER_PORT CPU_RANKS; do
  [[ ${!name:-0} =~ ^[0-9]+$ ]] || mistake "$name=${!name} is not a number"
done
((NODE_RANK < NODES)) || mistake "NODE_RANK=$NODE_RANK: $NODES machines have the numbers 0 to $((NODES - 1))"
if ((NODES > 1)); then
  [[ ${MASTER_ADDR:-} ]] || mistake "NODES=$NODES needs MASTER_ADDR, the name or address of machine 0"
  [[ ${ZORSE_JOURNAL:-} ]] || mistake "NODES=$NODES needs ZORSE_JOURNAL, a new file in a folder that the machines share"
fi

[[ -x $BIN/python ]] || mistake "$BIN/python is missing; run make install, or set BIN to its folder"
if ((${CPU_RANKS:-0} > 0)); then
  cores=$(nproc) each=$CPU_RANKS precision=${MIXED_PRECISION:-no}
  export ACCELERATE_USE_CPU=true OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > each ? cores / each : 1))}
else
  # GPUs of NVIDIA before compute capability 8.0 only emulate bf16.
  found=$("$BIN/python" -c 'import torch; old = torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)
print(torch.accelerator.device_count(), "no" if old else "bf16")') || exit
  read -r each precision <<<"$found"
  ((each > 0)) || mistake "no GPU here; CPU_RANKS=2 launch/train.sh ... starts 2 processes on CPUs"
  precision=${MIXED_PRECISION:-$precision}
fi
processes=$((NODES * each))

# The trainer tells this script what happens, a line an event: started PAIRS, stopped PAIRS, finished PAIRS, mistake.
# Exit codes do not survive the launcher between them.
if [[ ! ${ZORSE_JOURNAL:-} ]]; then
  ZORSE_JOURNAL=$(mktemp) || exit
  trap 'rm -f "$ZORSE_JOURNAL"' EXIT
fi
export ZORSE_JOURNAL
touch "$ZORSE_JOURNAL" || mistake "ZORSE_JOURNAL=$ZORSE_JOURNAL cannot be written"
lines() { wc -l <"$ZORSE_JOURNAL"; }
since() { tail -n "+$(($1 + 1))" "$ZORSE_JOURNAL"; } # the events after this many lines
starts_at_the_same_pair() {
  since "$first" | awk '$1 == "started" { n = $2 == at ? n + 1 : 1; at = $2 } END { print n + 0 }'
}

launch() { # to be run in the background
  # Whatever signal came, the launcher gets USR1 for its trainers, from this script alone and once: it would die of a
  # second one before the save. A terminal and systemd send theirs to all processes, so the launcher ignores these.
  trap '' HUP INT TERM
  export PET_SIGNALS_TO_HANDLE=SIGUSR1 # without it, torchrun would die of USR1 and leave orphans
  export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100 # seconds until it kills the trainers; its own 30 may be too few for a save
  if ((NODES == 1)); then
    exec "$BIN/python" "$project/pipeline/train.py" --processes "$processes" --mixed-precision "$precision" "$@"
  fi
  local how=(--multi_gpu --num_processes "$processes" --num_machines "$NODES")
  how+=(--mixed_precision "$precision" --dynamo_backend no)
  how+=(--machine_rank "$NODE_RANK" --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT")
  how+=(--rdzv_backend static --rdzv_conf timeout=1800) # so long a machine waits for the others
  exec "$BIN/accelerate" launch "${how[@]}" "$project/pipeline/train.py" "$@"
}

stop() { # by the signal $1
  if [[ ! $signalled ]]; then
    signalled=$1
    # On a terminal with an empty line on either side, or the next refresh of the bar above would wipe it away.
    if [[ -t 1 ]]; then echo; fi
    say "got $1: the run saves and stops"
    if [[ -t 1 ]]; then echo; fi
  elif [[ $1 == INT && $step ]]; then
    say "got another INT: aborted"
    pkill -KILL -P "$step"
    kill -KILL "$step" 2>/dev/null
  fi
}
signalled='' step='' unstarted=0 first=$(lines)
for name in HUP INT TERM USR1; do
  # shellcheck disable=SC2064
  trap "stop $name" "$name"
done

while :; do
  event=$(tail -n 1 "$ZORSE_JOURNAL")
  if [[ $event == finished* ]]; then # by the other machines, before this one came back
    say "$event"
    exit 0
  fi
  if (($(starts_at_the_same_pair) >= TRIES)); then
    say "$TRIES consecutive starts made no progress; look above for the reason"
    exit 1
  fi
  [[ $signalled ]] && exit $((128 + $(kill -l "$signalled")))
  say "starting $processes process$( ((processes > 1)) && echo es) on $NODES machine$( ((NODES > 1)) && echo s)"
  before=$(lines) told=
  launch "$@" &
  step=$!
  # Nobody would look after the run if this script were killed.
  (while kill -0 $$ && kill -0 "$step"; do sleep 2; done; kill -USR1 "$step") >/dev/null 2>&1 &
  watcher=$!
  while kill -0 "$step" 2>/dev/null; do
    if [[ $signalled ]] && { [[ ! $told ]] || ! since "$before" | grep -q '^started'; }; then
      kill -USR1 "$step" # again until it starts, since a process that is being made may miss it
      told=yes
    fi
    sleep 1 &
    wait $! # until a second has gone or a signal comes
  done
  wait "$step"
  code=$? step=
  kill "$watcher" 2>/dev/null

  ((code == 0)) && exit 0
  event=$(since "$before" | tail -n 1)
  case $event in
    finished*)
      say "$event"
      exit 0 ;;
    mistake)
      say "a mistake that a restart would not fix, see above"
      exit 2 ;;
    stopped*)
      say "$event"
      exit $((128 + $(kill -l "${signalled:-TERM}"))) ;; # TERM: another machine was asked to stop
  esac
  if [[ $signalled ]]; then
    say "ended without saving; rerun the same command to resume from the latest checkpoint"
    exit $((128 + $(kill -l "$signalled")))
  fi
  if since "$before" | grep -q '^started'; then
    unstarted=0
  elif ! since "$first" | grep -q '^started' || ((++unstarted >= TRIES)); then
    say "the run did not start (exit code $code), see above"
    exit "$code"
  fi
  say "a process failed (exit code $code); starting again"
  if ((NODES > 1)); then # when the other machines have noticed, too
    sleep 5 &
    wait $!
  fi
done
