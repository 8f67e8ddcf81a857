"""Demonstrations in replay: the store that never forgets, and batches that contain them, against slow twins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pytest
import torch
from demo_twin import LENGTHS, demonstrations
from torch import Tensor

from trainer.replay import Demonstrations, DemoSampler, Frames, ReplayMemory, WithDemos, demo_ring
from trainer.types import Batch, Choice, State, Timestep, UpdateOut

CPU = torch.device("cpu")
GAMMA = 0.75  # exact in binary, as the rewards are


def twin(demos: Demonstrations, step: int, n: int, clip: bool) -> tuple[float, float, Tensor]:
    """Return, discount and bootstrap observation of the n steps that begin with `step`, from the definition."""
    episode = max(e for e, start in enumerate(demos.starts.tolist()) if start <= step)
    end = ([*demos.starts.tolist(), len(demos.action)])[episode + 1]
    ret, power = 0.0, 1.0
    for t in range(step, min(step + n, end)):
        reward = float(demos.reward[t])
        ret += power * (max(-1.0, min(1.0, reward)) if clip else reward)
        power *= GAMMA
    last = min(step + n, end)
    after = demos.final_obs[episode] if last == end else demos.obs[last]
    return ret, 0.0 if demos.terminated[last - 1] else power, after


def store(
    demos: Demonstrations,
    streams: Mapping[int, int] | None = None,
    *,
    n: int = 1,
    stack: int = 1,
    pad: Literal["repeat", "zero"] = "repeat",
    clip: bool = False,
    batch: int = 4,
    updates: int = 1,
) -> tuple[ReplayMemory, DemoSampler]:
    frames = Frames(tuple(demos.obs.shape[1:]), stack, pad)
    ring = demo_ring(demos, frames, horizon=n, clip_reward=clip, device=CPU)
    generators = {shard: torch.Generator().manual_seed(seed) for shard, seed in (streams or {0: 0}).items()}
    sampler = DemoSampler(ring, len(demos.action), generators)
    memory = ReplayMemory(
        ring, frames, sampler, updates=lambda step: updates, batch_size=batch, gamma=GAMMA, clip_reward=clip,
        dtype=torch.float64, device=CPU,
    )  # fmt: skip
    return memory, sampler


@pytest.mark.parametrize("n", [1, 3, 20])
@pytest.mark.parametrize(("stack", "pad"), [(1, "repeat"), (3, "repeat"), (3, "zero")])
@pytest.mark.parametrize("clip", [False, True])
def test_every_transition_equals_the_definition(n: int, stack: int, pad: Any, clip: bool) -> None:
    demos = demonstrations(stack, pad)
    memory, _ = store(demos, n=n, stack=stack, pad=pad, clip=clip)
    steps = len(demos.action)
    batch = memory.fetch(memory.ring.locate(torch.arange(steps), torch.tensor(0)))
    assert torch.equal(batch.obs, demos.obs)
    assert torch.equal(batch.action, demos.action)
    for step in range(steps):
        ret, discount, after = twin(demos, step, n, clip)
        assert batch.ret[step].item() == ret
        assert batch.discount[step].item() == discount
        assert torch.equal(batch.next_obs[step], after)


def test_lengths_and_returns() -> None:
    demos = demonstrations()
    assert tuple(demos.lengths.tolist()) == LENGTHS
    ends = demos.starts + demos.lengths
    for start, end, total in zip(demos.starts, ends, demos.returns, strict=True):
        assert demos.reward[start:end].double().sum() == total


def test_all_transitions_are_drawn_equally_often() -> None:
    demos = demonstrations()
    memory, sampler = store(demos, {0: 1, 1: 2})
    count = len(demos.action)
    drawn = sampler.index(sampler.draw(500, 2 * count))
    assert drawn.shape == (500, 2 * count)
    found, times = drawn.flatten().unique(return_counts=True)
    assert torch.equal(found, memory.ring.locate(torch.arange(count), torch.tensor(0)).sort().values)
    expected = 1000.0
    assert (times - expected).abs().max() < 5 * expected**0.5


# --- batches that contain them ----------------------------------------------------------------------------------------


class Own:
    """A replay whose rows are numbered: shard 100, 101, ... of every batch; remembers what it receives."""

    def __init__(self, shards: tuple[int, ...], each: int, updates: int = 1, weighed: bool = True) -> None:
        self.shards, self.each, self.updates, self.weighed = shards, each, updates, weighed
        self.told: list[tuple[Tensor, UpdateOut]] = []
        self.waits, self.cuts, self.added = 0, 0, 0

    def add(self, timestep: Timestep, choice: Choice, next_timestep: Timestep) -> None:
        self.added += 1

    def batches(self, step: int) -> Iterator[Batch]:
        for _ in range(self.updates if step >= self.waits else 0):
            index = torch.cat([100 * shard + torch.arange(self.each) for shard in self.shards])
            value = index.double()
            obs = torch.stack((value, value), 1).float()
            probability = 1 / (2 + value) if self.weighed else None
            yield Batch(obs, index % 3, value, value, obs, index, probability)

    def reprioritize(self, index: Tensor, result: UpdateOut) -> None:
        self.told.append((index, result))

    def wait_until(self, step: int) -> None:
        self.waits = step

    def cut(self) -> None:
        self.cuts += 1

    def state_dict(self) -> State:
        return {str(shard): {"own": shard} for shard in self.shards}

    def load_state_dict(self, state: State) -> None:
        assert state == self.state_dict()


def mixed(shards: tuple[int, ...], *, own: int = 3, shown: int = 2, **options: Any) -> tuple[WithDemos, Own]:
    demos = demonstrations()
    size = len(shards) * (own + shown)
    updates = options.get("updates", 1)
    memory, sampler = store(demos, {s: s for s in shards}, batch=len(shards) * shown, updates=updates)
    replay = Own(shards, own, **options)
    return WithDemos(replay, memory, sampler, size), replay


@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("updates", [1, 3])
def test_the_last_rows_of_every_shard_are_demonstrations(weighed: bool, updates: int) -> None:
    replay, _ = mixed((4, 5), weighed=weighed, updates=updates)
    batches = list(replay.batches(1))
    assert len(batches) == updates
    for batch in batches:
        assert batch.index.tolist() == [400, 401, 402, -1, -1, 500, 501, 502, -1, -1]
        assert batch.expert is not None
        assert torch.equal(batch.expert, batch.index == -1)
        own = ~batch.expert
        assert torch.equal(batch.ret[own], batch.index[own].double())
        assert torch.equal(batch.obs[own, 0], batch.index[own].float())
        assert (batch.obs[batch.expert, 0] < 100).all()
        if not weighed:
            assert batch.probability is None
            continue
        assert batch.probability is not None
        torch.testing.assert_close(batch.probability[own], 0.6 / (2 + batch.index[own].double()))
        torch.testing.assert_close(batch.probability[batch.expert], torch.full((4,), 0.4 / sum(LENGTHS)).double())


def test_two_ranks_draw_what_one_draws() -> None:
    whole, _ = mixed((0, 1), updates=2)
    parts = [mixed((shard,), updates=2)[0] for shard in (0, 1)]
    for both, first, second in zip(*(replay.batches(1) for replay in (whole, *parts)), strict=True):
        for joined, a, b in zip(both, first, second, strict=True):
            assert (joined is None) == (a is None)
            assert joined is None or torch.equal(joined, torch.cat((a, b)))
    lesson, halves = whole.lesson(), [part.lesson() for part in parts]
    assert lesson.expert is not None
    assert lesson.expert.all()
    assert torch.equal(lesson.obs, torch.cat([half.obs for half in halves]))


def test_priorities_go_back_to_the_runs_own_transitions_alone() -> None:
    replay, own = mixed((0, 1))
    (batch,) = replay.batches(1)
    replay.reprioritize(batch.index, UpdateOut(torch.arange(10.0), torch.tensor(9.0)))
    ((index, result),) = own.told
    assert index.tolist() == [0, 1, 2, 100, 101, 102]
    assert result.priority.tolist() == [0, 1, 2, 5, 6, 7]
    assert result.highest == 9


def test_fields_that_demonstrations_lack_are_filled_in() -> None:
    replay, _ = mixed((0, 1))
    (batch,) = Own((0, 1), 3).batches(1)
    mask = torch.zeros(6, 5, dtype=torch.bool)
    shown = next(replay.demos.batches(1))
    joined = replay._join(batch._replace(mask=mask), shown)
    assert joined.mask is not None
    assert joined.expert is not None
    assert torch.equal(joined.mask.all(1), joined.expert)


def test_it_waits_cuts_and_adds_as_the_runs_own_memory_does() -> None:
    replay, own = mixed((0,))
    before = replay.sampler.state_dict()["0"]["generator"].clone()
    replay.wait_until(5)
    replay.cut()
    no = torch.zeros(1, dtype=torch.bool)
    timestep = Timestep(torch.zeros(1, 2), torch.zeros(1), no, no, no, no, torch.zeros(1, 2))
    replay.add(timestep, Choice(torch.zeros(1, dtype=torch.int64)), timestep)
    assert (own.waits, own.cuts, own.added) == (5, 1, 1)
    assert not list(replay.batches(4))
    assert torch.equal(before, replay.sampler.state_dict()["0"]["generator"])
    assert len(list(replay.batches(5))) == 1


def test_a_loaded_state_draws_the_same() -> None:
    replay, fresh = mixed((0, 1))[0], mixed((0, 1))[0]
    for _ in range(3):
        list(replay.batches(1))
    saved = {shard: {"own": part["own"], "demos": {"generator": part["demos"]["generator"].clone()}}
             for shard, part in replay.state_dict().items()}  # fmt: skip
    expected = next(replay.batches(1))
    assert not torch.equal(next(fresh.batches(1)).obs, expected.obs)
    fresh.load_state_dict(saved)
    assert torch.equal(next(fresh.batches(1)).obs, expected.obs)
