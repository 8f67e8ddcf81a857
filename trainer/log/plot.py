"""The learning curve as a picture for the run folder and the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trainer.log.files import whole_file
from trainer.log.format import compact
from trainer.log.jsonl import read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, np.dtype[np.float64]]

SIZE, DPI = (8.0, 4.5), 200
"""800 x 450 points at twice the pixels."""
TRAIN, EVAL, INK, GRID = "#2f6fb3", "#d1571f", "#333333", "#e6e6e6"
GRID_POINTS = 400
"""Points at which curves of several runs are compared."""


class Series(NamedTuple):
    """One metric of one run; points without a finite value are left out."""

    steps: Array  # env steps, ascending
    values: Array


def learning_curve(run_dirs: Sequence[Path], out: Path, *, title: str) -> None:
    """Draw return against env steps from each run's metrics.jsonl into `out` (png, svg or pdf).

    Training return: one run shows the raw rows lightly behind their moving average; several show the mean of the
    averages inside the band from the lowest to the highest run. Greedy evaluations are points, with the confidence
    interval of one run or the range over several. A run without rows yet is left out.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("The learning curve needs matplotlib: pip install 'lockstep[plot]'.") from error
    runs = [read_rows(run_dir / "metrics.jsonl") for run_dir in run_dirs]
    # The object API: pyplot would keep a global list of figures and may ask for a display.
    figure = Figure(figsize=SIZE, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots()
    _training(axes, [series for rows in runs if len((series := _series(rows, "charts/episodic_return")).steps)])
    _evaluation(axes, runs)
    _dress(axes, title)
    with whole_file(out) as draft:
        figure.savefig(draft, format=out.suffix.lstrip(".") or "png", dpi=DPI, facecolor="white")


def training_return(run_dir: Path) -> Series:
    """Read the mean returns of training episodes, row by row."""
    return _series(read_rows(run_dir / "metrics.jsonl"), "charts/episodic_return")


def together(runs: Sequence[Series]) -> tuple[Array, Array]:
    """Return steps that all runs have in common, [P], and the moving average of each run there, [runs, P]."""
    # Only where every run has data, else the mean jumps as runs enter and leave.
    first, last = max(run.steps[0] for run in runs), min(run.steps[-1] for run in runs)
    steps = np.linspace(first, max(first, last), GRID_POINTS)
    return steps, np.stack([np.interp(steps, run.steps, _smooth(run.values)) for run in runs])


def _series(rows: Sequence[dict[str, Any]], name: str) -> Series:
    points = {}
    for row in rows:
        step, value = row.get("global_step"), row.get(name)
        if isinstance(step, int | float) and isinstance(value, int | float):
            points[float(step)] = float(value)  # a step that was logged twice counts once
    steps = sorted(points)
    return Series(np.array(steps), np.array([points[step] for step in steps]))


def _training(axes: Axes, runs: Sequence[Series]) -> None:
    if len(runs) == 1:
        ((steps, values),) = runs
        axes.plot(steps, values, color=TRAIN, alpha=0.25, linewidth=1.0, zorder=2)
        axes.plot(steps, _smooth(values), color=TRAIN, linewidth=2.2, label="training return", zorder=4)
    elif runs:
        steps, curves = together(runs)
        label = f"training return, mean and range of {len(runs)} runs"
        axes.fill_between(steps, curves.min(0), curves.max(0), color=TRAIN, alpha=0.18, linewidth=0, zorder=2)
        axes.plot(steps, curves.mean(0), color=TRAIN, linewidth=2.2, label=label, zorder=4)


def _evaluation(axes: Axes, runs: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Draw eval/return_mean as points; error bars: the interval of a single run, else the range over the runs."""
    by_step: dict[float, list[tuple[float, float, float]]] = {}  # env steps -> (mean, low, high) of each run
    for rows in runs:
        mean = _series(rows, "eval/return_mean")
        low = dict(zip(*_series(rows, "eval/return_ci_low"), strict=True))
        high = dict(zip(*_series(rows, "eval/return_ci_high"), strict=True))
        for step, value in zip(*mean, strict=True):
            by_step.setdefault(step, []).append((value, low.get(step, value), high.get(step, value)))
    if not by_step:
        return
    steps = sorted(by_step)
    middle, below, above = [], [], []
    for step in steps:
        values = [value for value, _, _ in by_step[step]]
        _, low_end, high_end = by_step[step][0] if len(values) == 1 else (0, min(values), max(values))
        middle.append(sum(values) / len(values))
        below.append(max(middle[-1] - low_end, 0.0))
        above.append(max(high_end - middle[-1], 0.0))
    axes.errorbar(
        steps, middle, yerr=[below, above], color=EVAL, linewidth=1.2, linestyle=":" if len(steps) > 1 else "none",
        marker="o", markersize=6, markeredgecolor="white", markeredgewidth=1.0, elinewidth=1.6, capsize=0,
        label="greedy evaluation", zorder=5,
    )  # fmt: skip


def _dress(axes: Axes, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=30)
    axes.set_xlabel("env steps", fontsize=12, color=INK)
    axes.set_ylabel("episode return", fontsize=12, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.tick_params(labelsize=11, colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#aaaaaa")
    if axes.has_data():
        axes.set_xlim(left=0)
        # Above the curves, where it can hide nothing.
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, frameon=False, fontsize=11, labelcolor=INK,
            borderaxespad=0.2, handlelength=1.6, columnspacing=1.8,
        )  # fmt: skip
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no data yet", transform=axes.transAxes, ha="center", fontsize=16, color="#888888")


def _smooth(values: Array) -> Array:
    """Return the centred moving average over a twenty-fifth of the points; at the ends, over as many as there are."""
    half = len(values) // 50
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    average: Array = (total[last] - total[first]) / (last - first)
    return average
