"""Which device a rank takes, and how its tensors travel, for launchers that show it all GPUs, one, or none."""

from __future__ import annotations

import pytest
import torch

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import choose_device

CPU = "cpu"


@pytest.mark.parametrize(
    ("gpus", "shown", "local_rank", "ranks", "by_agent", "device"),
    [
        (0, None, 0, 1, False, CPU),
        (1, None, 0, 1, False, "cuda:0"),
        (4, "0,1,2,3", 3, 4, True, "cuda:3"),
        (2, "0,1", 1, 4, True, CPU),
        (1, "3", 1, 2, False, "cuda:0"),  # SLURM's --gpus-per-task=1: each its own
        (1, "0", 1, 2, True, CPU),  # one GPU, and torchrun starts two ranks that both see it
    ],
)
def test_auto_takes_a_gpu_where_every_rank_has_one(
    gpus: int,
    shown: str | None,
    local_rank: int,
    ranks: int,
    by_agent: bool,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    launch = Launch(local_rank, local_rank, ranks, ranks, True, by_agent)
    assert choose_device("auto", launch) == torch.device(device)


def test_torchrun_says_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not Launch.read().by_agent
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert Launch.read().by_agent
