"""What a recurrent network is for: remembering what is no longer seen, and nothing else in this project can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from members import MEMBERS
from running import build, close, go

from trainer.envs import MEMORY_OPTIMAL_RETURN
from trainer.evaluate import Score
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group


def play(member: str, folder: Path, *more: str) -> Score:
    """Train on toy/Memory: a cue in the first observation, six steps later the action that it asked for."""
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as ranks:
        run = go(build(("debug", "--env.id", "toy/Memory", *MEMBERS[member], *more), folder, ranks))
        score = run.evaluate()
        close(run)
        return score


def test_r2d2_remembers(tmp_path: Path) -> None:
    assert play("r2d2", tmp_path).mean == MEMORY_OPTIMAL_RETURN


def test_without_memory_the_cue_is_lost(tmp_path: Path) -> None:
    """At the end of the corridor both cues look the same: whatever DQN does there is right half of the time."""
    assert abs(play("dqn", tmp_path, "--total_env_steps", "10000").mean) < 0.4


@pytest.mark.slow
def test_sequences_too_short_for_the_corridor_learn_less(tmp_path: Path) -> None:
    """Gradients reach no further back than a sequence does, and the cue lies further back than two steps."""
    short = ("--replay.length", "2", "--replay.stride", "2", "--replay.n_step", "1", "--total_env_steps", "10000")
    assert play("r2d2", tmp_path, *short).mean < 0.5
