# ---- rendezvous: one torchrun per node, meeting at a free port of the first node, where this script runs
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((15000 + SLURM_JOB_ID % 16000))      # two jobs on one node start looking at different ports
while (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1      # without it restarted ranks can meet stale keys
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
if [ -n "${LOCKSTEP_INTERFACE:-}" ]; then
  export NCCL_SOCKET_IFNAME=$LOCKSTEP_INTERFACE GLOO_SOCKET_IFNAME=$LOCKSTEP_INTERFACE
fi
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
on_nodes() {      # on_nodes N: set `srun` to what starts a command once on each of N nodes
  srun=(srun --nodes "$1" --ntasks "$1" --ntasks-per-node 1 --kill-on-bad-exit=1 "${srun_options[@]}" "${wrap[@]}")
}
meet() {      # meet N ID: set `torchrun` to what starts the ranks of N nodes, under the node names that SLURM uses
  on_nodes "$1"
  torchrun=("${srun[@]}" bash -c 'trap "" USR1 USR2; exec "$0" -m torch.distributed.run --local-addr "$SLURMD_NODENAME" "$@"'
    "$python" --nnodes "$1" --nproc-per-node "$ranks_per_node" --max-restarts "$max_restarts"
    --rdzv-backend c10d --rdzv-endpoint "$head:$port" --rdzv-id "$2")
}
