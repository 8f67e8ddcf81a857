"""Predicted efficiency against the number of ranks, a line per strategy, each named at its end."""

from __future__ import annotations

from pathlib import Path

from launch.model.cluster import Cluster
from launch.model.predict import predict
from launch.model.strategies import Strategy
from launch.model.work import Counts, Load
from trainer.log.files import whole_file
from trainer.log.plot import GRID, INK

RANKS = [2**k for k in range(13)]
LINES = {
    Strategy("local_sgd"): ("local_sgd, period 16", "#009e73"),
    Strategy("overlap"): ("overlap", "#e69f00"),
    Strategy("gossip"): ("gossip", "#cc79a7"),
    Strategy("flat"): ("flat", "#0072b2"),
    Strategy("zero1"): ("zero1", "#56b4e9"),
    Strategy("ddp"): ("ddp", "#999999"),
    Strategy("flat", compress="powersgd"): ("flat, PowerSGD", "#d55e00"),
    Strategy("server", asynchronous=True): ("server, asynchronous", "#333333"),
}
"""Distinguishable with red-green colour blindness (Okabe & Ito 2008)."""
SIZE, DPI, GAP = (8.0, 4.6), 160, 4.4


def efficiency(load: Load, counts: Counts, cluster: Cluster, out: Path, *, title: str) -> None:
    """Draw efficiency against ranks into `out`; a rank more than a node holds brings the network in."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    ends = {}
    for strategy, (name, colour) in LINES.items():
        values = [100 * predict(load, counts, cluster, ranks, strategy).efficiency for ranks in RANKS]
        axes.plot(RANKS, values, color=colour, linewidth=1.9, clip_on=False)
        ends[name] = (values[-1], colour)
    for (name, (_, colour)), place in zip(ends.items(), _apart([end for end, _ in ends.values()]), strict=True):
        axes.annotate(
            name, (RANKS[-1], place), xytext=(7, 0), textcoords="offset points", va="center", color=colour, fontsize=9.5
        )
    axes.axvline(cluster.per_node, color="#bbbbbb", linewidth=1, linestyle=(0, (3, 3)))
    axes.annotate(
        "one node",
        (cluster.per_node, 2),
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        color="#888888",
        fontsize=9,
    )
    axes.set_xscale("log", base=2)
    axes.set(xlim=(1, RANKS[-1]), ylim=(0, 102), xticks=RANKS, yticks=range(0, 101, 20))
    axes.set_xticklabels([f"{ranks:,}" for ranks in RANKS])
    axes.set_xlabel("GPUs, one rank each", color=INK, fontsize=10.5)
    axes.set_ylabel("predicted efficiency, %", color=INK, fontsize=10.5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#aaaaaa")
    scaling = "weak" if load.weak else "strong"
    headline = f"{title} on {cluster.name}, {scaling} scaling: a model, not a measurement"
    axes.set_title(headline, loc="left", fontsize=12.5, fontweight="bold", color=INK, pad=12)
    with whole_file(out) as draft:
        figure.savefig(draft, format=out.suffix.lstrip(".") or "png", dpi=DPI, facecolor="white")


def _apart(wanted: list[float]) -> list[float]:
    """Return places for labels as near as possible to where they belong, with a gap between them."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    places, least = dict(enumerate(wanted)), 3.0
    for i in order:
        places[i] = least = max(places[i], least)
        least += GAP
    most = 102.0
    for i in reversed(order):
        places[i] = min(places[i], most)
        most = places[i] - GAP
    return [places[i] for i in range(len(wanted))]
