"""Weak and strong scaling: what more ranks bring with each sync strategy, and what that costs in learning.

    python -m benchmarks.scaling [--work paced] [--ranks 1 2 4] [--strategies flat ddp ...] [--modes weak strong]
    python -m benchmarks.scaling --suite cpu              # all that docs/distributed.md shows, in half an hour
    python -m benchmarks.scaling --short                  # a look at the benchmark itself, in seconds
    torchrun ... -m benchmarks.scaling --out DIR [...]    # every rank of an allocation; one number of ranks

Each measurement is a real run, `python -m trainer train ...` on that many ranks, read from its own metrics.jsonl: env
steps/s and the share of each part once it learns, bytes on the wire (`Wire.sent`), and the return over env steps and
over seconds, which shows speed bought with learning. Repeats are interleaved and have their own seeds. Strategies and
works are data in scaling_cases.py; one that the trainer refuses is left out and reported. Unknown arguments go to the
trainer.

Strong: the same run on any number of ranks. Weak: `--env-steps` per rank, with `--scale.world weak`. Efficiency is env
steps/s per rank relative to one rank. Shares are rank 0's; under `ddp`, and wherever an exchange hides behind the
backward pass, waiting for it counts as learning. The strategy `apart`, whose replicas never meet, shows what the
machine leaves of a rank's speed when others run next to it (caches, memory and clock are shared).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks import scaling_maths as maths
from benchmarks.harness import table
from benchmarks.ports import free_port
from benchmarks.rows import environment, write_rows
from benchmarks.scaling_cases import APART, BASELINE, MODES, STRATEGIES, SUITES, WORKS, chosen
from benchmarks.scaling_runs import (
    QUIET,
    Processes,
    Result,
    RunError,
    leave_tidily,
    read,
    started,
    started_inside,
)
from trainer.runtime.launched import Launch

DEADLINE = 600.0
"""After this a run is ended and reported as failed [s]."""
ROWS = 20
"""Rows of metrics in a run."""
FLAGS = STRATEGIES | APART


def parser() -> argparse.ArgumentParser:
    asks = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asks.add_argument("--work", default="paced", help=f"{', '.join(WORKS)}, or a preset; default paced")
    asks.add_argument("--strategies", nargs="+", default=["all"], help=f"all, or some of {', '.join(FLAGS)}")
    asks.add_argument("--ranks", nargs="+", type=int, help="default 1 2 4; under torchrun, as many as it started")
    asks.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    asks.add_argument("--env-steps", type=int, default=20_000, help="of a run; under weak scaling, of a rank")
    asks.add_argument("--repeats", type=int, default=2)
    asks.add_argument("--seed", type=int, default=1, help="of the first repeat")
    asks.add_argument("--out", type=Path, help="folder of rows and runs; default: benchmarks/results, without runs")
    asks.add_argument("--suite", choices=SUITES, help="several benchmarks, one after the other")
    asks.add_argument("--short", action="store_true", help="the suite `short`")
    asks.add_argument("--inside", action="store_true", help="torchrun started this process (detected automatically)")
    return asks


@dataclass(frozen=True)
class Case:
    """One setting, measured once per repeat."""

    strategy: str
    mode: str
    ranks: int

    @property
    def name(self) -> str:
        return f"{self.strategy}-{self.mode}-{self.ranks}"


Start = Callable[[Sequence[str], int, Path], AbstractContextManager[Processes]]
"""(arguments of the trainer, ranks, folder for their output) -> the running ranks."""


def main(argv: Sequence[str] | None = None) -> int:
    asks = parser()
    options, extra = asks.parse_known_args(argv)
    leave_tidily()
    if options.suite or options.short:
        return suite(options.suite or "short", options.out)
    strategies = chosen(options.strategies, asks, APART)
    launch = Launch.read()
    if launch.by_torchrun:
        return _inside(options, strategies, extra, launch)
    if options.inside:
        asks.error("--inside: RANK and MASTER_ADDR are not set; start it with torchrun")
    cases = plan(strategies, options.modes, options.ranks or [1, 2, 4])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary) / "runs"
        return _report(measure(options, cases, extra, folder, started), options.out)


def plan(strategies: Sequence[str], modes: Sequence[str], ranks: Sequence[int]) -> list[Case]:
    """Return the cases to measure: on one rank the baseline alone represents all strategies."""
    alone = [Case(BASELINE, mode, 1) for mode in modes if 1 in ranks]
    return alone + [Case(s, mode, n) for mode in modes for n in ranks if n > 1 for s in strategies]


def arguments(options: argparse.Namespace, case: Case, extra: Sequence[str], folder: Path, name: str) -> list[str]:
    """Return the trainer's arguments for one run."""
    work = WORKS.get(options.work, (options.work,))
    total = options.env_steps * (case.ranks if case.mode == "weak" else 1)
    return [
        *("train", *work, *FLAGS[case.strategy], "--scale.world", case.mode, "--total_env_steps", str(total)),
        *("--log.every", str(max(1, total // ROWS)), "--log.dir", str(folder.resolve()), "--log.name", name),
        *(*QUIET, "--eval.every", "0", *extra),
    ]


def measure(
    options: argparse.Namespace, cases: Sequence[Case], extra: Sequence[str], folder: Path, start: Start
) -> tuple[list[dict[str, Any]], bool]:
    """Run every case once per repeat, in turn; return the rows, and whether none failed (refusals do not count)."""
    results: dict[Case, list[Result]] = {case: [] for case in cases}
    out: dict[Case, str] = {}
    sound = True
    for repeat in range(options.repeats):
        for case in cases:
            if case in out:
                continue
            seed = options.seed + repeat
            name = f"{options.work}-{case.name}-s{seed}"
            flags = [*arguments(options, case, extra, folder, name), "--seed", str(seed)]
            try:
                with start(flags, case.ranks, folder / f"{name}-said") as processes:
                    processes.wait(DEADLINE)
                results[case].append(read(folder / name))
                rate = results[case][-1].speed.env_steps_per_s
                print(f"{case.name}, seed {seed}: {rate:,.0f} env steps/s", flush=True)
            except RunError as failure:
                out[case] = str(failure)
                sound &= failure.refused
                print(f"{case.name}: {'left out' if failure.refused else 'FAILED'}: {failure}", flush=True)
    return [_row(options, case, extra, found) for case, found in results.items() if found and case not in out], sound


def _row(options: argparse.Namespace, case: Case, extra: Sequence[str], found: list[Result]) -> dict[str, Any]:
    speeds = [result.speed for result in found]
    return {
        "work": " ".join((options.work, *extra)),
        "mode": case.mode,
        "strategy": case.strategy,
        "flags": " ".join(FLAGS[case.strategy]),
        "ranks": case.ranks,
        "env_steps": options.env_steps,  # of the run; under weak scaling, of a rank
        "repeats": len(found),
        "env_steps_per_s": [one.env_steps_per_s for one in speeds],
        "updates_per_s": [one.updates_per_s for one in speeds],
        "shares": {part: statistics.median(one.shares[part] for one in speeds) for part in speeds[0].shares},
        "megabytes_per_update": statistics.median(one.megabytes_per_update for one in speeds),
        "measured_seconds": [one.seconds for one in speeds],
        "return": [result.evaluation for result in found],
        "seconds": [result.seconds for result in found],
        "curves": [result.curve for result in found],
    }


def _report(measured: tuple[list[dict[str, Any]], bool], out: Path | None) -> int:
    """Write and print the rows; return 1 where a run failed or none is left."""
    rows, sound = measured
    if not rows:
        print("rows: none; every run was refused or failed, as reported above")
        return 1
    path = write_rows("scaling", rows, out)
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    print(report(written[-len(rows) :], written))
    print(f"rows: {path.name}")
    return 0 if sound else 1


def report(rows: Sequence[maths.Row], all_rows: Sequence[maths.Row]) -> str:
    """Return the rows as a table; efficiencies against the base that is among all rows."""
    parts = (*maths.PARTS, "other")
    lines = []
    for row in rows:
        base = maths.base_of(row, all_rows)
        rates, returns = maths.estimate(row["env_steps_per_s"]), [r for r in row["return"] if r is not None]
        lines.append(
            (
                f"{row['work']}, {row['mode']}: {row['strategy']}",
                row["ranks"],
                f"{rates.median:,.0f} ({rates.low:,.0f}-{rates.high:,.0f})",
                "-" if base is None else f"{maths.efficiency(row, base).median:.0%}",
                *(f"{row['shares'][part]:.0%}" for part in parts),
                f"{1e3 * row['megabytes_per_update']:,.1f}",
                f"{statistics.fmean(returns):,.2f}" if returns else "-",
            )
        )
    return table(("", "ranks", "env steps/s", "efficiency", *parts, "kB/update", "return"), lines)


def _inside(options: argparse.Namespace, strategies: list[str], extra: Sequence[str], launch: Launch) -> int:
    """Act as one rank of an allocation: every run is a child of each rank, so that one that fails ends alone.

    Rank 0 decides and reads; the others start what it posts in torchrun's store, until it posts null.
    """
    from torch.distributed.rendezvous import rendezvous

    if options.ranks and options.ranks != [launch.world_size]:
        raise SystemExit(f"--ranks {options.ranks}: torchrun started {launch.world_size}; omit --ranks")
    patience = timedelta(seconds=2 * DEADLINE)
    store, _, _ = next(iter(rendezvous("env://", launch.rank, launch.world_size, timeout=patience)))
    store.set_timeout(patience)
    count = itertools.count()
    if launch.rank > 0:
        while (job := json.loads(store.get(f"job/{next(count)}"))) is not None:
            with suppress(RunError), started_inside(job["flags"], Path(job["said"]), launch.rank, job["port"]) as mine:
                mine.wait(DEADLINE)
        store.set(f"done/{launch.rank}", "")
        return 0

    @contextmanager
    def start(flags: Sequence[str], ranks: int, said: Path) -> Iterator[Processes]:
        port = free_port()
        store.set(f"job/{next(count)}", json.dumps({"flags": list(flags), "said": str(said.resolve()), "port": port}))
        with started_inside(flags, said, launch.rank, port) as mine:
            yield mine

    cases = [Case(strategy, mode, launch.world_size) for mode in options.modes for strategy in strategies]
    stamp = environment()["time"].replace(":", "").partition("+")[0]
    folder = options.out or Path("runs") / "scaling"
    try:
        return _report(measure(options, cases, extra, folder / "runs" / stamp, start), folder)
    finally:
        store.set(f"job/{next(count)}", "null")
        store.wait([f"done/{rank}" for rank in range(1, launch.world_size)])  # the store ends with this process


def suite(name: str, out: Path | None) -> int:
    """Run the benchmarks of a suite, each as its own command would; return 1 where any did."""
    from benchmarks import comm, slow
    from benchmarks.report import main as report_main

    mains = {"scaling": main, "slow": slow.main, "comm": comm.main, "report": report_main}
    worst = 0
    for what, *flags in SUITES[name]:
        print(f"\n== python -m benchmarks.{what} {' '.join(flags)}", flush=True)
        worst = max(worst, mains[what]([*flags, *(("--out", str(out)) if out else ())]))
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
