"""One network learns tasks that contradict each other if, and only if, it is told which one it plays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from numpy.typing import NDArray
from running import build, close, go
from torch import Tensor, nn

import trainer.build.nets
from trainer.envs import toy
from trainer.run import Run
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.types import Given, QOut


class Avoid(toy.Catch):
    """Catch with the opposite reward, seen in the same way: the ball has to be missed."""

    def step(self, action: toy.Ints) -> tuple[toy.Floats, NDArray[toy.np.bool_]]:
        reward, ended = super().step(action)
        return -reward, ended


class Deaf(nn.Module):
    """A head that is given the task and ignores it."""

    def __init__(self, actions: list[int], features: int, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, given: Given) -> QOut:
        out: QOut = self.head(x, given)
        return out


@pytest.fixture(scope="module")
def alone() -> Iterator[Ranks]:
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as ranks:
        yield ranks


@pytest.fixture(autouse=True)
def _avoid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(toy.GAMES, "toy/Avoid", Avoid)


def trained(folder: Path, ranks: Ranks, *more: str) -> Run:
    arguments = ("debug", "--env.tasks", "toy/Catch", "toy/Avoid", "--shards", "2", "--total_env_steps", "10000")
    run = go(build((*arguments, *more), folder, ranks))
    run.evaluate()
    close(run)
    return run


def means(run: Run) -> dict[str, float]:
    return {task: score.mean for task, score in run.task_scores.items()}


def test_opposite_tasks_are_learned_by_a_network_that_is_told(alone: Ranks, tmp_path: Path) -> None:
    run = trained(tmp_path, alone)
    assert means(run) == {"toy/Catch": 1.0, "toy/Avoid": 1.0}
    assert run.score is not None
    assert [score.episodes for score in run.task_scores.values()] == [50, 50]
    assert run.score.mean == 1.0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    names = ("toy/Catch", "toy/Avoid")
    assert [rows[-1][f"eval/return_mean/{task}"] for task in names] == [1.0, 1.0]
    for row in rows[:-1]:
        parts = [row[f"charts/episodic_return/{task}"] for task in names]
        assert min(parts) <= row["charts/episodic_return"] <= max(parts)
        assert row["charts/episodic_length/toy/Avoid"] == 9


def test_and_not_by_one_that_is_not(alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does, one of the two tasks loses what the other wins."""
    monkeypatch.setattr(trainer.build.nets, "TaskHead", Deaf)
    found = means(trained(tmp_path, alone, "--total_env_steps", "4000"))
    assert sum(found.values()) < 0.7
