"""One page of all scaling measurements: self-contained HTML, readable on a phone.

    python -m benchmarks.report [--rows DIR] [--page FILE] [--image [FILE]]

Rows are the newest of each setting in DIR (benchmarks/results, or the folder of an allocation): scaling.jsonl,
slow.jsonl, comm.jsonl. A picture whose rows are missing is left out. The page needs no network: pictures are
inline SVG.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report_figures as figures
from benchmarks import scaling_maths as maths
from benchmarks.report_page import page, section, svg
from benchmarks.rows import HERE
from benchmarks.scaling_cases import BASELINE
from benchmarks.simulate import fit
from trainer.log.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 4.1
"""Width of a picture [inches]: a phone's, so that its text stays legible there."""


@dataclass(frozen=True)
class Card:
    """A picture and its explanation; draw: into axes; table: its rows, the first is the header."""

    title: str
    text: str
    draw: Callable[[Axes], None]
    height: float = 3.4
    table: Sequence[Sequence[str]] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    asks = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asks.add_argument("--rows", type=Path, help="folder of the rows; default: benchmarks/results")
    asks.add_argument("--page", type=Path, help="default: runs/scaling.html, or scaling.html in DIR")
    asks.add_argument(
        "--image",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="the most telling pictures as one PNG; default: docs/images/scaling.png, or scaling.png in DIR",
    )
    asks.add_argument("--out", type=Path, help="for suites: the same as --rows")
    options = asks.parse_args(argv)
    given = options.rows or options.out
    folder = given or HERE / "results"
    rows = Rows.read(folder)
    cards = deck(rows)
    if not cards:
        print(f"no rows in {folder}: python -m benchmarks.scaling --suite cpu writes them")
        return 1
    out = options.page or (given or Path("runs")) / "scaling.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as draft:
        draft.write_text(render(cards, rows), encoding="utf-8")
    print(f"page: {out.name}, {len(cards)} pictures, {out.stat().st_size / 1e3:,.0f} kB")
    if options.image is not None:
        image = options.image if options.image.name else (given or HERE.parent / "docs" / "images") / "scaling.png"
        picture(rows, image)
        print(f"figure: {image.name}")
    return 0


@dataclass(frozen=True)
class Rows:
    """The newest rows of each setting."""

    scaling: Sequence[maths.Row]
    slow: Sequence[maths.Row]
    comm: Sequence[maths.Row]

    @classmethod
    def read(cls, folder: Path) -> Rows:
        def read(name: str, *keys: str) -> list[maths.Row]:
            path = folder / f"{name}.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            return maths.latest([json.loads(line) for line in lines], keys)

        comm = [row for row in read("comm", "net", "ranks") if row.get("strategies")]
        return cls(read("scaling", "work", "mode", "strategy", "ranks"), read("slow", "scenario", "strategy"), comm)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every work and mode with more than one number of ranks."""
        pairs = dict.fromkeys((row["work"], row["mode"]) for row in self.scaling)
        return [pair for pair in pairs if len({r["ranks"] for r in self.scaling if (r["work"], r["mode"]) == pair}) > 1]

    @property
    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(row["scenario"] for row in self.slow))


def deck(rows: Rows) -> list[Card]:
    """Return the cards that there are rows for, in the order of the page."""
    cards = []
    for work, mode in rows.pairs:
        cards += _scaling_cards(rows.scaling, work, mode)
    for scenario in rows.scenarios:
        cards += _slow_cards(rows.slow, scenario)
    for row in rows.comm:
        cards.append(_traffic_card(row))
    checks = fit.checks(rows.scaling)
    if checks:
        cards.append(
            Card(
                "Measured vs predicted",
                "A model that has seen 1 and 2 ranks says what 4 will do (benchmarks/simulate).",
                lambda axes: figures.predicted(axes, checks),
                1.3 + 0.26 * len(checks),
            )
        )
    return cards


def _scaling_cards(rows: Sequence[maths.Row], work: str, mode: str) -> list[Card]:
    mine = [row for row in rows if (row["work"], row["mode"]) == (work, mode)]
    grows = "The work grows with the ranks." if mode == "weak" else "The same work on more ranks."
    cards = [
        Card(
            f"Speed: {work}, {mode} scaling",
            f"{grows} On the dashed line n ranks do n times the env steps of one. Bars: smallest and largest repeat.",
            lambda axes: figures.speed(axes, rows, work, mode),
            3.9,
            _speed_table(mine),
        ),
        Card(
            f"Where the time goes: {work}, {mode} scaling",
            "Rank 0's wall time. Where the exchange hides behind the backward pass, waiting counts as learning.",
            lambda axes: figures.breakdown(axes, rows, work, mode),
            1.6 + 0.24 * len({row["strategy"] for row in mine}),
        ),
    ]
    if any(points for row in mine if row["strategy"] == BASELINE for points in row["curves"]):
        for by in ("env steps", "seconds"):
            cards.append(
                Card(
                    f"Return by {by}: {work}, {mode} scaling, {BASELINE}",
                    "Speed that costs learning shows here: more ranks are worth it where the curve by seconds is "
                    "steeper. One line per seed.",
                    lambda axes, by=by: figures.returns(axes, rows, work, mode, by),  # type: ignore[misc]
                )
            )
    return cards


def _speed_table(rows: Sequence[maths.Row]) -> list[list[str]]:
    table = [["strategy", "ranks", "env steps/s", "efficiency", "kB/update", "return"]]
    for row in rows:
        base = maths.base_of(row, rows)
        scores = [score for score in row["return"] if score is not None]
        table.append(
            [
                row["strategy"],
                str(row["ranks"]),
                f"{statistics.median(row['env_steps_per_s']):,.0f}",
                "" if base is None else f"{maths.efficiency(row, base).median:.0%}",
                f"{1e3 * row['megabytes_per_update']:,.1f}",
                f"{statistics.fmean(scores):.2f}" if scores else "",
            ]
        )
    return table


SCENARIO_TEXT = {
    "even": "Every rank has the same pace, and the network no limit.",
    "slow network": "Every link carries so few bits that a gradient takes longer than its computation.",
    "slow rank": "One rank's environments take several times as long; whoever waits for all ranks runs at its pace.",
    "stumbling ranks": "Now and then a step takes much longer, on each rank by itself: waits for all are frequent.",
}


def _slow_cards(rows: Sequence[maths.Row], scenario: str) -> list[Card]:
    mine = [row for row in rows if row["scenario"] == scenario]
    limit = mine[0]["megabits"]
    where = f" Links of {limit:g} Mbit/s ({mine[0]['network']})." if limit else ""
    text = SCENARIO_TEXT.get(scenario, "") + where
    return [
        Card(
            f"{scenario.capitalize()}: gradients per second",
            text,
            lambda axes: figures.rates(axes, rows, scenario),
            1.2 + 0.27 * len(mine),
        ),
        Card(
            f"{scenario.capitalize()}: return",
            f"What those gradients were worth in the same {mine[0]['seconds']:g} s.",
            lambda axes: figures.slow_returns(axes, rows, scenario),
            3.8,
        ),
    ]


def _traffic_card(row: maths.Row) -> Card:
    table = [["strategy", "formula", "counted", "loopback", "time / bare all-reduce"]]
    for name, one in row["strategies"].items():
        ratio = f"{one['exchange_us'] / row['us']['bare']:.2f}"
        numbers = (f"{one[kind]:,}" for kind in ("formula", "counted", "loopback"))
        table.append([f"{name}: {one['formula_words']}", *numbers, ratio])
    return Card(
        f"Bytes on the wire, {row['net']}",
        "By formula, as the trainer counts them, and what the loopback device carried, packets' headers included.",
        lambda axes: figures.traffic(axes, row),
        1.5 + 0.25 * len(row["strategies"]),
        table,
    )


def render(cards: Sequence[Card], rows: Rows) -> str:
    """Return the page."""
    everything = [*rows.scaling, *rows.slow, *rows.comm]
    machines = {f"{r['cpu']}, {r['cores']} cores{_gpus(r)}, torch {r['versions']['torch']}" for r in everything}
    commands = dict.fromkeys(f"{r['command']} ({r['commit']}, {r['time'][:10]})" for r in everything)
    sections = [
        section(card.title, card.text, svg(card.draw, (WIDTH, card.height), card.title, f"picture{i}"), card.table)
        for i, card in enumerate(cards)
    ]
    return page("; ".join(sorted(machines)), list(commands), sections)


def _gpus(row: maths.Row) -> str:
    return f", {len(row['gpus'])} x {row['gpus'][0]}" if row["gpus"] else ""


def picture(rows: Rows, out: Path) -> None:
    """Draw a work's speed and return, up to three slow scenarios and the traffic, where there are rows, as one PNG."""
    from matplotlib.figure import Figure

    draws: list[Callable[[Any], None]] = []
    if rows.pairs:
        work, mode = rows.pairs[0]
        draws += [
            lambda axes: figures.speed(axes, rows.scaling, work, mode),
            lambda axes: figures.returns(axes, rows.scaling, work, mode, "seconds"),
        ]
    for scenario in [s for s in rows.scenarios if s != "even"][-3:]:
        draws.append(lambda axes, scenario=scenario: figures.rates(axes, rows.slow, scenario))  # type: ignore[misc]
    if rows.comm:
        draws.append(lambda axes: figures.traffic(axes, rows.comm[-1]))
    lines = -(-len(draws) // 2)
    figure = Figure(figsize=(9.6, 3.9 * lines), layout="constrained")
    panels = figure.subplots(lines, 2, squeeze=False).flatten().tolist()
    for axes in panels[len(draws) :]:
        axes.set_axis_off()
    for axes, draw in zip(panels, draws, strict=False):
        draw(axes)
    with whole_file(out) as draft:
        figure.savefig(draft, format="png", dpi=150, facecolor="white")


if __name__ == "__main__":
    raise SystemExit(main())
