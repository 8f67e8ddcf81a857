"""`lockstep plan`: what a run on a cluster will do and cost, before the time is bought. Standard library only.

The trainer supplies what the run asks for as plain values (`ask`, `count_run`), and `show`s the report.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from launch.model.advice import Report, report
from launch.model.cluster import CLUSTERS, THIS_MACHINE, Cluster, priced
from launch.model.strategies import Strategy
from launch.model.work import Counts, Load
from launch.options import Parser, count, suggest

COUNTED = Path(__file__).parent / "model" / "counts.json"
"""Counts of the presets, taken by `python -m benchmarks.simulate --count`."""

Facts = Mapping[str, Any]


def command(
    argv: Sequence[str],
    ask: Callable[[Sequence[str], int], Facts],
    count_run: Callable[[Sequence[str]], Facts],
    show: Callable[[Report], None],
) -> int:
    """Run `lockstep plan`. Raises ValueError for bad input.

    ask: what the arguments after our own options mean on that many ranks (needs no torch); count_run: the counts of the
    run (needs it).
    """
    own, arguments = parser().parse_known_args(argv)
    cluster = find_cluster(own.profile, own.price)
    if own.profile == THIS_MACHINE.name:
        cluster = replace(cluster, host_cores=len(os.sched_getaffinity(0)))
    gpus = count("--gpus", own.gpus, 1)
    if gpus > cluster.most:
        raise ValueError(f"--gpus {gpus}: the model is made for up to {cluster.most}; use {cluster.most} or less")
    facts = ask(arguments, gpus)
    counts = Counts.read(counted().get(facts["key"]) or count_run(arguments))
    show(report(facts["title"], Load(**facts["load"]), counts, cluster, gpus, Strategy.read(facts["sync"])))
    if own.sources:
        print(*(f"- {source}" for source in cluster.sources), sep="\n")
    return 0


def parser() -> argparse.ArgumentParser:
    asks = Parser(
        prog="lockstep plan",
        usage="%(prog)s [--gpus N] [--profile NAME] [--price USD] PRESET [--section.field VALUE ...]",
        description="What to expect of a run, in time and money, and how to keep its replicas in sync.",
        allow_abbrev=False,
    )
    asks.add_argument("--gpus", default="8", metavar="N", help="GPUs, one rank each; default 8")
    asks.add_argument("--profile", default="h100-ib", metavar="NAME", help=f"cluster: {', '.join(CLUSTERS)}")
    asks.add_argument("--price", metavar="USD", help="per GPU hour; default: the profile's")
    asks.add_argument("--sources", action="store_true", help="where the numbers of the profile come from")
    return asks


def find_cluster(name: str, price: str | None = None) -> Cluster:
    """Return a cluster by name, at a price. Raises ValueError."""
    if name not in CLUSTERS:
        raise ValueError(f"--profile {name}: unknown; {suggest(name, CLUSTERS)}")
    if price is None:
        return CLUSTERS[name]
    try:
        amount = float(price)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise ValueError(f"--price {price}: not a price per GPU hour; write e.g. --price 2.50")
    return priced(CLUSTERS[name], amount)


@cache
def counted() -> dict[str, Facts]:
    """Return the stored counts: the fields that define a network and its losses -> counts."""
    found: dict[str, Facts] = json.loads(COUNTED.read_text(encoding="utf-8"))
    return found
