"""Environments on the GPU: a step launches work, waits for none of it, and leaves its outputs there."""

from __future__ import annotations

import pytest
import torch

from trainer.envs import ShardedEnvs, make_backend
from trainer.envs.device import IDS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("env_id", IDS)
def test_a_step_makes_no_host_sync(env_id: str) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    backends = {s: make_backend("torch", env_id, 64, [64 * s + i for i in range(64)], device=device) for s in (0, 1)}
    envs = ShardedEnvs(backends, device, {0: 0, 1: 64})
    envs.reset()
    action = torch.randint(envs.num_actions, (128,), device=device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(50):
            envs.send(action)
            timestep = envs.recv()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {tensor.device for tensor in timestep} == {device}
    assert envs.episodes() or env_id.startswith(("MinAtar/", "Acrobot", "Mountain"))


@pytest.mark.parametrize(
    "env_id", [env_id for env_id in IDS if env_id.startswith("MinAtar/") and env_id.endswith("v0")]
)
def test_a_gpu_plays_what_a_cpu_plays(env_id: str) -> None:
    """Boards are integers: from the same random numbers the same boards, bit for bit."""
    from trainer.envs.device.games import make_game
    from trainer.envs.device.step import columns, make_step

    game, limit = make_game(env_id, {})
    step = make_step(game, 0.1, limit)
    g = torch.Generator().manual_seed(0)
    begun = game.reset(torch.rand(64, game.reset_draws, generator=g))
    zeros = torch.zeros(64, dtype=torch.int32)
    here = [torch.arange(6).int(), zeros, zeros, *begun]
    there = [tensor.cuda() for tensor in here]
    for _ in range(300):
        action, draws = torch.randint(6, (64,), generator=g), torch.rand(64, columns(game, 0.1), generator=g)
        on_cpu = step(action, here[0], draws, *here[1:])
        on_gpu = step(action.cuda(), there[0], draws.cuda(), *there[1:])
        for a, b in zip(on_cpu, on_gpu, strict=True):
            assert torch.equal(a, b.cpu())
        here[1:], there[1:] = on_cpu[5:], on_gpu[5:]
