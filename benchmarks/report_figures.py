"""The pictures of the report, each drawn into given axes: for a page as SVG, for docs/images as PNG."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import scaling_maths as maths
from benchmarks.scaling_cases import BASELINE
from trainer.log.format import compact
from trainer.log.plot import GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

# by family: averaging every gradient is blue, sending less is orange, not waiting for all is green or purple
STYLE: dict[str, tuple[str, str]] = {
    "flat": ("#0b3c6f", "o"),
    "sockets": ("#5b7ea6", "H"),
    "ddp": ("#2f7fc1", "s"),
    "zero1": ("#5aa7dd", "^"),
    "overlap": ("#8ec6ee", "D"),
    "fp16": ("#8c3b00", "v"),
    "int8": ("#c85a00", "<"),
    "powersgd": ("#e6861f", ">"),
    "topk": ("#f2b36b", "P"),
    "local_sgd": ("#00684f", "X"),
    "gossip": ("#2aa57f", "h"),
    "server": ("#7a3e9d", "p"),
    "server-async": ("#b98ad0", "*"),
}
OTHER = ("#777777", "o")
PARTS = {"act": "#8ec6ee", "env": "#2f7fc1", "learn": "#0b3c6f", "sync": "#e6861f", "other": "#c9c9c9"}
IDEAL = "#999999"
BELOW = 0.36
"""Inches between axes and legend, for tick labels and the axis label."""


def speed(axes: Axes, rows: Sequence[Row], work: str, mode: str) -> None:
    """Draw env steps/s against ranks, both logarithmic, with the ideal line."""
    mine = [row for row in rows if (row["work"], row["mode"]) == (work, mode)]
    base = min(mine, key=lambda row: row["ranks"])
    counts = sorted({row["ranks"] for row in mine})
    start = _middle(base["env_steps_per_s"])
    ideal = [start * count / base["ranks"] for count in counts]
    axes.plot(counts, ideal, color=IDEAL, linestyle=(0, (4, 3)), linewidth=1.2, label="ideal")
    for strategy in order(mine):
        found = sorted((row for row in mine if row["strategy"] == strategy), key=lambda row: row["ranks"])
        points = found if found[0]["ranks"] == base["ranks"] else [base, *found]
        middles = [_middle(row["env_steps_per_s"]) for row in points]
        ends = [maths.estimate(row["env_steps_per_s"]) for row in points]
        bars = [[m - e.low for m, e in zip(middles, ends, strict=True)], [e.high - e.median for e in ends]]
        colour, marker = STYLE.get(strategy, OTHER)
        axes.errorbar(
            [row["ranks"] for row in points], middles, yerr=bars, color=colour, marker=marker, markersize=4.5,
            linewidth=1.3, elinewidth=0.8, label=strategy,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    _plain_log(axes, counts)
    axes.set_xlabel("ranks")
    axes.set_ylabel("env steps/s")
    dress(axes, f"{mode.capitalize()} scaling, {work}")
    legend(axes)


def breakdown(axes: Axes, rows: Sequence[Row], work: str, mode: str) -> None:
    """Draw the shares of rank 0's time as a bar per strategy on the most ranks, and of one on the fewest."""
    mine = [row for row in rows if (row["work"], row["mode"]) == (work, mode)]
    most = max(row["ranks"] for row in mine)
    shown = [row for row in mine if row["ranks"] == min(r["ranks"] for r in mine)][:1]
    shown += sorted((row for row in mine if row["ranks"] == most and row not in shown), key=_rank_of)
    labels = [f"{row['strategy']}, {row['ranks']}" for row in shown]
    left = [0.0] * len(shown)
    for part, colour in PARTS.items():
        widths = [100 * row["shares"].get(part, 0.0) for row in shown]
        axes.barh(labels, widths, left=left, color=colour, label=part, height=0.72)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of rank 0's time [%]")
    dress(axes, f"Where the time goes, {work}, {mode}, strategy and ranks")
    legend(axes)


def traffic(axes: Axes, row: Row) -> None:
    """Draw the bytes of an update, all ranks together: the formula as bars, counts as marks."""
    told = row["strategies"]
    names = sorted(told, key=lambda name: -told[name]["formula"])
    axes.barh(names, [told[n]["formula"] / 1e3 for n in names], color="#bcd7ee", height=0.7, label="formula")
    axes.plot([told[n]["counted"] / 1e3 for n in names], names, "o", color="#0b3c6f", markersize=5, label="counted")
    axes.plot([told[n]["loopback"] / 1e3 for n in names], names, "|", color="#c85a00", markersize=13,
              markeredgewidth=2, label="loopback device")  # fmt: skip
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(f"kB of an update, {row['ranks']} ranks together; gradient {row['bytes'] / 1e3:,.0f} kB")
    dress(axes, "Bytes on the wire")
    legend(axes)


def returns(axes: Axes, rows: Sequence[Row], work: str, mode: str, by: str) -> None:
    """Draw the training return of the baseline on each number of ranks, against `env steps` or `seconds`."""
    mine = [row for row in rows if (row["work"], row["mode"], row["strategy"]) == (work, mode, BASELINE)]
    shades = ("#a9cdea", "#2f7fc1", "#0b3c6f", "#000000")
    for row, colour in zip(sorted(mine, key=lambda row: row["ranks"]), shades, strict=False):
        for i, points in enumerate(row["curves"]):
            if points:
                steps, elapsed, values = zip(*points, strict=True)
                label = f"{row['ranks']} rank{'s' if row['ranks'] > 1 else ''}" if i == 0 else None
                axes.plot(steps if by == "env steps" else elapsed, values, color=colour, linewidth=1.4, label=label)
    axes.set_xlabel(by)
    axes.set_ylabel("training return")
    if by == "env steps":
        axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    dress(axes, f"Return by {by}: {BASELINE}, {work}, {mode}")
    legend(axes)


def rates(axes: Axes, rows: Sequence[Row], scenario: str) -> None:
    """Draw gradients/s of all ranks for each strategy, each bar labelled with the return it reached."""
    mine = sorted((row for row in rows if row["scenario"] == scenario), key=_rank_of)
    names = [row["strategy"] for row in mine]
    values = [_middle(row["gradients_per_s"]) for row in mine]
    colours = [STYLE.get(name, OTHER)[0] for name in names]
    axes.barh(names, values, color=colours, height=0.7)
    for i, row in enumerate(mine):
        text = f"{values[i]:,.0f}   return {statistics.fmean(row['return']):.2f}"
        axes.text(values[i] + 0.02 * max(values), i, text, va="center", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max(values))
    axes.set_xlabel(f"gradients/s, {mine[0]['ranks']} ranks together")
    dress(axes, scenario.capitalize())


def slow_returns(axes: Axes, rows: Sequence[Row], scenario: str) -> None:
    """Draw the return over wall time for each strategy."""
    for row in sorted((row for row in rows if row["scenario"] == scenario), key=_rank_of):
        colour, marker = STYLE.get(row["strategy"], OTHER)
        for i, points in enumerate(row["curves"]):
            if points:
                label = row["strategy"] if i == 0 else None
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=label)
    axes.set_xlabel("seconds of learning")
    axes.set_ylabel("training return")
    dress(axes, f"Return by wall time: {scenario}")
    legend(axes)


def predicted(axes: Axes, checks: Sequence[Any]) -> None:
    """Draw what the model predicts for more ranks, from fewer, and what was measured (benchmarks/simulate)."""
    names = [f"{one.strategy}, {one.mode}, {one.work.split()[0]}" for one in checks]
    axes.barh(names, [one.measured for one in checks], color="#bcd7ee", height=0.7, label="measured")
    marks = [one.predicted for one in checks]
    axes.plot(marks, names, "d", color="#c85a00", markersize=6, label="predicted from 1 and 2 ranks")
    axes.invert_yaxis()
    axes.set_xlabel("env steps/s")
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    dress(axes, f"Measured and predicted, {checks[0].ranks} ranks")
    legend(axes)


def order(rows: Sequence[Row]) -> list[str]:
    """Return the strategies of rows, in the order of STYLE; others last."""
    return list(dict.fromkeys(row["strategy"] for row in sorted(rows, key=_rank_of)))


def dress(axes: Axes, title: str) -> None:
    """Give axes the look of the project's figures."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors=INK, length=0, which="both")
    axes.xaxis.label.set(size=9, color=INK)
    axes.yaxis.label.set(size=9, color=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#aaaaaa")


def legend(axes: Axes) -> None:
    """Put the legend below the axes and their label, where it hides nothing."""
    from matplotlib.transforms import ScaledTranslation

    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure = axes.figure
        axes.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), frameon=False, fontsize=8, labelcolor=INK,
            bbox_transform=axes.transAxes + ScaledTranslation(0, -BELOW, figure.dpi_scale_trans),
            ncols=len(labels) if len(labels) <= 5 else 4, handlelength=1.5, columnspacing=1.0,
        )  # fmt: skip


def _plain_log(axes: Axes, counts: Sequence[int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def _rank_of(row: Row) -> tuple[int, int]:
    names = list(STYLE)
    name = row["strategy"]
    return (names.index(name) if name in names else len(names), row.get("ranks", 0))


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)
