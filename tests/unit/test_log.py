"""The logger as the loop sees it: fan-out, null object, console, TensorBoard, Weights & Biases."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trainer.log import console as console_module
from trainer.log import make_logger
from trainer.log.console import ConsoleView
from trainer.log.fanout import MAX_FAILURES, FanOut
from trainer.log.format import compact, duration, percent, short
from trainer.log.line import live_line, plain_line
from trainer.log.null import NullLogger
from trainer.log.tensorboard import TensorBoardSink
from trainer.log.wandb import WandbSink
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


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=20, color_system="standard")


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


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (950, "950"), (999.6, "1k"), (12_345, "12.3k"), (999_999, "1M"), (4_200_000, "4.2M"),
        (10_000_000, "10M"), (-1500, "-1.5k"), (math.nan, "-"), (math.inf, "-"), (None, "-"),
    ],
)  # fmt: skip
def test_compact(number: float | None, text: str) -> None:
    assert compact(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (401.23, "401.2"), (12.34, "12.3"), (9.999, "10.0"), (1.234, "1.23"), (0.9999, "1.00"),
        (0.01234, "0.012"), (0.0012, "1.2e-3"), (1.2e-5, "1.2e-5"), (-1234.5, "-1234"), (99_999, "100k"),
        (999.97, "1000"), (math.nan, "-"), (None, "-"),
    ],
)  # fmt: skip
def test_short(number: float | None, text: str) -> None:
    assert short(number) == text
    assert len(text) <= 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00"), (65.4, "01:05"), (3599.7, "1:00:00"), (5025, "1:23:45"), (45_240, "12h34m"), (270_000, "3d03h"),
        (-1, "-"), (math.nan, "-"), (math.inf, "-"), (None, "-"),
    ],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_percent() -> None:
    assert [percent(share) for share in (0.314, 1.0, math.nan, None)] == ["31%", "100%", "-", "-"]


@pytest.mark.parametrize("width", [10, 30, 60, 79, 80, 100, 119, 120, 140, 300])
def test_live_line_fits_and_keeps_its_layout(width: int) -> None:
    big = VALUES | {"sps": 999_949.0, "return": -1234.5, "loss": 1.2e-5, "env_steps": 9_990_000, "eta_s": 1e7}
    lines = [live_line(values, 10_000_000, width) for values in (VALUES, {}, big, dict.fromkeys(VALUES, math.nan))]
    assert all(len(line.plain) <= width for line in lines)
    assert all("\n" not in line.plain for line in lines)
    labels = [re.findall(r"return|eps|loss|env|other|eta", line.plain) for line in lines]
    assert labels[1:] == labels[:-1], "which parts are shown must depend on the width only"
    columns = [[match.start() for match in re.finditer(r"return|eps|loss|env|eta", line.plain)] for line in lines]
    assert columns[1:] == columns[:-1], "and so must where they stand"


def test_live_line_drops_the_least_important_parts_first() -> None:
    at = {width: live_line(VALUES, 10_000_000, width).plain for width in (80, 120)}
    assert re.match(r" 42% ━+  4.23M/10M  12.3k/s  return 401.2 +eps 0.050  eta 1:23:45$", at[80])
    assert "loss 0.012" in at[120]
    assert "env 31% act 8% learn 55% sync 4%" in at[120]


def test_unknown_values_are_dashes() -> None:
    line = plain_line({"env_steps": 10, "return": math.nan}, 1000)
    assert line.startswith("  1%  10/1k  -/s  return -  eps -  loss -  env - act - learn - sync -")
    assert line.endswith("eta -")


def test_live_line_without_unicode() -> None:
    assert live_line(VALUES, 10_000_000, 80, ascii_only=True).plain.isascii()


def test_plain_output_has_no_control_characters_and_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    console = pipe()
    view = ConsoleView(console, 10_000_000)
    for step in range(25):
        view.progress(VALUES | {"env_steps": step})
        now[0] += 1.0
    view.message("an [bold]error\x1b[31m\r in " + "a long line " * 20)
    view.close()
    text = text_of(console)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    lines = text.splitlines()
    assert [line.split()[1] for line in lines if "eps" in line] == ["0/10M", "10/10M", "20/10M", "24/10M"]
    assert lines[3].startswith("an [bold]error[31m in ")
    assert len(lines) == 5, "long lines are not wrapped"


def test_terminal_redraws_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    console = terminal(100)
    view = ConsoleView(console, 10_000_000)
    for step in range(200):
        view.progress(VALUES | {"env_steps": step})
        now[0] += 0.01
    view.message("hello [bold]there")
    view.close()
    view.close()
    text = text_of(console)
    # 2 s at 4/s, one redraw under the message, two at the end.
    assert 8 <= text.count("/10M") <= 8 + 3
    assert "hello [bold]there" in text
    assert "199/10M" in text, "the last values are shown"
    assert text.endswith("\x1b[?25h"), "the cursor is visible again"


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
    resumed = TensorBoardSink(tmp_path, {"a": 1})
    resumed.load_state_dict(state)
    resumed.metrics(20, {"losses/td_loss": 4.0})
    resumed.close()
    assert scalars(tmp_path, "losses/td_loss") == [(10, 1.0), (20, 4.0)]


@pytest.mark.timeout(60)
def test_wandb_offline_end_to_end(tmp_path: Path) -> None:
    """In a process of its own: wandb keeps a service and global state."""
    script = """
import sys
from pathlib import Path
from trainer.log import make_logger
def logger():
    return make_logger(0, Path(sys.argv[1]), total_env_steps=10, title="a run", config={"a": {"b": 1}},
                       tensorboard=False, wandb=True, wandb_project="test")
first = logger()
assert "wandb" not in sys.modules
first.metrics(1, {"charts/SPS": 2.5})
state = first.state_dict()
first.close()
second = logger()
second.load_state_dict(state)
second.metrics(2, {"charts/SPS": 3.5})
second.close()
print(state["wandb"]["id"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        capture_output=True, text=True, timeout=50, check=False, cwd=Path(__file__).parents[2],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "WANDB_ERROR_REPORTING": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *said, run_id = done.stdout.splitlines()
    assert said == ["a run", "a run"], "wandb prints nothing of its own"
    records = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id}*/run-{run_id}.wandb"))
    assert len(records) == 2, "both runs are recorded under one id"
    assert b"charts/SPS" in records[0].read_bytes()


class Raising(types.ModuleType):
    """A wandb in which everything raises."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise OSError(f"no {name}")


class FakeRun:
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def define_metric(self, name: str, step_metric: str) -> None: ...

    def log(self, row: dict[str, float]) -> None:
        raise ConnectionError("gone")

    def finish(self) -> None:
        raise ConnectionError("gone")


def fake_wandb(*, chosen: str = "online", **parts: Any) -> types.ModuleType:
    """Return a wandb whose user set the mode `chosen`, with `parts` put in place."""
    module = types.ModuleType("wandb")
    singleton = types.SimpleNamespace(settings=types.SimpleNamespace(mode=chosen))
    defaults = {
        "Settings": lambda **options: options,
        "setup": lambda settings=None: singleton,
        "login": lambda **options: True,
        "teardown": lambda: None,
    }
    for name, part in (defaults | parts).items():
        setattr(module, name, part)
    return module


def test_a_wandb_that_raises_everywhere_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Raising("wandb"))
    console = pipe()
    logger = logger_at(tmp_path, console, wandb=True)
    for step in range(5):
        logger.metrics(step, {"charts/SPS": 1.0})
    logger.close()
    assert text_of(console).count("Weights & Biases") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_missing_wandb_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    warnings: list[str] = []
    sink = WandbSink(tmp_path, "test", "a run", {}, warnings.append)
    sink.metrics(1, {})
    sink.metrics(2, {})
    sink.close()
    assert len(warnings) == 1
    assert "lockstep[wandb]" in warnings[0]


def test_a_wandb_that_fails_while_logging_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(init=lambda **options: FakeRun()))
    console = pipe()
    logger = logger_at(tmp_path, console, wandb=True)
    for step in range(8):
        logger.metrics(step, {"charts/SPS": 1.0})
    logger.close()
    assert text_of(console).count("wandb is off") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("chosen", "logged_in", "unreachable", "tried"),
    [
        ("online", True, False, ["online"]),
        ("online", False, False, ["offline"]),
        ("online", True, True, ["online", "offline"]),
        ("disabled", True, False, ["disabled"]),
    ],
)
def test_wandb_mode(
    chosen: str, logged_in: bool, unreachable: bool, tried: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, asked, warnings = [], [], []

    def init(**options: Any) -> FakeRun:
        modes.append(options["mode"])
        assert options["settings"]["init_timeout"] <= 60
        if unreachable and options["mode"] == "online":
            raise TimeoutError
        return FakeRun()

    def login(**options: Any) -> bool:
        asked.append(options)
        return logged_in

    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(chosen=chosen, init=init, login=login))
    with pytest.raises(ConnectionError):
        WandbSink(tmp_path, "test", "a run", {}, warnings.append).metrics(1, {})
    assert modes == tried
    assert all(options == {"prompt": False, "verify": False} for options in asked)
    assert len(warnings) == unreachable
