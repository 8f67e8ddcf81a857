"""`lockstep tune`: which way the search goes, and that what it writes is a config that trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.cli import read_config
from trainer.commands import tune
from trainer.commands.tune import Way, search
from trainer.config import ConfigError
from trainer.learner import Learner
from trainer.presets import PRESETS
from trainer.types import Batch, Rates, UpdateOut

BEGIN = Way(8, 1, False)


def test_search_takes_what_pays_and_nothing_else() -> None:
    asked: list[Way] = []

    def measure(way: Way) -> float:
        asked.append(way)
        envs = {1: 5, 2: 6, 4: 7, 8: 10, 16: 15, 32: 18, 64: 18.1}[way.num_envs]  # 64: within what is noise
        return envs * (1.5 if way.compile else 1.0) * (0.8 if way.threads > 1 else 1.0)

    assert search(BEGIN, measure, compiles=True, cores=2) == Way(32, 1, True)
    assert not any(way.num_envs < 8 for way in asked), "where more pays, fewer are not tried"
    assert search(BEGIN, measure, compiles=False, cores=1) == Way(32, 1, False)


def test_search_goes_down_where_more_does_not_pay() -> None:
    def measure(way: Way) -> float:
        return {1: 30.0, 2: 20.0, 4: 15.0, 8: 10.0, 16: 9.0}[way.num_envs] + way.threads

    assert search(BEGIN, measure, compiles=False, cores=4) == Way(1, 4, False)


def test_search_stops_at_what_cannot_work() -> None:
    def measure(way: Way) -> float:
        if way.num_envs > 16:
            raise ConfigError("env.num_envs", way.num_envs, "too many", "use fewer")
        return float(way.num_envs)

    assert search(BEGIN, measure, compiles=False, cores=1) == Way(16, 1, False)


def test_a_tuned_config_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.build.compile.compiler_problem", lambda device: "no compiler here")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    out = tmp_path / "fast.json"
    assert main(["tune", "debug", "--seconds", "0.05", "--optim.lr", "0.002", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "trying eager updates only: no compiler here" in told.err
    assert "return" not in told.out, "the live lines of the trials stay away"
    tuned = read_config(out, "")
    stated = PRESETS["debug"]()
    assert (tuned.optim.lr, tuned.replay, tuned.runtime.compile) == (0.002, stated.replay, False)
    assert f"{tuned.env.num_envs} envs, 1 thread(s), eager" in told.err
    assert main(["check", str(out)]) == 0
    assert json.loads(out.read_text())["runtime"]["threads"] == 1


def test_what_is_measured_is_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[object] = []
    update = Learner.update

    def counted(self: Learner, batch: Batch, rates: Rates) -> UpdateOut:
        updates.append(batch)
        return update(self, batch, rates)

    monkeypatch.setattr(Learner, "update", counted)
    assert tune.speed(tune.small(PRESETS["debug"]()), 0.1) > 0
    assert len(updates) > 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["debug", "--seconds", "0"], "--seconds 0: not a time"),
        (["debug", "--seconds", "x"], "--seconds x: not a time"),
        (["debug", "--out", "no/where.json"], "--out no/where.json: no is not a folder"),
        (["debgu"], "preset debgu: unknown; did you mean debug"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
