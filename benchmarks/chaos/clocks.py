"""The wall clock of every process repeatedly jumps by a day."""

from __future__ import annotations

import json
import math
from pathlib import Path

from launching import ROOT

from benchmarks.chaos.row import Draw, Outcome, Row, outcome
from benchmarks.chaos.running import final_state, resumes, same, supervised, undisturbed

HERE = Path(__file__).parent


def jumping(folder: Path, draw: Draw) -> Outcome:
    """Launcher and ranks see the jumps from their start on."""
    reference = undisturbed(2, *draw.size.flags)
    path = f"{HERE / 'jumping'}:{ROOT}:{ROOT / 'tests' / 'dist'}"
    with supervised(folder, 2, *draw.size.flags, "--log.tensorboard", "True", env={"PYTHONPATH": path}) as program:
        program.wait().expect_nothing_left()
    if program.code:
        return Outcome(f"the run failed\n{program.output}")
    run_dir = folder / "run"
    seconds = json.loads((run_dir / "results.json").read_text())["seconds"]
    rows = [json.loads(row) for row in (run_dir / "metrics.jsonl").read_text().splitlines()]
    speeds = [row["charts/SPS"] for row in rows if "charts/SPS" in row]
    shares = [value for row in rows for name, value in row.items() if name.startswith("time/")]
    steps = [row["global_step"] for row in rows]
    checks = {
        "no restart": not resumes(program),
        "it ended as the undisturbed one, bit for bit": same(final_state(run_dir), reference.state),
        f"it took what it took ({seconds:.1f} s)": 0 < seconds <= program.took,
        "speeds are positive numbers": bool(speeds) and all(0 < v < math.inf for v in speeds),
        "shares of time are shares": bool(shares) and all(0 <= v <= 1 for v in shares),
        "rows are in order": steps == sorted(steps),
    }
    return outcome(checks)


ROWS = [Row("clock", "clock jumps by a day", "monotonic clocks only", "no effect", jumping, trials=5)]
