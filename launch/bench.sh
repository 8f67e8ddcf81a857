#!/usr/bin/env bash
@SBATCH@
#
# The scaling benchmark on 1, 2, 4, ... nodes of one allocation, one after the other; a number of nodes that fails does
# not keep the others from running. docs/slurm.md
# What each node starts: @TORCHRUN@

set -uo pipefail

@WHAT@
@SETTINGS@

if [ -n "$site" ]; then source "$site"; fi

@MEETING@

failed=()
for nodes in @NODES@; do
  meet "$nodes" "$SLURM_JOB_ID.$nodes"
  echo "batch: $nodes node(s): ${torchrun[*]} -m benchmarks.scaling ${arguments[*]}"
  "${torchrun[@]}" -m benchmarks.scaling --ranks $((nodes * ranks_per_node)) --out "$out" "${arguments[@]}" || failed+=("$nodes")
done
if [ ${#failed[@]} -gt 0 ]; then echo "batch: failed on ${failed[*]} node(s): see their output above"; exit 1; fi
echo "batch: measured on @NODES@ node(s): $out"
