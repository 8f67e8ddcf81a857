"""PQN on MinAtar against purejaxql, the authors' all-JAX program: both may use every core of this machine.

    git clone https://github.com/mttga/purejaxql
    python -m benchmarks.peers.pqn --source purejaxql [--game NAME] [--repeats N]

Both train from scratch with the settings of its pqn_minatar.yaml and compile the environments too; compile time is not
counted. Ours are real runs, on one rank with a thread per core and on one rank per core, read from their own log; its
tests during training are off, as are our evaluations. They run in turn, each ending before the next starts. Ours
normalises over the whole image, theirs over channels.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import median, spread, table
from benchmarks.peers.venvs import PEERS, Worker
from benchmarks.rows import write_rows
from benchmarks.scaling_runs import QUIET, read, started

THEIRS, THREADS, RANKS = "purejaxql", "lockstep, threads", "lockstep, ranks"
DEADLINE = 600.0
"""After this a run of ours is ended and reported as failed [s]."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="a checkout of purejaxql")
    parser.add_argument("--game", default="Breakout", choices=("Asterix", "Breakout", "Freeway", "SpaceInvaders"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--env-steps", type=int, default=400_000, help="of one run of ours")
    parser.add_argument("--peer-env-steps", type=int, default=40_960, help="of one run of purejaxql")
    own = parser.parse_args(argv)
    if not (own.source / "purejaxql" / "pqn_minatar.py").exists():
        parser.error(f"--source: {own.source} holds no purejaxql/pqn_minatar.py; clone purejaxql and name the folder")
    PEERS[THEIRS].install()
    told: dict[str, list[float]] = {who: [] for who in (THREADS, RANKS, THEIRS)}
    versions: dict[str, Any] = {}
    for repeat in range(own.repeats):
        for who in told:
            if who == THEIRS:
                rate, versions = theirs(own.source, own.game, own.peer_env_steps, repeat + 1)
            else:
                rate = ours(own.game, own.env_steps, repeat + 1, ranks=cores() if who == RANKS else 1)
            told[who].append(rate)
            print(f"{repeat + 1} of {own.repeats}: {who}: {rate:,.0f} env steps/s", file=sys.stderr, flush=True)
    rows = [row(who, own.game, told, versions) for who in told]
    print(report(rows))
    print(f"rows: {write_rows('peers_pqn', rows).name}")
    return 0 if max(one["to_purejaxql"] for one in rows if one["who"] != THEIRS) > 1 else 1


def cores() -> int:
    return len(os.sched_getaffinity(0))


def ours(game: str, env_steps: int, seed: int, ranks: int) -> float:
    """Return env steps/s of a run on `ranks` ranks, which share the cores, once it learns."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            *("train", f"pqn-minatar-{game.lower()}", "--seed", str(seed), "--total_env_steps", str(env_steps)),
            *("--env.backend", "torch", "--runtime.device", "cpu", "--runtime.compile", "True"),
            *("--runtime.threads", str(cores() // ranks), "--log.every", str(env_steps // 20)),
            *("--log.dir", folder, "--log.name", "run", *QUIET, "--eval.every", "0", "--eval.episodes", "0"),
        ]
        with started(flags, ranks, Path(folder) / "said") as processes:
            processes.wait(DEADLINE)
        return read(Path(folder) / "run").speed.env_steps_per_s


def theirs(source: Path, game: str, env_steps: int, seed: int) -> tuple[float, dict[str, Any]]:
    """Return env steps/s of purejaxql, and the versions that it runs with."""
    with Worker(PEERS[THEIRS]) as worker:
        told = worker.ask("train", source=str(source.resolve()), game=game, env_steps=env_steps, seed=seed)
        return float(told["env_steps"] / told["seconds"]), worker.ask("versions")


def row(who: str, game: str, told: dict[str, list[float]], versions: dict[str, Any]) -> dict[str, Any]:
    """Return one row; ratios are taken within a repeat."""
    ratios = [one / other for one, other in zip(told[who], told[THEIRS], strict=True)]
    return {
        "who": who,
        "game": game,
        "env_steps_per_s": told[who],
        "peer_versions": versions,
        "to_purejaxql": median(ratios),
        "to_purejaxql_spread": [min(ratios), max(ratios)],
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [
        (
            one["who"],
            f"{median(one['env_steps_per_s']):,.0f} ({spread(one['env_steps_per_s'], 0)})",
            f"{one['to_purejaxql']:.1f} ({spread(one['to_purejaxql_spread'], 1)})",
        )
        for one in rows
    ]
    return table(("", "env steps/s", "to purejaxql"), lines)


if __name__ == "__main__":
    raise SystemExit(main())
