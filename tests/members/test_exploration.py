"""Epsilon 0, and a fresh network that prefers to go back: noise and an ensemble find the Chain's end, it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from members import NO_EPSILON
from running import build, close, go

from trainer.envs import CHAIN_OPTIMAL_RETURN
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group

GOES_BACK = ("debug", "--env.id", "toy/Chain", "--seed", "2", *NO_EPSILON, "--total_env_steps", "6000")


@pytest.fixture(scope="module")
def alone() -> Iterator[Ranks]:
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as ranks:
        yield ranks


@pytest.mark.parametrize(
    ("arguments", "finds"),
    [
        ("", False),
        ("--net.noisy True --net.dueling True --net.hidden 64 --net.head_hidden 64", True),
        ("--net.ensemble 5 --loss.double True", True),
    ],
    ids=["plain", "noisy", "ensemble"],
)
def test_finds_the_end_of_the_chain(arguments: str, finds: bool, alone: Ranks, tmp_path: Path) -> None:
    run = go(build((*GOES_BACK, *arguments.split()), tmp_path, alone))
    score = run.evaluate()
    close(run)
    assert (score.mean == CHAIN_OPTIMAL_RETURN) == finds
    assert finds or score.mean < 0.1
