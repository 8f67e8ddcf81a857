"""From predictions to a report: what to expect on how many GPUs, which strategy, batch and compression, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from launch.model import fabric
from launch.model.cluster import Cluster
from launch.model.predict import Prediction, Range, predict, predict_range
from launch.model.strategies import Strategy
from launch.model.work import Counts, Load, free_batch

CANDIDATES: tuple[tuple[Strategy, float, str], ...] = (
    (Strategy("flat"), 1.0, ""),
    (Strategy("ddp"), 1.0, ""),
    (Strategy("zero1"), 1.05, ""),
    (Strategy("overlap"), 1.1, "1 update late"),
    (Strategy("local_sgd"), 1.25, "drift"),
    (Strategy("local_sgd", hierarchical=True), 1.2, "drift"),
    (Strategy("gossip"), 1.25, "consensus"),
    (Strategy("server"), 1.0, ""),
    (Strategy("server", asynchronous=True), 1.5, "stale"),
    (Strategy("flat", compress="fp16"), 1.1, "rounding"),
    (Strategy("flat", compress="int8"), 1.1, "rounding"),
    (Strategy("flat", compress="powersgd"), 1.1, "rank"),
    (Strategy("flat", compress="topk"), 1.1, "density"),
)
"""A strategy, how many times as fast as exact averaging it must be to be worth it, and what it gives up."""

POOR = 0.4
"""Strong scaling below this efficiency is advised against."""


class Table(NamedTuple):
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Report(NamedTuple):
    title: str
    tables: Sequence[Table]
    text: str


def report(title: str, load: Load, counts: Counts, cluster: Cluster, ranks: int, stated: Strategy) -> Report:
    """Say what to expect of a run on `ranks` ranks of a cluster."""
    load, divided = (load, "") if load.divides(ranks) else (load.weakly(), _undivided(load, ranks))
    candidates = suited(cluster, ranks, stated)
    predictions = {strategy: predict(load, counts, cluster, ranks, strategy) for strategy, *_ in candidates}
    best = choose(candidates, predictions)
    growth = [count for count in growing(cluster, ranks) if load.divides(count)]
    ranges = [predict_range(load, counts, cluster, count, best) for count in growth]
    text = " ".join(
        sentence
        for sentence in (
            divided,
            _expected(load, ranges[-1], ranges[0].expected),
            _strategy(best, stated, predictions, counts),
            _compression(best, predictions),
            _batch(load, counts, cluster, ranks),
            _doubt(cluster),
        )
        if sentence
    )
    tables = [_growth(ranges), _strategies(candidates, predictions, best)]
    scaling = "weak scaling" if load.weak else "strong scaling"
    return Report(f"{title} on {ranks} GPU{'s' if ranks > 1 else ''}, {cluster.name}, {scaling}", tables, text)


def suited(cluster: Cluster, ranks: int, stated: Strategy) -> list[tuple[Strategy, float, str]]:
    """Return the strategies that can be compared on `ranks` ranks, always including what the user stated."""
    nodes = fabric.shape(cluster, ranks)[1]
    found = [one for one in CANDIDATES if ranks > 1 or one[0] == Strategy()]
    found = [one for one in found if nodes > 1 or not one[0].hierarchical]
    return found if any(one[0] == stated for one in found) else [*found, (stated, 1.0, "")]


def choose(candidates: Sequence[tuple[Strategy, float, str]], found: dict[Strategy, Prediction]) -> Strategy:
    """Return the fastest, each speed divided by how many times as fast the strategy must be to be worth it."""
    return max(candidates, key=lambda one: found[one[0]].env_steps_per_s / one[1])[0]


def growing(cluster: Cluster, ranks: int) -> list[int]:
    """Return rank counts leading up to `ranks`: one, a node, and more."""
    counts = {1, min(ranks, cluster.per_node), ranks}
    return sorted(counts | {ranks // 4, ranks // 2} - {0})


def _growth(ranges: Sequence[Range]) -> Table:
    header = ("ranks", "env steps/s", "low-high", "efficiency", "time", "rank-hours", "USD")
    rows = [
        (
            f"{mid.ranks:,}",
            amount(mid.env_steps_per_s),
            f"{amount(slow.env_steps_per_s)}-{amount(fast.env_steps_per_s)}",
            f"{mid.efficiency:.0%}",
            duration(mid.hours),
            amount(mid.rank_hours),
            amount(mid.cost),
        )
        for mid, fast, slow in ranges
    ]
    return Table(header, rows)


def _strategies(
    candidates: Sequence[tuple[Strategy, float, str]], found: dict[Strategy, Prediction], best: Strategy
) -> Table:
    header = ("strategy", "steps/s", "eff.", "sync", "wait", "MB", "gives up")
    rows = [
        (
            ("> " if strategy == best else "  ") + strategy.name,
            amount(found[strategy].env_steps_per_s),
            f"{found[strategy].efficiency:.0%}",
            f"{found[strategy].share('sync'):.0%}",
            f"{found[strategy].share('wait'):.0%}",
            f"{found[strategy].sent / 1e6:.3g}",
            price,
        )
        for strategy, _, price in candidates
    ]
    return Table(header, rows)


def _undivided(load: Load, ranks: int) -> str:
    return (
        f"A batch of {load.batch} and {load.num_envs} environment(s) cannot be divided among {ranks} ranks, so this is"
        f" --scale.world weak: {load.num_envs * ranks:,} environments and batches of {load.batch * ranks:,}."
    )


def _expected(load: Load, reached: Range, alone: Prediction) -> str:
    mid = reached.expected
    updates = load.total_env_steps / mid.env_steps_per_update
    if mid.ranks == 1:
        return f"One rank needs {_range(reached)} for {amount(load.total_env_steps)} env steps."
    text = (
        f"{mid.ranks} ranks need {_range(reached)} for {amount(load.total_env_steps)} env steps:"
        f" {alone.hours / mid.hours:.3g} times as fast as one, for {mid.rank_hours / alone.rank_hours:.2g} times the"
        f" rank-hours."
    )
    if not load.weak and mid.efficiency < POOR:
        text += " That does not pay: a rank's cost per update hardly shrinks with its share of the batch."
        text += " Take fewer ranks, or --scale.world weak."
    if load.weak:
        fewer = load.total_env_steps / alone.env_steps_per_update
        text += (
            f" They do so in {amount(updates)} updates on batches {mid.ranks} times as large, where one does"
            f" {amount(fewer)}: whether that learns as well is not predicted here; --sync.noise_scale True measures it."
        )
    return text


def _range(one: Range) -> str:
    return f"{duration(one.expected.hours)} ({duration(one.fast.hours)} to {duration(one.slow.hours)})"


def _strategy(best: Strategy, stated: Strategy, found: dict[Strategy, Prediction], counts: Counts) -> str:
    one, exact = found[best], found[Strategy()]
    if one.ranks == 1:
        return "On one rank, every strategy is the plain optimizer."
    lost = (
        f"exchanging {counts.size / 1e6:.3g} MB takes {exact.share('sync'):.0%} of flat's time, waiting for the slowest"
        f" {exact.share('wait'):.0%}"
    )
    gain = one.env_steps_per_s / exact.env_steps_per_s
    if best == Strategy():
        text = f"Choose {best.flags}: {lost}, and nothing that keeps less exact averages is faster by enough."
    elif best.kind in ("ddp", "zero1"):
        text = f"Choose {best.flags}: the same numbers as flat, {gain:.2f} times as fast; {lost}."
    else:
        text = f"Choose {best.flags}, {gain:.2f} times as fast as flat: {lost}. Compare what it learns with flat's."
    slower = one.env_steps_per_s / found[stated].env_steps_per_s
    return (
        text
        if slower < 1.02 or stated == Strategy()
        else f"{text} It is {slower:.2f} times as fast as {stated.name}, as stated."
    )


def _compression(best: Strategy, found: dict[Strategy, Prediction]) -> str:
    squeezed = [strategy for strategy in found if strategy.compress != "none"]
    if not squeezed or best.compress != "none":
        return ""
    fastest = max(squeezed, key=lambda strategy: found[strategy].env_steps_per_s)
    gain = found[fastest].env_steps_per_s / found[replace(fastest, compress="none")].env_steps_per_s
    if gain < 1:
        return "Do not compress: coding takes longer than it saves on these links."
    return f"Compression would gain a factor of {gain:.2f} at most ({fastest.compress}): not worth what it loses."


def _batch(load: Load, counts: Counts, cluster: Cluster, ranks: int) -> str:
    mine, free = load.on(ranks).batch, free_batch(counts, cluster)
    if mine >= free or not cluster.asynchronous:
        return f"A batch of {mine:g} per rank keeps it busy: a larger one takes longer in proportion."
    return (
        f"An update on {mine:g} samples per rank is {counts.update_operations} launches and little computing:"
        f" up to about {free} samples per rank cost no more time."
    )


def _doubt(cluster: Cluster) -> str:
    return (
        f"Low and high: computing {cluster.factor:g} times slower or faster than assumed, links 2 times;"
        f" nothing was measured on this cluster. Price: {cluster.price:g} USD per GPU hour."
    )


def duration(hours: float) -> str:
    """Return a time in the unit that suits it."""
    if hours >= 48:
        return f"{amount(hours / 24)} days"
    return f"{hours:.3g} h" if hours >= 1 else f"{hours * 60:.3g} min"


def amount(value: float) -> str:
    """Return a number with three significant digits."""
    if value >= 1e9:
        return f"{value / 1e9:.3g}B"
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if value >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
