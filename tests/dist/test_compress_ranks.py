"""Compressed gradients on two and four ranks: replicas equal bit for bit, bytes as their formulas say, and a resume."""

from __future__ import annotations

import json
from pathlib import Path

import compress_ranks
import pytest
import torch
from launching import QUIET, checkpoints, metrics, run, started
from test_failures import arguments as failing

from trainer.envs import CATCH_OPTIMAL_RETURN

LOSSLESS = ("topk of all", "powersgd of full rank")
P = sum(inputs * outputs + outputs for inputs, outputs in compress_ranks.LAYERS)


def up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def formula(ranks: int) -> dict[str, float]:
    """Bytes that a rank sends for one exchange of P float32 numbers; all-reduces by the ring algorithm."""
    ring = 2 * (ranks - 1) / ranks
    factors = 4 * (100 + 64) + 4 * (64 + 30)
    return {
        "none": ring * 4 * P,
        "fp16": ring * 2 * up(P, ranks),
        "bf16": ring * 2 * up(P, ranks),
        "int8": ring * up(P, 256 * ranks) * 260 / 256,
        "topk": (ranks - 1) * 8 * round(0.1 * P),
        "powersgd": ring * 4 * (factors + 64 + 30),
        "topk of all": (ranks - 1) * 8 * P,
        "powersgd of full rank": ring * 4 * (9 * (100 + 64) + 9 * (64 + 30) + 64 + 30),
    }


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_replicas_stay_equal_and_bytes_are_those_of_the_formulas(ranks: int, tmp_path: Path) -> None:
    stored = tmp_path / "outcomes.pt"
    run([compress_ranks.__file__, str(stored)], tmp_path, ranks=ranks, deadline=150)
    found = torch.load(stored)
    plain = found["weights"]["none"]
    for name, weights in found["weights"].items():
        if name in LOSSLESS:
            torch.testing.assert_close(weights, plain, rtol=0, atol=1e-10, msg=name)
        elif name != "none":
            assert not torch.equal(weights, plain), f"{name}: nothing was compressed"
    expected = formula(ranks)
    assert set(found["bytes"]) == set(expected)
    for name, count in found["bytes"].items():
        assert count["tapped"] == count["counted"] == pytest.approx(expected[name], rel=1e-12), name
        assert count["reported"] == count["counted"] / 1e6
        assert name in ("none", "topk of all") or count["tapped"] < 0.6 * expected["none"], name


def arguments(folder: Path, name: str, *more: str) -> list[str]:
    return [
        *("train", "debug", "--total_env_steps", "1600", "--eval.episodes", "0", "--log.every", "400", *more),
        *("--checkpoint.every", "800", "--log.dir", str(folder), "--log.name", name, *QUIET),
    ]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("--sync.compress", "int8"), marks=pytest.mark.slow),
        pytest.param(("--sync.compress", "powersgd", "--sync.compress_rank", "2"), marks=pytest.mark.slow),
        pytest.param(("--sync.compress", "fp16", "--sync.noise_scale", "True"), marks=pytest.mark.slow),
    ],
    ids=["int8", "powersgd", "fp16"],
)
def test_killed_and_resumed_equals_uninterrupted(more: tuple[str, ...], tmp_path: Path) -> None:
    """On two ranks, one of which is killed after the first checkpoint: everything stored, and every row of the log."""
    run(arguments(tmp_path, "whole", *more), tmp_path, ranks=2, deadline=120)
    script = str(Path(__file__).parents[1] / "resume" / "killing.py")
    killed = json.dumps([(150, arguments(tmp_path, "killed", *more))])
    run([script, killed], tmp_path, ranks=2, deadline=120, expect=-9)
    one, other = tmp_path / "whole", tmp_path / "killed"
    assert [c.name for c in checkpoints(other)] == ["step-000000000100"]
    said = run(["train", "--resume", str(other)], tmp_path, ranks=2, deadline=120).output
    assert "resumed at 800 env steps" in said
    a, b = checkpoints(one)[-1], checkpoints(other)[-1]
    assert a.name == b.name
    tensors = sorted(file.name for file in a.glob("*.safetensors"))
    assert tensors == sorted(file.name for file in b.glob("*.safetensors"))
    for name in tensors:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert rows(one) == rows(other)
    if "--sync.noise_scale" in more:
        assert metrics(one)[-1]["sync/gradient_variance"] > 0
    else:
        assert any(b"lost" in (a / name).read_bytes() for name in tensors)


def rows(run_dir: Path) -> list[dict[str, float]]:
    """The log, less the bytes, which include those of a start."""
    return [{k: v for k, v in row.items() if k != "sync/megabytes_sent"} for row in metrics(run_dir)]


def test_a_killed_rank(tmp_path: Path) -> None:
    more = ("--sync.compress", "int8")
    with started(failing("Killed", tmp_path, *more), tmp_path, ranks=2, deadline=75) as program:
        program.wait().expect_nothing_left()
    assert program.code not in (0, None), program.output
    assert "rank 1 failed first: Signal 9 (SIGKILL)" in program.lines[-1], program.output


LOSSY = {
    "topk": ("topk", "--sync.compress_share", "0.05"),
    "powersgd": ("powersgd", "--sync.compress_rank", "2"),
    "powersgd by ddp": ("powersgd", "--sync.compress_rank", "2", "--sync.kind", "ddp"),
    "int8": ("int8",),
    "bf16": ("bf16",),
}


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "which", LOSSY
)
def test_catch_is_learned(which: str, tmp_path: Path) -> None:
    where = ("--log.dir", str(tmp_path), "--log.name", "run")
    run(["train", "debug", "--sync.compress", *LOSSY[which], *where, *QUIET], tmp_path, ranks=2, deadline=150)
    found = json.loads((tmp_path / "run" / "results.json").read_text())["evaluation"]
    assert found["mean"] == CATCH_OPTIMAL_RETURN
