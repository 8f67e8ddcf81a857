"""A slow network, a slow rank, ranks that stumble: what each strategy makes of the same wall time.

    python -m benchmarks.slow [--ranks 4] [--strategies flat gossip ...] [--scenarios even "slow rank" ...]

Real runs of the trainer on Catch whose steps take time but no core (slow_env.py), so that four ranks fit on two cores.
Where permitted, each rank is in its own network namespace behind a link of a real, limited rate (slow_net.py);
elsewhere, or with `--wire`, every exchange sleeps in proportion to its bytes (slow_wire.py).

A run gives each rank the same number of steps, and ranks that go at their own pace would wait at its end. So nothing is
measured there: runs are made far too long, the clock starts when every rank learns, and what the ranks did is counted
after `--seconds`: gradients per second, all ranks together, and the return of the last quarter of that time. Polls and
log rows, at which all ranks meet under any strategy, are put after the end; target refreshes stay as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import table
from benchmarks.rows import write_rows
from benchmarks.scaling_cases import PACED, STRATEGIES, chosen
from benchmarks.scaling_runs import MODULE, QUIET, Place, Processes, RunError, leave_tidily, started
from benchmarks.slow_maths import Note, Pace, pace
from benchmarks.slow_net import Network, why_not

AT_THEIR_PACE = ("flat", "ddp", "overlap", "local_sgd", "gossip", "server", "server-async")
"""Those that differ in whom they wait for; the others wait as `flat` does."""
STARTUP = 240.0
"""Limit until every rank learns [s]; then the run is given up."""
ENVS, EVERY, STARTS = 16, 8, 500
"""Environments, env steps per update, and env steps before the first, of all ranks."""


@dataclass(frozen=True)
class Scenario:
    """What is slow. env: kwargs of PacedCatch besides the pace; megabits: of each link, None for no limit."""

    env: dict[str, float]
    megabits: float | None = None
    strategies: tuple[str, ...] = tuple(name for name in STRATEGIES if name != "sockets")


SCENARIOS = {
    "even": Scenario({}),
    "slow network": Scenario({}, megabits=20.0),
    "slow rank": Scenario({"slow_rank": 1, "factor": 5.0}, strategies=AT_THEIR_PACE),
    "stumbling ranks": Scenario({"stumble": 0.05, "pause": 0.1}, strategies=AT_THEIR_PACE),
}
PACE = 0.002
"""Seconds of sleep per environment and step."""


def main(argv: Sequence[str] | None = None) -> int:
    asks = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asks.add_argument("--ranks", type=int, default=4)
    asks.add_argument("--strategies", nargs="+", default=["all"])
    asks.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    asks.add_argument("--seconds", type=float, default=8.0, help="of wall time that are measured")
    asks.add_argument("--repeats", type=int, default=1)
    asks.add_argument("--seed", type=int, default=1, help="of the first repeat")
    asks.add_argument("--wire", action="store_true", help="slow every exchange down, even where namespaces are allowed")
    asks.add_argument("--out", type=Path, help="folder for the rows; default: benchmarks/results")
    options = asks.parse_args(argv)
    leave_tidily()
    if ENVS % options.ranks:
        asks.error(f"--ranks {options.ranks}: {ENVS} environments cannot be shared; use 2, 4, 8 or 16")
    reason = "asked for by --wire" if options.wire else why_not()
    if reason is not None:
        print(f"no network namespaces ({reason}): exchanges sleep by their bytes instead")
    strategies = chosen(options.strategies, asks)
    rows, sound = measure(options, strategies, by_wire=reason is not None)
    if not rows:
        return 1
    print(report(rows))
    print(f"rows: {write_rows('slow', rows, options.out).name}")
    return 0 if sound else 1


def measure(
    options: argparse.Namespace, strategies: Sequence[str], *, by_wire: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Measure every strategy in every scenario, interleaved over repeats; return rows, and whether none failed."""
    cases = [(what, s) for what in options.scenarios for s in strategies if s in SCENARIOS[what].strategies]
    found: dict[tuple[str, str], list[Pace]] = {case: [] for case in cases}
    sound, refused = True, set[str]()
    for repeat in range(options.repeats):
        for what, strategy in cases:
            if strategy in refused:
                continue
            try:
                one = run(SCENARIOS[what], strategy, options.ranks, options.seed + repeat, options.seconds, by_wire)
                found[what, strategy].append(one)
                print(f"{what}, {strategy}: {sum(one.gradients_per_s):,.0f} gradients/s", flush=True)
            except RunError as failure:
                if failure.refused:
                    refused.add(strategy)
                sound &= failure.refused
                told = "left out" if failure.refused else "FAILED"
                print(f"{what}, {strategy}: {told}: {failure}", flush=True)
    rows = [_row(options, what, strategy, paces, by_wire) for (what, strategy), paces in found.items() if paces]
    return rows, sound


def run(scenario: Scenario, strategy: str, ranks: int, seed: int, seconds: float, by_wire: bool) -> Pace:
    """Start a run, wait until every rank learns, count for `seconds`, and end it."""
    with tempfile.TemporaryDirectory() as temporary:
        notes = Path(temporary) / "notes"
        notes.mkdir()
        flags = arguments(scenario, strategy, seed, notes, Path(temporary))
        module: Sequence[str] = MODULE
        if by_wire and scenario.megabits is not None:
            module = ("-m", "benchmarks.slow_wire", "--megabits", str(scenario.megabits), "--")
        with (
            _place(ranks, None if by_wire else scenario.megabits, isolated=not by_wire) as place,
            started(flags, ranks, Path(temporary) / "said", place, module) as processes,
        ):
            begin = _wait_for_learning(processes, notes, ranks)
            while time.time() < begin + seconds + 0.2:
                time.sleep(0.1)
                processes.check()
        told = [_notes(notes, rank) for rank in range(ranks)]
    return pace(told, begin, seconds, envs=ENVS, every=EVERY)


@contextmanager
def _place(ranks: int, megabits: float | None, *, isolated: bool) -> Iterator[Place | None]:
    if not isolated:
        yield None
        return
    with Network(ranks, megabits) as network:
        yield network.place


def arguments(scenario: Scenario, strategy: str, seed: int, notes: Path, folder: Path) -> list[str]:
    """Return the trainer's arguments."""
    env = {"pace": PACE, "notes": str(notes), **scenario.env}
    never = str(10**9)
    return [
        *("train", "debug", "--env.id", PACED, "--env.kwargs", json.dumps(env), "--env.num_envs", str(ENVS)),
        *("--replay.update_every", str(EVERY), "--replay.learning_starts", str(STARTS)),
        *("--total_env_steps", never, "--runtime.poll_every", never, "--log.every", never, "--eval.episodes", "0"),
        *("--runtime.device", "cpu", "--runtime.threads", "1", "--seed", str(seed)),
        *("--log.dir", str(folder), "--log.name", "run", *QUIET, *STRATEGIES[strategy]),
        *("--sync.shared_memory", "False"),  # ranks behind separate links have none
    ]


def _wait_for_learning(processes: Processes, notes: Path, ranks: int) -> float:
    """Return the time at which the last rank has learned for a while. Raises RunError if that never comes."""
    ends = time.monotonic() + STARTUP
    while time.monotonic() < ends:
        processes.check()
        told = [_notes(notes, rank) for rank in range(ranks)]
        if all(lines and lines[-1].steps * ENVS >= STARTS + 10 * ENVS for lines in told):
            return time.time()
        time.sleep(0.1)
    raise RunError(f"not every rank learned within {STARTUP:.0f} s: {processes.last_words()}")


def _notes(folder: Path, rank: int) -> list[Note]:
    path = folder / f"rank-{rank}.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Note(*json.loads(line)) for line in lines if line.endswith("\n")]


def _row(options: argparse.Namespace, what: str, strategy: str, paces: Sequence[Pace], by_wire: bool) -> dict[str, Any]:
    scenario = SCENARIOS[what]
    return {
        "scenario": what,
        "strategy": strategy,
        "flags": " ".join(STRATEGIES[strategy]),
        "ranks": options.ranks,
        "seconds": options.seconds,
        "repeats": len(paces),
        "network": "sleeping exchanges" if by_wire else "namespaces, tc tbf",
        "megabits": scenario.megabits,
        "env": {"pace": PACE, "envs": ENVS, "update_every": EVERY, **scenario.env},
        "gradients_per_s": [sum(one.gradients_per_s) for one in paces],
        "gradients_per_s_by_rank": [one.gradients_per_s for one in paces],
        "return": [one.final for one in paces],
        "curves": [one.curve for one in paces],
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    lines = []
    for row in rows:
        by_rank = [statistics.median(column) for column in zip(*row["gradients_per_s_by_rank"], strict=True)]
        lines.append(
            (
                f"{row['scenario']}: {row['strategy']}",
                f"{statistics.median(row['gradients_per_s']):,.0f}",
                " ".join(f"{rate:,.0f}" for rate in by_rank),
                f"{statistics.fmean(row['return']):.2f}",
            )
        )
    seconds = rows[0]["seconds"]
    return table((f"{rows[0]['ranks']} ranks, {seconds:g} s", "gradients/s", "by rank", "return at the end"), lines)


if __name__ == "__main__":
    raise SystemExit(main())
