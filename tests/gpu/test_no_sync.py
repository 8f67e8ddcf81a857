"""The update launches work and waits for none of it: any host sync inside raises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.harness import open_run, toy, warm_up
from trainer.config import Config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def configs() -> list[Config]:
    plain = replace(toy(), runtime=replace(toy().runtime, device="cuda"))
    clipped = replace(plain, optim=replace(plain.optim, max_grad_norm=10.0))
    n_step = replace(plain, replay=replace(plain.replay, n_step=3), loss=replace(plain.loss, double=True))
    prioritized = replace(n_step, replay=replace(n_step.replay, kind="prioritized"))
    return [plain, clipped, n_step, replace(plain, optim=replace(plain.optim, kind="rmsprop")), prioritized]


@pytest.mark.parametrize("config", configs(), ids=["plain", "clipped", "n-step double", "rmsprop", "prioritized"])
def test_update_makes_no_host_sync(config: Config, tmp_path: Path) -> None:
    with open_run(config, tmp_path) as run:
        warm_up(run, 10)
        steps = range(run.step + 1, run.step + 21)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in steps:
                for batch in run.replay.batches(step):
                    result = run.learner.update(batch, run.layout.rates(step))
                    run.replay.reprioritize(batch.index, result)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert run.learner.drain()["td_loss"]
