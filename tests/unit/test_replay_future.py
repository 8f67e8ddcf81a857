"""What followed a transition, as the replay gathers it, against a memory that keeps whole transitions in lists."""

from __future__ import annotations

import pytest
import torch
from replay_twin import FRAME, FakeEnvs, NaiveReplay, Transition

from trainer.replay import Frames, ReplayMemory, Ring, UniformSampler
from trainer.types import Batch, Choice, Future

CPU = torch.device("cpu")
LANES, STEPS = 3, 4


def make(rows: int, stack: int, pad: str, future: int, updates: int = 1) -> ReplayMemory:
    frames = Frames((stack, *FRAME) if stack > 1 else FRAME, stack, pad)  # type: ignore[arg-type]
    ring = Ring(rows, LANES, frames.frame_shape, torch.float32, horizon=2, stack=stack, device=CPU)
    return ReplayMemory(
        ring,
        frames,
        UniformSampler(ring, {0: torch.Generator().manual_seed(0)}),
        updates=lambda step: updates,
        batch_size=6,
        gamma=0.5,
        clip_reward=False,
        dtype=torch.float64,
        device=CPU,
        future=future,
    )


def follows(kept: list[Transition], number: int) -> list[Transition]:
    """The transitions from `number` on, up to the end of the episode (or of what has happened), at most STEPS."""
    found = []
    for part in kept[number : number + STEPS]:
        found.append(part)
        if part.stop:
            break
    return found


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize(("stack", "pad"), [(1, "repeat"), (3, "repeat"), (3, "zero")])
def test_future_equals_whole_storage(mode: str, stack: int, pad: str) -> None:
    """Across wraps of the ring, ends of episodes, lost lives and the newest rows, and where a run was cut."""
    memory, envs = make(20, stack, pad, STEPS), FakeEnvs(LANES, mode, stack, pad, seed=stack)
    naive = NaiveReplay(LANES, 2, 0.5, 20, stack)
    timestep, seen = envs.restart(), [0] * (STEPS + 1)
    lost: list[int] = []  # a life lost right before a cut: the ring does not keep what would never be bootstrapped
    for step in range(90):
        choice, after = Choice((torch.arange(LANES) * 7 + step) % 5), envs.step()
        memory.add(timestep, choice, after)
        naive.add(timestep, choice, after)
        timestep = after
        if step == 45:
            lost = [id(kept[-1]) for kept in naive.kept if kept[-1].stop and not kept[-1].done]
            memory.cut()
            naive.cut()
            timestep = envs.restart()
        for lane in range(LANES):
            for number in naive.alive(lane):
                index = memory.ring.locate(torch.tensor([number]), torch.tensor([lane]))
                batch = memory.fetch(index)
                future, expected = batch.future, follows(naive.kept[lane], number)
                assert future is not None
                count = len(expected)
                seen[count] += 1
                assert future.valid[0].tolist() == [True] * count + [False] * (STEPS - count)
                assert future.action[0, :count].tolist() == [part.action for part in expected]
                for found, part in zip(future.obs[0], expected, strict=False):
                    assert torch.equal(found, part.next_obs) or id(part) in lost
                assert future.action[0, 0] == batch.action[0]
                assert future.obs.shape == (1, STEPS, *batch.obs.shape[1:])
    assert min(seen[1:]) > 100, "every length"


def test_one_step_of_future_is_the_transition_itself() -> None:
    memory, envs = make(30, 1, "repeat", 1), FakeEnvs(LANES, "same_step", 1, "repeat", seed=0)
    timestep = envs.restart()
    for _ in range(20):
        after = envs.step()
        memory.add(timestep, Choice(torch.zeros(LANES, dtype=torch.int64)), after)
        timestep = after
    (batch,) = memory.batches(1)
    assert batch.future is not None
    assert batch.future.valid.tolist() == [[True]] * 6
    assert torch.equal(batch.future.action[:, 0], batch.action)


def test_batches_carry_their_own_future() -> None:
    memory, envs = make(30, 1, "repeat", STEPS, updates=3), FakeEnvs(LANES, "same_step", 1, "repeat", seed=0)
    timestep = envs.restart()
    for _ in range(20):
        after = envs.step()
        memory.add(timestep, Choice(torch.zeros(LANES, dtype=torch.int64)), after)
        timestep = after
    batches = list(memory.batches(1))
    assert len(batches) == 3
    for batch in batches:
        alone = memory.fetch(batch.index).future
        assert batch.future is not None
        assert alone is not None
        assert all(torch.equal(a, b) for a, b in zip(batch.future, alone, strict=True))
    assert make(30, 1, "repeat", 0).fetch(torch.tensor([0])).future is None, "nobody pays who does not look ahead"


def test_map_reaches_the_future() -> None:
    some = torch.arange(4.0)
    batch = Batch(some, some, some, some, some, some, future=Future(some[:, None], some[:, None], some[:, None] > 0))
    half = batch.map(lambda field: field[:2])
    assert isinstance(half.future, Future)
    assert [len(part) for part in half.future] == [2, 2, 2]
    assert half.probability is None
