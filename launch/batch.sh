#!/usr/bin/env bash
@SBATCH@
#
# How it lives: a warning (time limit, pre-emption) raises a stop file; rank 0 sees it at its next poll, all ranks agree,
# save once and exit 0; this script requeues the job, and its next life continues the run folder. docs/slurm.md
# What each node starts: @TORCHRUN@

set -uo pipefail

@WHAT@
log=@LOG@
@SETTINGS@
max_requeues=@MAX_REQUEUES@

say() { echo "batch: $*"; }
state() { sed -n 's/.*"state": "\([a-z]*\)".*/\1/p' "$run/status.json" 2>/dev/null; }
if [ "$(state)" = finished ]; then say "$run is finished"; exit 0; fi

# ---- the warning
mkdir -p "$run"
export LOCKSTEP_STOP_FILE=$run/stop
rm -f "$LOCKSTEP_STOP_FILE"
warn() { say "$1 at $(date +%T): saving"; touch "$LOCKSTEP_STOP_FILE"; }
trap 'warn @SIGNAL@' @SIGNAL@
trap 'warn TERM' TERM

job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
job=${job:-$SLURM_JOB_ID}
life=${SLURM_RESTART_COUNT:-0}
echo "$job" > "$run/job"
rm -f "$run/status.json" "$run/cause"      # whatever is found there later belongs to this life
say "job $job, life $life, on $SLURM_JOB_NODELIST"
if [ -n "$site" ]; then source "$site"; fi

@MEETING@

# ---- broken: the cause is kept in the run folder, where `launch status` finds it
cause() {      # cause STATUS: what killed a rank in this life, else what the rank that failed said, else what was said last
  awk '/^batch: job /{killed = failed = last = ""} sub(/^lockstep: /, ""){last = $0; if (/^rank [0-9]+ failed/) failed = $0}
       match($0, /Signal [0-9]+ \(SIG.*/) && !/SIGTERM/{killed = substr($0, RSTART)}
       END{print killed ? killed : failed ? failed : last}' "$log" | grep . || echo "torchrun ended with status $1, see $log"
}
reason() {      # the trainer's own line, else the first that is not srun's
  awk '/^srun: /{next} !first{first = $0} sub(/^lockstep: /, ""){told = $0} END{print told ? told : first}'
}
broken() {      # broken STATUS CAUSE
  say "$run is broken (status $1), not requeued: $2"
  echo "$2" > "$run/cause"
}
finish() {      # finish STATUS: the end of this life
@AFTER@  exit "$1"
}

# ---- does it fit? A mistake is reported once, before ranks wait for each other
ranks=$((SLURM_NNODES * ranks_per_node))
arguments+=(--log.dir "$(dirname "$run")" --log.name "$(basename "$run")" --resume auto)
if [ "$life" = 0 ]; then
  on_nodes 1
  said=$("${srun[@]}" "$python" -m trainer check "${arguments[@]}" --ranks "$ranks" 2>&1); code=$?
  if [ $code -ne 0 ]; then echo "$said"; broken $code "$(reason <<< "$said")"; finish $code; fi
fi

meet "$SLURM_NNODES" "$job.$life"
say "$ranks rank(s): ${torchrun[*]} -m trainer train ${arguments[*]}"
env | grep -E '^(OMP|TORCH|NCCL|GLOO)_' | sort | tr '\n' ' '; echo
"${torchrun[@]}" -m trainer train "${arguments[@]}" &
step=$!
wait "$step"; code=$?
while [ $code -gt 128 ] && kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done   # a trap interrupts wait

# ---- finished, saved or broken
found=$(state)
if [ "$found" = finished ]; then finish 0; fi
shown=$(scontrol show job -o "$SLURM_JOB_ID")
if grep -q JobState=COMPLETING <<< "$shown" && ! grep -q Reason=TimeLimit <<< "$shown"; then
  say "SLURM ends this job, and decides whether it comes back"      # cancelled, for one: a requeue would undo that
  finish 1
fi
if [ "$found" != stopped ]; then [ $code -ne 0 ] || code=1; broken $code "$(cause $code)"; finish $code; fi
if [ "$life" -ge "$max_requeues" ]; then say "saved, but requeued $life times already: submit it again"; finish 1; fi
say "saved; requeue $((life + 1)) of at most $max_requeues"
scontrol requeue "$job" || { say "not requeued: submit it again"; finish 1; }
finish 0
