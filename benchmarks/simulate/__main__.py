"""What the model of scaling predicts, and how far it is from what was measured.

    python -m benchmarks.simulate [--profile h100-ib] [--preset atari] [--mode weak] [--ranks 1 8 64 512 4096]
    python -m benchmarks.simulate --validate [--rows FILE]   # against published all-reduces and measured rows
    python -m benchmarks.simulate --figure docs/images/plan_h100.png
    python -m benchmarks.simulate --count PRESET ...         # recount operations; all: those of every preset

The first prints env steps/s, efficiency, the share of each part, bytes and cost of every strategy. The second exits
with status 1 if a prediction for 4 ranks from rows of 1 and 2, which `python -m benchmarks.scaling` writes, is off by
more than 20%. The last is for `lockstep plan`, and is the only one to import torch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.simulate import fit, published
from benchmarks.simulate.text import strategies, table
from launch.model.cluster import CLUSTERS
from launch.model.predict import PARTS, predict
from launch.model.work import Counts, Load
from launch.plan import COUNTED, counted
from trainer.commands.plan import ask, key
from trainer.presets import PRESETS

ROWS = Path(__file__).parents[1] / "results" / "scaling.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    asks = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asks.add_argument("--profile", choices=CLUSTERS, default="h100-ib")
    asks.add_argument("--preset", default="atari")
    asks.add_argument("--mode", choices=("weak", "strong"), default="weak")
    asks.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 64, 512, 4096])
    asks.add_argument("--validate", action="store_true")
    asks.add_argument("--rows", type=Path, default=ROWS)
    asks.add_argument("--figure", type=Path)
    asks.add_argument("--count", nargs="+", metavar="PRESET")
    options = asks.parse_args(argv)
    if options.count:
        count(options.count)
        return 0
    if options.validate:
        return validate(options.rows)
    load, counts = work(options.preset, weak=options.mode == "weak")
    if options.figure:
        from benchmarks.simulate.figure import efficiency

        efficiency(load, counts, CLUSTERS[options.profile], options.figure, title=options.preset)
        print(f"figure: {options.figure.name}")
        return 0
    print(simulate(load, counts, options.profile, options.ranks))
    return 0


def work(preset: str, *, weak: bool) -> tuple[Load, Counts]:
    """Return a preset's load and its counts. Raises KeyError if it was not counted."""
    facts = ask([preset])
    return replace(Load(**facts["load"]), weak=weak), Counts.read(counted()[facts["key"]])


def simulate(load: Load, counts: Counts, profile: str, ranks: Sequence[int]) -> str:
    """Return every strategy on every number of ranks as a table."""
    cluster, lines = CLUSTERS[profile], []
    for strategy in strategies():
        for many in ranks:
            one = predict(load, counts, cluster, many, strategy)
            lines.append(
                (
                    strategy.name,
                    f"{many:,}",
                    f"{1e3 * one.seconds_per_update:.3f}",
                    f"{one.env_steps_per_s:,.0f}",
                    f"{one.efficiency:.0%}",
                    *(f"{one.share(part):.0%}" for part in PARTS),
                    f"{one.sent / 1e6:.3g}",
                    f"{one.rank_hours:,.1f}",
                    f"{one.cost:,.0f}",
                )
            )
    header = ("", "ranks", "ms/update", "env steps/s", "efficiency", *PARTS, "MB/update", "rank-hours", "USD")
    return table(header, lines)


def validate(rows: Path) -> int:
    """Check the model against published points and against measured rows."""
    print(published.report())
    if not rows.exists():
        print(f"no {rows.name}: python -m benchmarks.scaling --ranks 1 2 4 writes it")
        return 0
    found = fit.checks(json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines())
    print(fit.report(found))
    return 0 if all(one.passed for one in found) else 1


def count(names: Sequence[str]) -> None:
    """Count presets and store the counts, one line each."""
    from trainer.commands.plan import count as count_run

    known: dict[str, Any] = dict(counted())
    for name in PRESETS if "all" in names else names:
        try:
            facts = count_run([name])
        except (ValueError, OSError) as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        known[key(PRESETS[name]())] = facts
        print(f"{name}: {facts['update_operations']} operations an update", flush=True)
        lines = [f"{json.dumps(made)}: {json.dumps(facts)}" for made, facts in sorted(known.items())]
        COUNTED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
