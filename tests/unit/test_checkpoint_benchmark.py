"""The short form of the checkpoint benchmark writes a row that says what it should. No timing is judged."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import checkpoint


def test_short(tmp_path: Path) -> None:
    checkpoint.main(["--short", "--out", str(tmp_path)])
    (line,) = (tmp_path / "checkpoint.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["read_back"] is True, "bit for bit"
    numbers = row["numbers"]
    assert len(numbers["pause"]) == row["repeats"] == 2
    assert len(numbers["first_pause"]) == 2
    assert all(value > 0 for name in ("pause", "waited", "stored", "longest") for value in numbers[name])
    for written, total, copies in zip(numbers["written"], numbers["total"], numbers["copies"], strict=True):
        assert copies < written < 0.95 * total, "what changed, not all"
