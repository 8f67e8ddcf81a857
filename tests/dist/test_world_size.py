"""World-size invariance, through the real program: four shards on 1, 2 and 4 ranks are one and the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import QUIET, checkpoints, metrics, run
from safetensors.torch import load_file

COMMON = ("--shards", "4", "--total_env_steps", "2400", "--log.every", "400", "--checkpoint.every", "0")
DEBUG = ("train", "debug", *COMMON, "--eval.episodes", "8")
CARTPOLE = (
    "train",
    "cartpole",
    *COMMON,
    "--replay.learning_starts",
    "400",
    "--eval.every",
    "0",
    "--eval.episodes",
    "4",
)
IMAGES = ("--env.kwargs", '{"image": true}', "--net.torso", "minatar", "--net.hidden", "32", "--runtime.threads", "1")
F64 = ("--runtime.dtype", "float64")


def ran(arguments: tuple[str, ...], folder: Path, ranks: int) -> Path:
    here = folder / f"ranks{ranks}"
    here.mkdir()
    run([*arguments, *QUIET, "--log.dir", str(here), "--log.name", "run"], here, ranks=ranks, deadline=100)
    return here / "run"


def learned(run_dir: Path) -> tuple[int, dict[str, torch.Tensor]]:
    """How many updates, and the tensors that are equal on every rank: networks and moments."""
    (last,) = checkpoints(run_dir)
    return json.loads((run_dir / "results.json").read_text())["updates"], load_file(last / "replicated.safetensors")


def evaluation(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "results.json").read_text())["evaluation"]
    return found


CASES = {
    "debug": (DEBUG, (2, 4)),
    "3 steps, Double, ladder, DDP": (
        (
            *DEBUG,
            "--replay.n_step",
            "3",
            "--loss.double",
            "True",
            "--policy.exploration",
            "ladder",
            "--sync.kind",
            "ddp",
        ),
        (4,),
    ),
    "images shifted and foreseen, DDP": (
        (*DEBUG, *IMAGES, "--pixels.shift", "1", "--pixels.spr", "2", "--pixels.spr_steps", "2", "--sync.kind", "ddp"),
        (2,),
    ),
    "two tasks, DDP": ((*DEBUG, "--env.tasks", "toy/Catch", "toy/Chain", "--sync.kind", "ddp"), (2,)),
    "native CartPole": (CARTPOLE, (2,)),
}
ELSEWHERE = ("3 steps, Double, ladder, DDP", "images shifted and foreseen, DDP", "two tasks, DDP", "native CartPole")
"""What members/test_members_ranks.py also runs on two ranks, with another strategy."""


@pytest.mark.timeout(320)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in ELSEWHERE else case for case in CASES]
)
def test_same_parameters_in_float64(case: str, tmp_path: Path) -> None:
    arguments, sizes = CASES[case]
    alone = ran((*arguments, *F64), tmp_path, 1)
    updates, expected = learned(alone)
    assert updates >= 200
    for ranks in sizes:
        together = ran((*arguments, *F64), tmp_path, ranks)
        count, found = learned(together)
        assert count == updates
        assert set(found) == set(expected)
        assert sum(tensor.numel() for tensor in found.values()) > 4_000
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10, msg=f"{ranks} ranks: {name}")
        assert evaluation(together) == evaluation(alone)
        for one, other in zip(metrics(alone), metrics(together), strict=True):
            assert one.pop("sync/megabytes_sent", 0.0) == 0 <= other.pop("sync/megabytes_sent", 0.0)
            assert other == pytest.approx(one, rel=1e-9, abs=1e-9), "the same episodes, the same rows"


@pytest.mark.timeout(320)
def test_same_losses_in_float32(tmp_path: Path) -> None:
    one, *others = (metrics(ran(DEBUG, tmp_path, ranks)) for ranks in (1, 2, 4))
    expected = [row["losses/td_loss"] for row in one if "losses/td_loss" in row]
    assert len(expected) >= 5
    for other in others:
        losses = [row["losses/td_loss"] for row in other if "losses/td_loss" in row]
        assert losses == pytest.approx(expected, rel=0, abs=1e-4)
