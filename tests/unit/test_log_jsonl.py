"""metrics.jsonl: every row exactly once after a resume, and errors that cost a row but never the run."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest

from trainer.log import jsonl
from trainer.log.jsonl import JsonlSink, read_rows


def sink_at(path: Path, warnings: list[str] | None = None) -> JsonlSink:
    return JsonlSink(path, (warnings if warnings is not None else []).append)


def steps(path: Path) -> list[int]:
    return [json.loads(line)["global_step"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_rows_are_flushed_and_valid_json(path: Path) -> None:
    sink = sink_at(path)
    sink.metrics(10, {"a": 1.5, "b": math.nan, "c": math.inf, "d": -math.inf, "e": 2})
    (row,) = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert row == {"global_step": 10, "a": 1.5, "b": None, "c": None, "d": None, "e": 2.0}
    sink.close()


@pytest.mark.parametrize("at", [0, 1, 5, 8])
def test_every_row_is_there_once_after_a_resume(path: Path, at: int) -> None:
    sink, state = sink_at(path), {}
    for step in range(8):
        if step == at:
            state = sink.state_dict()
        sink.metrics(step, {"v": step * 1000.0})
    if at == 8:
        state = sink.state_dict()
    with path.open("a") as file:
        file.write('{"global_step": 8, "v"')  # killed within a row
    warnings: list[str] = []
    resumed = sink_at(path, warnings)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert steps(path) == list(range(at)), "cut at once, not at the next row"
    assert resumed.state_dict() == state
    for step in range(at, 12):
        resumed.metrics(step, {"v": step * 10.0})
    resumed.close()
    assert steps(path) == list(range(12))
    assert [row["v"] for row in read_rows(path)] == [step * (1000.0 if step < at else 10.0) for step in range(12)]
    assert warnings == []


@pytest.mark.parametrize("left", [None, "", '{"global_step": 0}\n', '{"global_step": 0}\n{"glob'])
def test_a_file_shorter_than_the_checkpoint_is_kept(path: Path, left: str | None) -> None:
    if left is not None:
        path.write_text(left)
    warnings: list[str] = []
    sink = sink_at(path, warnings)
    sink.load_state_dict({"offset": 1000, "rows": 50})
    sink.metrics(51, {})
    sink.close()
    assert steps(path) == ([0, 51] if left else [51])
    assert sink.state_dict()["rows"] == (2 if left else 1)
    assert len(warnings) == 1
    assert "shorter" in warnings[0]


def test_an_earlier_run_in_the_folder_is_moved_aside(path: Path) -> None:
    for run in range(3):
        warnings: list[str] = []
        sink = sink_at(path, warnings)
        sink.metrics(run, {})
        sink.close()
        sink.metrics(run + 10, {})  # its own rows are not an earlier run
        sink.close()
        assert len(warnings) == (run > 0)
    assert steps(path) == [2, 12]
    assert steps(path.with_name("metrics.1.jsonl")) == [0, 10]
    assert steps(path.with_name("metrics.2.jsonl")) == [1, 11]


def test_a_full_disk_costs_rows_but_not_the_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [False]

    class Disk(jsonl.FileIO):
        def write(self, data: Any) -> int:
            if full[0]:
                super().write(data[:5])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(jsonl, "FileIO", Disk)
    warnings: list[str] = []
    sink = sink_at(path, warnings)
    for step in range(6):
        full[0] = step in (0, 2, 3)
        sink.metrics(step, {"v": 1.0})
    sink.close()
    assert steps(path) == [1, 4, 5], "what was cut short is gone, later rows are whole"
    assert sink.state_dict() == {"offset": path.stat().st_size, "rows": 3}
    assert len(warnings) == 1
    assert "No space left" in warnings[0]


def test_a_folder_that_cannot_be_written_does_not_raise(tmp_path: Path) -> None:
    warnings: list[str] = []
    sink = sink_at(tmp_path / "missing" / "metrics.jsonl", warnings)
    sink.metrics(1, {})
    sink.metrics(2, {})
    (tmp_path / "missing").mkdir()
    sink.metrics(3, {})
    sink.close()
    assert steps(tmp_path / "missing" / "metrics.jsonl") == [3]
    assert len(warnings) == 1


def test_a_file_closed_under_the_sink_is_opened_again(path: Path) -> None:
    sink = sink_at(path)
    sink.metrics(1, {})
    assert sink._file is not None
    sink._file.close()
    sink.metrics(2, {})
    sink.metrics(3, {})
    sink.close()
    assert steps(path) == [1, 3]


def test_read_rows_leaves_out_what_is_no_row(path: Path) -> None:
    assert read_rows(path) == []
    path.write_bytes(b'{"global_step": 1}\n\n7\n\xff\xfe\n{"global_step": 2}\n{"global_st')
    assert read_rows(path) == [{"global_step": 1}, {"global_step": 2}]
