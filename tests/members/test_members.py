"""What every member of the family has to do: solve the toys, and resume bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from members import MEMBERS, SLOW
from running import build, close, go, resumed, same, state
from teachers import fill

from trainer.envs import CATCH_OPTIMAL_RETURN, CHAIN_OPTIMAL_RETURN
from trainer.runtime.ranks import Ranks


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(("env", "optimum"), [("toy/Catch", CATCH_OPTIMAL_RETURN), ("toy/Chain", CHAIN_OPTIMAL_RETURN)])
def test_solves(env: str, optimum: float, member: str, alone: Ranks, library: Path, tmp_path: Path) -> None:
    """Its greedy policy plays 100 episodes perfectly by the end of the run, or sooner."""
    run = build(fill(("debug", "--env.id", env, *MEMBERS[member]), library), tmp_path, alone)
    for share in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
        score = go(run, int(share * run.layout.num_steps) - run.step).evaluate()
        if score.mean == optimum:
            break
    close(run)
    assert score.episodes == 100
    assert score.mean == optimum


@pytest.mark.parametrize("member", MEMBERS | SLOW)
def test_resumes_bitwise(member: str, alone: Ranks, library: Path, tmp_path: Path) -> None:
    """3k steps == k steps, saved, loaded into a fresh run, 2k steps more, in everything that has state."""
    arguments = fill(("debug", "--shards", "2", "--eval.episodes", "0", *(MEMBERS | SLOW)[member]), library)
    whole = go(go(build(arguments, tmp_path / "whole", alone), 70), 140)  # a row is logged where a run is saved
    first = go(build(arguments, tmp_path / "parts", alone), 70)
    second = go(resumed(build(arguments, tmp_path / "parts", alone), tmp_path / "parts"), 140)
    assert second.step == whole.step
    assert second.learner.updates == whole.learner.updates > first.learner.updates > 0
    close(whole, first, second)
    expected, found = state(whole), state(second)
    assert found.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not same(found[name], value)]
