"""The whole program learns: the toys to their optimum in seconds, CartPole to the end of its episodes (slow)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from launching import QUIET, run

from trainer.envs import CATCH_OPTIMAL_RETURN, CHAIN_OPTIMAL_RETURN


def evaluation(arguments: list[str], folder: Path, *, ranks: int = 1, deadline: float = 90) -> dict[str, Any]:
    run([*arguments, *QUIET, "--log.dir", str(folder), "--log.name", "run"], folder, ranks=ranks, deadline=deadline)
    found: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text())["evaluation"]
    assert found["episodes"] == 100
    return found


def test_catch(tmp_path: Path) -> None:
    assert evaluation(["train", "debug"], tmp_path)["mean"] == CATCH_OPTIMAL_RETURN


@pytest.mark.slow
def test_catch_with_half_of_the_network_in_each_of_two_processes(tmp_path: Path) -> None:
    arguments = ["train", "debug", "--sync.stages", "2"]
    assert evaluation(arguments, tmp_path, ranks=2, deadline=110)["mean"] == CATCH_OPTIMAL_RETURN


def test_chain_with_three_steps_and_truncation(tmp_path: Path) -> None:
    """Its optimum needs seven steps to the right in a row, and the value of states where episodes are cut."""
    arguments = ["train", "debug", "--env.id", "toy/Chain", "--replay.n_step", "3", "--loss.double", "True"]
    assert evaluation(arguments, tmp_path)["mean"] == CHAIN_OPTIMAL_RETURN


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_cartpole_on_two_ranks(tmp_path: Path) -> None:
    assert evaluation(["train", "cartpole"], tmp_path, ranks=2, deadline=1400)["mean"] >= 475


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_r2d2_balances_the_pole_without_seeing_velocities(tmp_path: Path) -> None:
    assert evaluation(["train", "r2d2-cartpole"], tmp_path, ranks=2, deadline=2900)["mean"] >= 450
