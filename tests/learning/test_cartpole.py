"""Every family solves CartPole, on the settings of the preset `cartpole` (slow)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import QUIET, run

SOLVED = 475
SINGLE = ("--loss.double", "False")
EPSILON_0 = ("--policy.epsilon_start", "0", "--policy.epsilon_end", "0")
C51 = ("--net.head", "c51", "--net.v_min", "0", "--net.v_max", "100")
FAST = ("--optim.lr", "2.3e-3")  # RL Zoo's for quantile regression on CartPole, whose loss has small gradients
IQN = (
    *("--net.head", "iqn", "--net.acting_fractions", "32"),
    *("--loss.fractions", "16", "--loss.target_fractions", "16", *FAST),
)
PRIORITIZED = ("--replay.kind", "prioritized")
SPLIT = ("--net.hidden", "256", "--net.head_hidden", "128")
FAMILIES: dict[str, tuple[str, ...]] = {
    "dueling, prioritized": ("--net.dueling", "True", *PRIORITIZED),
    "c51": C51,
    "qr-dqn": ("--net.head", "qr", "--net.quantiles", "10", *FAST),
    "iqn": IQN,
    "munchausen dqn": (*SINGLE, "--loss.munchausen", "True"),
    "munchausen iqn": (*SINGLE, *IQN, "--loss.munchausen", "True"),
    "sarsa": (*SINGLE, "--loss.target", "sarsa"),
    "expected sarsa": (*SINGLE, "--loss.target", "expected"),
    # the noise of its paper, 0.5, keeps such a small network from settling: 185
    "noisy": ("--net.noisy", "True", "--net.noisy_sigma", "0.1", *SPLIT, *EPSILON_0),
    "ladder": ("--policy.exploration", "ladder"),
    "ez-greedy": ("--policy.repeat", "zeta"),
    "ensemble": ("--net.ensemble", "5", *EPSILON_0),
    "rainbow": (*C51, *PRIORITIZED, *EPSILON_0, "--net.noisy", "True", "--net.dueling", "True", *SPLIT),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", FAMILIES)
def test_solves_cartpole(family: str, tmp_path: Path) -> None:
    arguments = ["train", "cartpole", "--eval.every", "0", "--runtime.compile", "auto", *FAMILIES[family], *QUIET]
    run([*arguments, "--log.dir", str(tmp_path), "--log.name", "run"], tmp_path, deadline=1700)
    found = json.loads((tmp_path / "run" / "results.json").read_text())["evaluation"]
    assert found["episodes"] == 100
    assert found["mean"] >= SOLVED
