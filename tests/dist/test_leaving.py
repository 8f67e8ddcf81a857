"""A rank that is done leaves with status 0: no thread may still be in a call of C++ when the interpreter goes down."""

from __future__ import annotations

from pathlib import Path

from launching import run


def test_leaving_while_the_failure_watch_looks(tmp_path: Path) -> None:
    script = str(Path(__file__).parent / "leaving_ranks.py")
    program = run([script], tmp_path, ranks=4, launcher="torchrun", deadline=90)
    assert "terminate called" not in program.output
