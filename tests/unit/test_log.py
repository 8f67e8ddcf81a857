"""The logger as the loop sees it: fan-out, null object, TensorBoard."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trainer.log import make_logger
from trainer.log.fanout import MAX_FAILURES, FanOut
from trainer.log.null import NullLogger
from trainer.log.tensorboard import TensorBoardSink
from trainer.types import Logger, State

VALUES = {
    "env_steps": 4_234_000, "sps": 12_345.6, "return": 401.23, "epsilon": 0.05, "loss": 0.01234, "eta_s": 5025,
    "share_env": 0.31, "share_act": 0.08, "share_learn": 0.55, "share_sync": 0.04, "share_other": 0.02,
}  # fmt: skip


class Recorder:
    """A sink and a view that remembers, or fails while `broken`."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.said: list[str] = []
        self.broken = False
        self.closed = False

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        if self.broken:
            raise RuntimeError("boom")
        self.rows.append(env_steps)

    def progress(self, values: Mapping[str, float]) -> None:
        if self.broken:
            raise BrokenPipeError

    def message(self, text: str) -> None:
        if self.broken:
            raise BrokenPipeError
        self.said.append(text)

    def close(self) -> None:
        self.closed = True
        if self.broken:
            raise RuntimeError("boom")

    def state_dict(self) -> State:
        return {"rows": len(self.rows)}

    def load_state_dict(self, state: State) -> None:
        self.rows = [0] * state["rows"]


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def logger_at(run_dir: Path, console: Console, **changes: Any) -> Logger:
    options: dict[str, Any] = {"tensorboard": False, "wandb": False, "wandb_project": "test"} | changes
    return make_logger(
        options.pop("rank", 0), run_dir, total_env_steps=1000, title="a run", config={"a": {"b": 1}}, console=console,
        **options,
    )  # fmt: skip


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    console = pipe()
    logger = logger_at(tmp_path / "run", console, rank=1, tensorboard=True, wandb=True)
    assert isinstance(logger, NullLogger)
    logger.metrics(1, {"a": 1.0})
    logger.progress(VALUES)
    logger.message("hello")
    logger.load_state_dict({"jsonl": {"offset": 3, "rows": 1}})
    assert logger.state_dict() == {}
    logger.close()
    assert not list(tmp_path.iterdir())
    assert text_of(console) == ""


def test_rank_0_writes_rows_and_restores_every_sink(tmp_path: Path) -> None:
    logger = logger_at(tmp_path, pipe(), tensorboard=True)
    logger.metrics(10, {"charts/SPS": 5.0})
    state = json.loads(json.dumps(logger.state_dict()))
    logger.metrics(20, {"charts/SPS": 6.0})
    logger.close()
    resumed = logger_at(tmp_path, pipe(), tensorboard=True)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.metrics(20, {"charts/SPS": 7.0})
    resumed.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"global_step": 10, "charts/SPS": 5.0}, {"global_step": 20, "charts/SPS": 7.0}]


def test_a_failing_sink_is_given_up_with_one_warning_and_stops_nobody() -> None:
    view, bad, good = Recorder(), Recorder(), Recorder()
    bad.broken = True
    logger = FanOut(view, {"bad": bad, "good": good})
    for step in range(MAX_FAILURES + 3):
        logger.metrics(step, {})
    bad.broken = False
    logger.metrics(99, {})
    assert good.rows == [*range(MAX_FAILURES + 3), 99]
    assert bad.rows == []
    assert len(view.said) == 1
    assert "bad" in view.said[0]
    assert "boom" in view.said[0]
    logger.close()
    assert bad.closed
    assert good.closed
    assert view.closed


def test_a_success_forgives_earlier_failures() -> None:
    view, sink = Recorder(), Recorder()
    logger = FanOut(view, {"sink": sink})
    for step in range(3 * MAX_FAILURES):
        sink.broken = step % 2 == 0
        logger.metrics(step, {})
    assert sink.rows == [step for step in range(3 * MAX_FAILURES) if step % 2]
    assert view.said == []


def test_a_broken_console_does_not_stop_training() -> None:
    view, sink = Recorder(), Recorder()
    view.broken = True
    logger = FanOut(view, {"sink": sink})
    for step in range(5):
        logger.message("hello")
        logger.progress(VALUES)
        logger.metrics(step, {})
    logger.close()
    assert sink.rows == [0, 1, 2, 3, 4]
    assert sink.closed


def scalars(log_dir: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log_dir))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)] if name in events.Tags()["scalars"] else []


def test_tensorboard_events_after_a_resume_are_there_once(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path, {"a": 1})
    sink.metrics(10, {"losses/td_loss": 1.0, "charts/episodic_return": math.nan})
    state = sink.state_dict()
    sink.metrics(20, {"losses/td_loss": 2.0})
    sink.metrics(30, {"losses/td_loss": 3.0})
    sink.close()
    assert scalars(tmp_path, "losses/td_loss") == [(10, 1.0), (20, 2.0), (30, 3.0)]
    assert scalars(tmp_path, "charts/episodic_return") == []
    time.sleep(1.1)  # a file's name holds the second of its creation, and files are read in the order of their names
    resumed = TensorBoardSink(tmp_path, {"a": 1})
    resumed.load_state_dict(state)
    resumed.metrics(20, {"losses/td_loss": 4.0})
    resumed.close()
    assert scalars(tmp_path, "losses/td_loss") == [(10, 1.0), (20, 4.0)]


def test_tensorboard_goes_on_in_another_file_behind_an_error(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path, {})
    sink.metrics(10, {"v": 1.0})
    sink._writer.flush()
    events = sink._writer.file_writer.event_writer._async_writer
    events._worker.exception = OSError(28, "No space left on device")  # what its thread leaves when a write fails
    with pytest.raises(OSError, match="No space left"):
        sink.metrics(20, {"v": 2.0})
    time.sleep(1.1)  # as above
    sink.metrics(30, {"v": 3.0})
    sink.close()
    assert scalars(tmp_path, "v") == [(10, 1.0), (30, 3.0)]
