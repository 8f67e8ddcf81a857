"""The cost of the check for diverged replicas, which is part of the refresh of the target network."""

from __future__ import annotations

import json
from pathlib import Path

from launching import QUIET, started

from benchmarks.chaos import divergence_rank
from benchmarks.chaos.row import Draw, Outcome, Row, outcome

LIMIT = 0.5  # %
STEPS = {"debug": "20000", "cartpole": "20000"}


def check_cost(folder: Path, draw: Draw) -> Outcome:
    """Two ranks of each preset, unchanged."""
    measures = {}
    for preset, steps in STEPS.items():
        report = folder / f"{preset}.json"
        more = ("--total_env_steps", steps, "--eval.episodes", "0", "--eval.every", "0")
        where = ("--log.dir", str(folder), "--log.name", preset)
        arguments = [divergence_rank.__file__, str(report), "train", preset, *more, *QUIET, *where]
        with started(arguments, folder, ranks=2, launcher="torchrun", deadline=180) as program:
            program.expect(0)
        measures[f"{preset} %"] = json.loads(report.read_text())["cost"]
    return outcome({}, **measures)


ROWS = [
    Row(
        "check-cost",
        "the check for silent divergence, presets debug and cartpole, 2 ranks",
        "costs next to nothing",
        f"<= {LIMIT:g} % of the step time",
        check_cost,
        trials=5,
        short=0,
    )
]
