"""Weights & Biases: what it receives, and that whatever it does never stops a run."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trainer.log import make_logger
from trainer.log import wandb as wandb_sink
from trainer.log.wandb import WandbSink
from trainer.types import Logger


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
    sink = WandbSink(tmp_path, "test", "a run", {}, warnings.append)
    sink.metrics(1, {})
    sink.close()
    assert modes == tried
    assert all(options == {"prompt": False, "verify": False} for options in asked)
    assert len(warnings) == unreachable


def test_a_service_that_never_answers_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(init=lambda **options: answer.wait(20) and FakeRun()))
    monkeypatch.setattr(wandb_sink, "TIMEOUT", 0.2)
    monkeypatch.setattr(wandb_sink, "MAX_WAITING", 5)
    warnings: list[str] = []
    sink = WandbSink(tmp_path, "test", "a run", {}, warnings.append)
    began = time.monotonic()
    for step in range(1000):
        sink.metrics(step, {"v": 1.0})
    assert time.monotonic() - began < 1
    assert sink._rows.qsize() == 5
    sink.close()
    assert time.monotonic() - began < 5
    assert warnings == ["Weights & Biases did not finish within 0.2 s; the run ends without it."]
    answer.set()
