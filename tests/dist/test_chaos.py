"""The short form of `python -m benchmarks.chaos`: a trial or a few of each row, with faults in real runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import ROWS, table_line
from benchmarks.chaos.row import Draw, Outcome, Row, outcome, percentile

QUICK = ("env-once", "bad-number", "flip", "corrupted", "payload", "format", "bad-config")
"""What `make test` has time for; test_failures, test_signals and the unit tests of each part see to the rest."""


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ROWS if ROWS[name].short]
)
def test_short_form(name: str, tmp_path: Path) -> None:
    for number in range(ROWS[name].short):
        (folder := tmp_path / str(number)).mkdir()
        found = ROWS[name].trial(folder, Draw(name, number))
        assert found.survived, found.why


def test_an_outcome_says_what_did_not_hold() -> None:
    assert outcome({"a": True, "b": True}, seconds=1.0) == Outcome("", {"seconds": 1.0})
    assert outcome({"a": True, "b": False, "c": False}).why == "not so: b; c"


def test_percentile() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(i) for i in range(20)], 0.95) == 19.0


def test_a_line_of_the_table() -> None:
    row = Row("x", "a fault", "survives", "all", lambda folder, random: Outcome(), 2)
    found = {"survived": 2, "trials": 2, "measures": {"recovery s": {"median": 1.0, "p95": 2.0, "max": 2.0}}}
    assert table_line(row, found) == "| a fault | survives | all | 2 of 2; recovery s: median 1.00, p95 2.00 |"
