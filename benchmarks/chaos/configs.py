"""Bad config values, each given to a real process; the cases are those of the unit tests."""

from __future__ import annotations

from itertools import pairwise
from math import gcd
from pathlib import Path

from launching import started
from test_bad_input import CASES as VALUES
from test_combinations import CASES as COMBINATIONS

from benchmarks.chaos.row import Draw, Outcome, Row, outcome

SOON = 3.0  # s
CASES = [*VALUES.items(), *((f"debug {line}", [words]) for line, words in COMBINATIONS)]
STRIDE = 37
"""Neighbours in the list are alike; this goes through all of them in another order."""
assert gcd(STRIDE, len(CASES)) == 1


def bad_config(folder: Path, draw: Draw) -> Outcome:
    """One case."""
    line, words = CASES[STRIDE * draw.number % len(CASES)]
    (folder / "runs").mkdir()
    preset, *rest = line.split()
    where = [] if preset.startswith("-") else ["--log.dir", str(folder / "runs")]
    asked = dict(pairwise(rest))
    shards = asked.get("--shards", "0")
    ranks = ["--ranks", shards] if int(shards) > 0 and "--ranks" not in asked else []
    with started(["train", preset, *where, *rest, *ranks], folder, launcher="alone", deadline=30) as program:
        program.wait().expect_nothing_left()
    told = program.output
    checks = {
        "exit code 2": program.code == 2,
        "one line": told.count("\n") == 1 and told.startswith("lockstep: "),
        "it names field, value, remedy": all(word in told for word in words),
        "nothing was made": not list((folder / "runs").iterdir()),
    }
    found = outcome(checks, **{"refused after s": program.took})
    return Outcome(found.why and f"{line}: {found.why}\n{told}", found.measures)


ROWS = [
    Row(
        "bad-config",
        "bad config values",
        "refused before any env or process group, names field, value, remedy",
        f">= 100 cases, each <= {SOON:g} s, exit code 2",
        bad_config,
        trials=len(CASES),
        short=3,
    )
]
