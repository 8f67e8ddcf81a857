"""python world.py OUT LIBRARY: train every member for a moment on these ranks; rank 0 saves what is equal on all."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from members import MEMBERS, SLOW
from running import build, close, go
from teachers import fill

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group

SHORT = (
    *("--shards", "2", "--runtime.dtype", "float64", "--eval.episodes", "0"),
    *("--replay.learning_starts", "200", "--total_env_steps", "1040"),
)

if __name__ == "__main__":
    found: dict[str, dict[str, torch.Tensor]] = {}
    with process_group(torch.device("cpu"), Launch.read(), 30.0) as ranks:
        for name, arguments in (MEMBERS | SLOW).items():
            with tempfile.TemporaryDirectory() as folder:
                run = build(fill(("debug", *arguments, *SHORT), Path(sys.argv[2])), Path(folder), ranks)
                run.write = lambda *_: None  # each rank has a folder of its own here
                go(run)
                assert run.learner.updates > 50, f"{name}: {run.learner.updates} updates"
                found[name] = {f"net.{k}": v.clone() for k, v in run.weights["net"].state_dict().items()}
                moments = run.sync.state_dict()["optimizer"]
                found[name] |= {f"moment.{k}": v.clone() for k, v in moments.items() if isinstance(v, torch.Tensor)}
                assert int(run.sync.diverged()) == 0
                close(run)
        if ranks.rank == 0:
            torch.save(found, sys.argv[1])
