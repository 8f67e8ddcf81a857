"""The table of results over tasks and methods, from runs that have finished, as markdown and as rows.

A cell is the mean and the standard deviation over seeds of the final greedy evaluation. The aggregate over tasks is the
interquartile mean of all runs of a method, each return divided by the reference method's mean on that task, with the
95% interval of a bootstrap stratified by task (rliable; Agarwal et al. 2021).
"""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.suites import Suite

RESAMPLES = 5_000


class Cell(NamedTuple):
    """The finished runs of one method on one task."""

    preset: str
    returns: dict[int, float]  # by seed: mean return of the greedy evaluation
    env_steps: int

    def complete(self, seeds: Sequence[int]) -> bool:
        return set(self.returns) >= set(seeds)


class Interval(NamedTuple):
    """An estimate and its 95% interval."""

    point: float
    low: float
    high: float


Cells = dict[tuple[str, str], Cell]
"""(method, task) -> cell."""


def read(suite: Suite, folder: Path, seeds: Sequence[int]) -> Cells:
    """Read the finished runs of a suite. Raises ValueError where runs of one cell differ in length."""
    return {
        (method, task): read_cell(folder, preset, seeds)
        for method, presets in suite.methods.items()
        for task, preset in presets.items()
    }


def read_cell(folder: Path, preset: str, seeds: Sequence[int]) -> Cell:
    """Read PRESET-sSEED/results.json of every seed that has one."""
    returns, lengths = {}, set()
    for seed in seeds:
        path = folder / f"{preset}-s{seed}" / "results.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            returns[seed] = float(result["evaluation"]["mean"])
            lengths.add(int(result["env_steps"]))
    if len(lengths) > 1:
        raise ValueError(f"{preset}: its runs are of different lengths, {sorted(lengths)} env steps")
    return Cell(preset, returns, max(lengths, default=0))


def aggregate(suite: Suite, cells: Cells, seeds: Sequence[int]) -> dict[str, Interval]:
    """Return the aggregate of every method whose runs have all finished; of none until the reference's have."""
    if suite.reference is None:
        return {}
    whole = [m for m in suite.methods if all((c := cells.get((m, t))) and c.complete(seeds) for t in suite.tasks)]
    if suite.reference not in whole:
        return {}
    ones = np.array([statistics.fmean(cells[suite.reference, task].returns.values()) for task in suite.tasks])
    if (ones <= 0).any():
        raise ValueError(f"{suite.reference} cannot be the measure: its mean return is not positive on every task")
    scores = {m: np.array([[cells[m, t].returns[s] for t in suite.tasks] for s in seeds]) / ones for m in whole}
    return interquartile_means(scores)


def interquartile_means(scores: Mapping[str, Any]) -> dict[str, Interval]:
    """Return the interquartile mean of each method's scores, [seeds, tasks]. The bootstrap is seeded.

    Raises ImportError where rliable is missing.
    """
    try:
        from rliable import library, metrics
    except ImportError as error:
        raise ImportError("The aggregate needs rliable: pip install 'lockstep[bench]'.") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between rliable and arch: how the seed is passed on
        before = np.random.get_state()  # rliable draws from here, whatever random state it is given
        np.random.seed(0)
        try:
            points, intervals = library.get_interval_estimates(
                dict(scores), lambda x: np.array([metrics.aggregate_iqm(x)]), reps=RESAMPLES
            )
        finally:
            np.random.set_state(before)
    return {m: Interval(float(points[m][0]), *(float(end) for end in intervals[m][:, 0])) for m in scores}


def markdown(suite: Suite, cells: Cells, seeds: Sequence[int]) -> list[str]:
    """Return the lines of the table, one per method. An unfinished cell says how many of its seeds have finished."""
    aggregates = aggregate(suite, cells, seeds)
    titles = ["method", *suite.tasks, *(["IQM [95%]"] if suite.reference else []), "command"]
    lines = [titles, ["---"] * len(titles)]
    for method in suite.methods:
        row = [method, *(_show(cells.get((method, task)), seeds) for task in suite.tasks)]
        if suite.reference:
            row.append("{:.2f} [{:.2f}, {:.2f}]".format(*aggregates[method]) if method in aggregates else "-")
        lines.append([*row, f"`{suite.command(method)}`"])
    return [f"| {' | '.join(line)} |" for line in lines]


def _show(cell: Cell | None, seeds: Sequence[int]) -> str:
    if cell is None:
        return ""
    values = list(cell.returns.values())
    if not cell.complete(seeds):
        mean = f"{statistics.fmean(values):.1f}" if values else "-"
        return f"{mean} ({len(values)} of {len(seeds)})"
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.1f}"


def rows(name: str, suite: Suite, cells: Cells, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the content of the table, one row per method, for the results file."""
    aggregates = aggregate(suite, cells, seeds)
    found = []
    for method in suite.methods:
        mine = {task: cell for (m, task), cell in cells.items() if m == method}
        row: dict[str, Any] = {
            "suite": name,
            "method": method,
            "train": suite.command(method),
            "seeds": list(seeds),
            "env_steps": {task: cell.env_steps for task, cell in mine.items()},
            "return_by_seed": {task: [cell.returns[seed] for seed in seeds] for task, cell in mine.items()},
        }
        if method in aggregates:
            row |= {"iqm": aggregates[method]._asdict(), "one_is_the_mean_of": suite.reference}
        found.append(row)
    return found
