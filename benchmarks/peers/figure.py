"""python -m benchmarks.peers.figure: the newest race and the newest breakdown of a step, as docs/images/race.png."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import HERE
from trainer.log.files import whole_file
from trainer.log.plot import GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUT = HERE.parent / "docs" / "images" / "race.png"
NAMES = {
    "lockstep": "Lockstep",
    "lockstep-tensors": "Lockstep, PyTorch envs",
    "lockstep-bfloat16": "Lockstep, bfloat16",
    "sb3": "Stable-Baselines3",
    "cleanrl": "CleanRL",
    "tianshou": "Tianshou",
    "torchrl": "TorchRL",
    "rllib": "RLlib",
    "jax": "all in JAX",
}
OURS, THEIRS, OUTSIDE = "#0072b2", "#9aa5ad", "#e69f00"
SHADES = (0.4, 0.65, 1.0)
PARTS = {
    "act": "#8ec6ee",
    "env": "#2f7fc1",
    "learn": "#0b3c6f",
    "replay": "#2aa57f",
    "sync": "#e6861f",
    "other": "#c9c9c9",
}
DPI = 160

Row = dict[str, Any]


def main() -> int:
    draw(newest("peers", ("work", "who", "envs")), newest("step", ("work", "envs", "backend", "compiled")), OUT)
    print(f"written to {OUT.relative_to(HERE.parent)}")
    return 0


def newest(name: str, keys: Sequence[str], folder: Path | None = None) -> list[Row]:
    """Return the last row of each case in results/NAME.jsonl; rows of an older kind, without the keys, are left out."""
    lines = ((folder or HERE / "results") / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if all(key in row for key in keys)]
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def draw(race: Sequence[Row], steps: Sequence[Row], out: Path) -> Figure:
    """Draw both into `out`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    speeds(left, [row for row in race if row["work"] == "cartpole"])
    breakdown(right, [row for row in steps if row["work"] != "toy"])
    with whole_file(out) as draft:
        figure.savefig(draft, format="png", dpi=DPI, facecolor="white")
    return figure


def speeds(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw a group of bars for each trainer, the fastest on top: one for each number of environments."""
    middle = {(row["who"], row["envs"]): statistics.median(row["env_steps_per_s"]) for row in rows}
    counts = sorted({envs for _, envs in middle})
    names = sorted({who for who, _ in middle}, key=lambda who: max(v for (w, _), v in middle.items() if w == who))
    height = 0.8 / len(counts)
    for y, who in enumerate(names):
        colour = OURS if who.startswith("lockstep") else OUTSIDE if who == "jax" else THEIRS
        for i, envs in enumerate(counts):
            place = y + (i - (len(counts) - 1) / 2) * height
            if (value := middle.get((who, envs))) is None:
                continue
            axes.barh(place, value, height * 0.92, color=colour, alpha=SHADES[-len(counts) :][i])
            axes.text(value, place, f"  {value:,.0f}  ({envs})", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(names)), [NAMES.get(who, who) for who in names], fontsize=10)
    axes.set_xlim(0, 1.2 * max(middle.values()))
    axes.set_xlabel("env steps/s (environments), learning at the same replay ratio, one core", fontsize=9, color=INK)
    _dress(axes, "CartPole, CleanRL's settings")


def breakdown(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw where the time of a loop step goes, a bar for each work."""
    for y, row in enumerate(rows):
        begin = 0.0
        for part, colour in PARTS.items():
            share = row["share_in_loop"].get(part, 0.0)
            axes.barh(y, share, 0.6, left=begin, color=colour, label=part if y == 0 else None)
            begin += share
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the time of a step", fontsize=9, color=INK)
    axes.legend(ncols=3, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), labelcolor=INK)
    _dress(axes, "Where a step of ours goes")


def _name(row: Row) -> str:
    """Return a label for a row of benchmarks.step."""
    how = "compiled" if row["compiled"] else "eager"
    envs = "env" if row["envs"] == 1 else "envs"
    return f"{row['work']}, {row['envs']} {envs}\n{how}{', PyTorch envs' if row['backend'] == 'torch' else ''}"


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#aaaaaa")


if __name__ == "__main__":
    raise SystemExit(main())
