"""CartPole without velocities: CartPole minus two of its four numbers."""

from __future__ import annotations

import torch

from trainer.envs import env_spec, make_backend

NAME = "trainer.envs.partial:CartPoleNoVelocity-v1"


def test_it_is_cartpole_with_two_numbers_left() -> None:
    hidden, whole = make_backend("sync", NAME, 3, [1, 2, 3]), make_backend("sync", "CartPole-v1", 3, [1, 2, 3])
    assert hidden.obs_shape == (2,)
    assert env_spec("auto", NAME).kind == "sync"
    a, b = hidden.reset(), whole.reset()
    ended = 0
    for step in range(120):
        assert torch.equal(a.obs, b.obs[:, [0, 2]])
        assert torch.equal(a.final_obs, b.final_obs[:, [0, 2]])
        for name in ("reward", "terminated", "truncated", "reset"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        ended += int(a.terminated.sum())
        action = torch.tensor([step % 2, (step // 2) % 2, 0])
        for backend in (hidden, whole):
            backend.send(action)
        a, b = hidden.recv(), whole.recv()
    assert ended > 5
    for backend in (hidden, whole):
        backend.close()
