"""What every member of the family has to do: solve the toys, and resume bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from members import MEMBERS, SLOW
from running import build, close, go, resumed
from teachers import fill

from trainer.envs import CATCH_OPTIMAL_RETURN, CHAIN_OPTIMAL_RETURN
from trainer.run import Run
from trainer.runtime.ranks import Ranks


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(("env", "optimum"), [("toy/Catch", CATCH_OPTIMAL_RETURN), ("toy/Chain", CHAIN_OPTIMAL_RETURN)])
def test_solves(env: str, optimum: float, member: str, alone: Ranks, library: Path, tmp_path: Path) -> None:
    run = go(build(fill(("debug", "--env.id", env, *MEMBERS[member]), library), tmp_path, alone))
    score = run.evaluate()
    close(run)
    assert score.episodes == 100
    assert score.mean == optimum


@pytest.mark.parametrize("member", MEMBERS | SLOW)
def test_resumes_bitwise(member: str, alone: Ranks, library: Path, tmp_path: Path) -> None:
    """3k steps == k steps, saved, loaded into a fresh run, 2k steps more, in everything that has state."""
    arguments = fill(("debug", "--shards", "2", "--eval.episodes", "0", *(MEMBERS | SLOW)[member]), library)
    whole = go(build(arguments, tmp_path / "whole", alone), 330)
    first = go(build(arguments, tmp_path / "parts", alone), 110)
    second = go(resumed(build(arguments, tmp_path / "parts", alone), tmp_path / "parts"), 220)
    assert second.step == whole.step
    assert second.learner.updates == whole.learner.updates > 100
    close(whole, first, second)
    expected, found = leaves(state(whole)), leaves(state(second))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, f"{name} differs behind the resume"


def state(run: Run) -> dict[str, Any]:
    replicated = {name: part for name, part in run.replicated_state().items() if name != "logger"}
    return {"replicated": replicated, **{str(shard): part for shard, part in run.sharded_state().items()}}


def leaves(nested: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(nested, dict):
        return {prefix: nested}
    return {name: leaf for k, part in nested.items() for name, leaf in leaves(part, f"{prefix}/{k}").items()}
