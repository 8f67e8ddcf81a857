#!/usr/bin/env bash
@SBATCH@
#
# How it lives: a warning (time limit, pre-emption) raises a stop file; rank 0 sees it at its next poll, all ranks agree,
# save once and exit 0; this script requeues the job, and its next life continues the run folder. docs/slurm.md

set -uo pipefail

@WHAT@
python=@PYTHON@
ranks_per_node=@RANKS_PER_NODE@
max_restarts=@MAX_RESTARTS@      # of failed ranks within one life of the job, from the last checkpoint
max_requeues=@MAX_REQUEUES@
site=@SITE@                # modules, container, network interface: slurm/cluster.env.example
wrap=()                # what srun starts torchrun with: a container's command line
srun_options=(@SRUN@)

if [ -n "$site" ]; then source "$site"; fi

# ---- who meets whom: one torchrun per node, found through the first node and a port of this job's own
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
job=${job:-$SLURM_JOB_ID}
life=${SLURM_RESTART_COUNT:-0}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((15000 + SLURM_JOB_ID % 16000))
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1      # without it restarted ranks can meet stale keys
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
if [ -n "${LOCKSTEP_INTERFACE:-}" ]; then
  export NCCL_SOCKET_IFNAME=$LOCKSTEP_INTERFACE GLOO_SOCKET_IFNAME=$LOCKSTEP_INTERFACE
fi
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
torchrun=("$python" -m torch.distributed.run
  --nnodes "$SLURM_NNODES" --nproc-per-node "$ranks_per_node" --max-restarts "$max_restarts"
  --rdzv-backend c10d --rdzv-endpoint "$head:$port" --rdzv-id "$job.$life"
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2
  -m trainer "${arguments[@]}" --log.dir "$(dirname "$run")" --log.name "$(basename "$run")" --resume auto)

state() { sed -n 's/.*"state": "\([a-z]*\)".*/\1/p' "$run/status.json" 2>/dev/null; }
if [ "$(state)" = finished ]; then echo "lockstep: $run is finished"; exit 0; fi

# ---- the warning
mkdir -p "$run"
rm -f "$run/status.json"      # what is found there later is of this life
export LOCKSTEP_STOP_FILE=$run/stop
rm -f "$LOCKSTEP_STOP_FILE"
warn() { echo "lockstep: $1 at $(date +%T): saving"; touch "$LOCKSTEP_STOP_FILE"; }
trap 'warn @SIGNAL@' @SIGNAL@
trap 'warn TERM' TERM

echo "lockstep: job $job, life $life, on $SLURM_JOB_NODELIST ($head:$port): ${torchrun[*]}"
echo "$job" > "$run/job"
srun --nodes "$SLURM_NNODES" --ntasks-per-node 1 --kill-on-bad-exit=1 "${srun_options[@]}" "${wrap[@]}" "${torchrun[@]}" &
step=$!
wait "$step"; code=$?
while [ $code -gt 128 ] && kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done   # a trap interrupts wait

# ---- finished, saved or broken
found=$(state)
@AFTER@
case $found in
  finished) exit 0 ;;
  stopped)
    if scontrol show job -o "$SLURM_JOB_ID" | grep -q JobState=CANCELLED; then exit 0; fi
    if [ "$life" -ge "$max_requeues" ]; then echo "lockstep: saved, but requeued $life times already: submit it again"; exit 1; fi
    echo "lockstep: saved; requeue $((life + 1)) of at most $max_requeues"
    scontrol requeue "$job"
    exit 0 ;;
  *) echo "lockstep: $run is broken (torchrun's status $code): not requeued"; [ $code -ne 0 ] || code=1; exit $code ;;
esac
