"""Learning curves of several methods on several tasks as one figure: a panel per task, a colour per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.suites import Suite
from trainer.log.files import whole_file
from trainer.log.format import compact
from trainer.log.plot import GRID, INK, together, training_return

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"DQN": "#0072b2", "Double+Dueling+PER": "#e69f00", "Rainbow": "#cc79a7", "PQN": "#009e73"}
"""Distinguishable with red-green colour blindness (Okabe & Ito 2008)."""
PANEL, DPI = (3.9, 2.9), 160


def curves(suite: Suite, folder: Path, seeds: Sequence[int], out: Path) -> Figure:
    """Draw training return against env steps into `out`: the mean of the finished seeds in the band of their range.

    Rows of metrics.jsonl are averaged over a moving window. A method without a finished run on a task is left out.
    """
    from matplotlib.figure import Figure

    columns = math.ceil(math.sqrt(len(suite.tasks)))
    lines = math.ceil(len(suite.tasks) / columns)
    figure = Figure(figsize=(columns * PANEL[0], lines * PANEL[1] + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for axes, task in zip(panels, suite.tasks, strict=False):
        for method, presets in suite.methods.items():
            if task in presets:
                _method(axes, [folder / f"{presets[task]}-s{seed}" for seed in seeds], method)
        _dress(axes, task)
    for axes in panels[len(suite.tasks) :]:
        axes.set_axis_off()
    _legend(figure, panels)
    title = f"{suite.title}: mean and range over finished seeds"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK)
    with whole_file(out) as draft:
        figure.savefig(draft, format=out.suffix.lstrip(".") or "png", dpi=DPI, facecolor="white")
    return figure


def _method(axes: Axes, runs: Sequence[Path], method: str) -> None:
    finished = [training_return(run) for run in runs if (run / "results.json").exists()]
    finished = [run for run in finished if len(run.steps)]
    if not finished:
        return
    steps, returns = together(finished)
    axes.fill_between(steps, returns.min(0), returns.max(0), color=COLOURS[method], alpha=0.18, linewidth=0)
    axes.plot(steps, returns.mean(0), color=COLOURS[method], linewidth=1.8, label=method)


def _dress(axes: Axes, task: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(task, loc="left", fontsize=11, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.tick_params(labelsize=9, colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#aaaaaa")
    if axes.has_data():
        axes.set_xlim(left=0)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no finished run", transform=axes.transAxes, ha="center", fontsize=11, color="#888888")


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Name each method once, below all panels, and label the axes."""
    named = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.supxlabel("env steps", x=0.3, fontsize=11, color=INK)  # next to the legend
    figure.supylabel("training return", fontsize=11, color=INK)
    if named:
        figure.legend(
            list(named.values()),
            list(named),
            loc="outside lower right",
            ncols=len(named),
            frameon=False,
            fontsize=10.5,
            labelcolor=INK,
        )
