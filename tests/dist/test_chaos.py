"""The short form of `python -m benchmarks.chaos`: one or a few trials of each row, with faults in real runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import ROWS, table_line
from benchmarks.chaos.row import SHORT, Draw, Outcome, Row, outcome, percentile

TESTS = Path(__file__).parents[1]
QUICK = ("kill-2", "bad-number", "disagree", "corrupted", "payload", "format", "bad-config", "clock")
"""The rows whose short form `make test` has time for."""
ELSEWHERE = {
    "kill-4": ("resume/test_resume.py", "test_another_number_of_ranks_goes_on_with_the_same_shards"),
    "kill-in-save": ("unit/test_checkpoint_crash.py", "test_killed_at_every_action"),
    "signals": ("dist/test_signals.py", "test_all_ranks_stop_save_once_and_leave_in_peace"),
    "hung-rank": ("dist/test_doctor_ranks.py", "test_a_rank_that_hangs"),
    "hung-env": ("contracts/test_envs_restarts.py", "test_one_begins_anew_and_the_others_go_on"),
    "launcher-killed": ("dist/test_signals.py", "test_ranks_do_not_outlive_a_killed_launcher"),
    "env-once": ("contracts/test_envs_restarts.py", "test_one_begins_anew_and_the_others_go_on"),
    "env-always": ("dist/test_failures.py", "test_exception_in_an_environment"),
    "env-often": ("contracts/test_envs_restarts.py", "test_one_begins_anew_and_the_others_go_on"),
    "bad-numbers": ("dist/test_failures.py", "test_non_finite_loss_on_one_rank"),
    "flip": ("dist/test_failures.py", "test_silent_divergence"),
    "disk": ("resume/test_storage_faults.py", "test_a_disk_that_is_really_full_for_a_while"),
    "resized": ("resume/test_resume.py", "test_another_number_of_ranks_goes_on_with_the_same_shards"),
    "elastic": ("resume/test_resume.py", "test_another_number_of_ranks_goes_on_with_the_same_shards"),
    "service": ("unit/test_log_wandb.py", "test_a_service_that_never_answers_holds_up_nobody"),
    "leak": ("resume/test_nothing_piles_up.py", "test_nothing_piles_up"),
    "leak-restarts": ("dist/test_chaos.py", "test_short_form"),  # kill-2 looks at what is left after a restart
}
"""The tests that are the short forms of the others: (file, function)."""
ONLY_MEASURED = ("check-cost",)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ROWS if ROWS[name].short]
)
def test_short_form(name: str, tmp_path: Path) -> None:
    for number in range(ROWS[name].short):
        (folder := tmp_path / str(number)).mkdir()
        found = ROWS[name].trial(folder, Draw(name, number, SHORT))
        assert found.survived, found.why


def test_every_row_has_a_short_form_in_make_test() -> None:
    assert sorted((*QUICK, *ELSEWHERE, *ONLY_MEASURED)) == sorted(ROWS)
    for file, name in ELSEWHERE.values():
        tree = ast.parse((TESTS / file).read_text())
        (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
        assert "pytest.mark.slow" not in map(ast.unparse, found.decorator_list), name


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
