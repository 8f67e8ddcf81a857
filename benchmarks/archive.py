"""Finished runs, kept in the repository: their results and the curve of their returns, so that a table can grow.

A run folder holds megabytes of checkpoints and belongs to one machine; what tables and figures need of it is a few
kilobytes under benchmarks/results/runs/PRESET-sSEED.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.rows import HERE, environment
from trainer.log.jsonl import read_rows

KEPT = HERE / "results" / "runs"
RETURN = "charts/episodic_return"
POINTS = 250  # rows kept of a curve


def keep(run: Path, commit: str = "", folder: Path = KEPT) -> bool:
    """Keep a run that has finished and is not kept yet; return whether it did. commit: what it was trained with."""
    out, results = folder / run.name, run / "results.json"
    if not results.exists() or (out / "results.json").exists():
        return False
    found = json.loads(results.read_text(encoding="utf-8"))
    rows = [row for row in read_rows(run / "metrics.jsonl") if row.get(RETURN) is not None]
    stride = -(-len(rows) // POINTS)
    groups = [rows[i : i + stride] for i in range(0, len(rows), stride)] if rows else []
    curve = [
        {"global_step": group[-1]["global_step"], RETURN: round(sum(row[RETURN] for row in group) / len(group), 4)}
        for group in groups
    ]
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["log"]["dir"] = "runs"  # its location matters only to that machine
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))
    machine = environment()
    trained = {"commit": commit or machine["commit"], **{name: machine[name] for name in ("cpu", "cores", "versions")}}
    (out / "results.json").write_text(json.dumps(found | {"trained_with": trained}, indent=1) + "\n")
    return True


def keep_all(folder: Path, commit: str = "") -> list[str]:
    """Keep every finished run of a folder; return the names of those that are new."""
    return [run.name for run in sorted(folder.iterdir()) if run.is_dir() and keep(run, commit)]
