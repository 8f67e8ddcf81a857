"""`python -m benchmarks.chaos [--rows NAME ...] [--trials N] [--short]`: the table of docs/reliability.md, measured.

Every trial starts a real run in a folder of its own, injects one fault, and looks at what is left. Rows go to
results/chaos.jsonl. To add a group of rows, add a file with ROWS and an entry in GROUPS.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos import (
    bad_numbers,
    clocks,
    configs,
    disks,
    divergence,
    envs,
    hangs,
    kills,
    leaks,
    orphans,
    saves,
    services,
    signals,
    stored,
    worlds,
)
from benchmarks.chaos.row import SHORT, WHOLE, Draw, Outcome, Row, Size, percentile
from benchmarks.rows import write_rows

GROUPS = (
    *(kills, saves, signals, hangs, orphans, envs, bad_numbers, divergence, disks, stored, worlds, services, configs),
    *(leaks, clocks),
)
ROWS: dict[str, Row] = {row.name: row for group in GROUPS for row in group.ROWS}


def main() -> int:
    own = _parse()
    rows = []
    for row in (ROWS[name] for name in own.rows or ROWS):
        trials = row.short if own.short else own.trials or row.trials
        if trials:
            rows.append(measure(row, trials, SHORT if own.short else WHOLE))
            print(table_line(row, rows[-1]), flush=True)
    path = write_rows("chaos", rows)
    print(f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}")
    return 0 if all(row["survived"] == row["trials"] for row in rows) else 1


def measure(row: Row, trials: int, size: Size) -> dict[str, Any]:
    """Run a row's trials; return what came out."""
    began, outcomes = time.monotonic(), []
    for i in range(trials):
        outcomes.append(attempt(row, i, size))
        if not outcomes[-1].survived:
            print(f"{row.name}, trial {i}: {outcomes[-1].why}", file=sys.stderr, flush=True)
    names = sorted({name for outcome in outcomes for name in outcome.measures})
    values = {name: [o.measures[name] for o in outcomes if name in o.measures] for name in names}
    return {
        "row": row.name,
        "trials": trials,
        "survived": sum(outcome.survived for outcome in outcomes),
        "seconds": round(time.monotonic() - began, 1),
        "measures": {
            name: {"median": percentile(each, 0.5), "p95": percentile(each, 0.95), "max": max(each)}
            for name, each in values.items()
        },
    }


def attempt(row: Row, number: int, size: Size) -> Outcome:
    """Run one trial; the same number is the same trial, as far as processes are reproducible."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        try:
            return row.trial(Path(folder), Draw(row.name, number, size))
        except AssertionError as error:  # a deadline, or a leftover process
            return Outcome(str(error))


def table_line(row: Row, found: dict[str, Any]) -> str:
    """Return a row of the table as Markdown."""
    figures = [f"{found['survived']} of {found['trials']}"]
    for name, values in found["measures"].items():
        figures.append(f"{name}: median {values['median']:.2f}, p95 {values['p95']:.2f}")
    return f"| {row.fault} | {row.expected} | {row.wanted} | {'; '.join(figures)} |"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="NAME", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--trials", type=int, help="of each row; default: each row's own number")
    parser.add_argument("--short", action="store_true", help="as few trials as tests make, of runs as short")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
