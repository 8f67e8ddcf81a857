"""Demonstrations in replay (DQfD, Hester et al. 2018): a store that never forgets, mixed into every batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.replay.draws import StreamSampler
from trainer.replay.frames import Frames
from trainer.replay.memory import ReplayMemory
from trainer.replay.ring import START, STOP, TERMINAL, Ring
from trainer.types import Batch, Choice, Replay, State, Timestep, UpdateOut


class Demonstrations(NamedTuple):
    """Whole episodes, one after another; S steps, E episodes."""

    obs: Tensor  # [S, *] in which the action was taken
    action: Tensor  # [S] int64
    reward: Tensor  # [S] float32, unclipped
    terminated: Tensor  # [S] bool
    truncated: Tensor  # [S] bool
    starts: Tensor  # [E] int64 first step of each episode
    final_obs: Tensor  # [E, *] after the last step of each episode

    @property
    def lengths(self) -> Tensor:
        """Steps of each episode, [E]."""
        return torch.diff(self.starts, append=torch.tensor([len(self.action)]))

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each episode, [E]."""
        total = torch.cat((torch.zeros(1, dtype=torch.float64), self.reward.double().cumsum(0)))
        return total[self.starts + self.lengths] - total[self.starts]


def demo_ring(
    demos: Demonstrations,
    frames: Frames,
    *,
    horizon: int,
    clip_reward: bool,
    device: torch.device,
    pin: bool = False,
) -> Ring:
    """Return a one-lane ring that holds all of `demos`, every n-step window complete."""
    steps, episodes = len(demos.action), len(demos.starts)
    rows = steps + episodes
    ring = Ring(
        rows + horizon + frames.stack + 4,
        1,
        frames.frame_shape,
        demos.obs.dtype,
        horizon=horizon,
        stack=frames.stack,
        device=device,
        pin=pin,
    )
    episode = torch.repeat_interleave(torch.arange(episodes), demos.lengths)  # [S]
    here = torch.arange(steps) + episode  # [S] one extra row for the end of each earlier episode
    ends = demos.starts + demos.lengths + torch.arange(episodes)  # [E]
    stop = demos.terminated | demos.truncated

    def spread(values: Tensor, finals: Tensor) -> Tensor:
        out = torch.zeros(rows, *values.shape[1:], dtype=values.dtype)
        out[here], out[ends] = values, finals
        return out[:, None]  # one lane

    count = torch.tensor([steps])
    flags = START + TERMINAL * demos.terminated.to(torch.uint8) + STOP * stop.to(torch.uint8)
    reward = demos.reward.clamp(-1, 1) if clip_reward else demos.reward
    nothing = torch.zeros(episodes)
    ring.load_state_dict(
        slice(0, 1),
        {
            "written": torch.tensor([rows]),
            "head": count,
            "mature": count,
            "tail": torch.zeros_like(count),
            "age_now": torch.zeros_like(count),
            "frames": spread(frames.newest(demos.obs), frames.newest(demos.final_obs)),
            "action": spread(demos.action.to(torch.int32), nothing.to(torch.int32)),
            "reward": spread(reward.float(), nothing),
            "flags": spread(flags.to(torch.uint8), nothing.to(torch.uint8)),
            "age": spread((torch.arange(steps) - demos.starts[episode]).int(), demos.lengths.int()),
            "slots": here.to(torch.int32)[:, None],
        },
    )
    return ring


class DemoSampler(StreamSampler):
    """Draws uniformly from all transitions of a one-lane ring that never changes, each shard with its own stream."""

    lanes_per_shard = 1

    def __init__(self, ring: Ring, transitions: int, generators: Mapping[int, torch.Generator]) -> None:
        super().__init__(ring, generators)
        self.transitions = transitions
        self._lane = torch.zeros((), dtype=torch.int64, device=ring.device)

    def index(self, draws: Tensor) -> Tensor:
        """Return flat ring indices, [updates, batch_size], shard after shard within a batch."""
        index = self.ring.locate((draws * self.transitions).long(), self._lane)
        return index.transpose(0, 1).flatten(1)


class WithDemos:
    """A `Replay` around another: the last rows of each shard's part of every batch are demonstrations.

    own: the run's memory, whose batches are smaller by that many; demos: yields `share` of a whole batch to go with
    each of those, and whole batches by `fetch`; batch_size: of this rank.
    """

    def __init__(self, own: Replay, demos: ReplayMemory, sampler: DemoSampler, batch_size: int) -> None:
        self.own, self.demos, self.sampler, self.batch_size = own, demos, sampler, batch_size
        self.shards = len(sampler.generators)
        self.own_each = (batch_size - demos.batch_size) // self.shards
        self.share = demos.batch_size / batch_size

    def add(self, timestep: Timestep, choice: Choice, next_timestep: Timestep) -> None:
        """Store what happened; the demonstrations do not change."""
        self.own.add(timestep, choice, next_timestep)

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this step's batches."""
        for own, demos in zip(self.own.batches(step), self.demos.batches(step), strict=False):
            yield self._join(own, demos)

    def lesson(self) -> Batch:
        """Return a batch of demonstrations alone."""
        index = self.sampler.index(self.sampler.draw(1, self.batch_size))[0]
        return self._marked(self.demos.fetch(index))

    def _join(self, own: Batch, demos: Batch) -> Batch:
        """Join two batches shard by shard.

        P of a demonstration is `share` divided by the number of demonstrations; P of the others is what their memory
        gives, times 1 - `share`. Without priorities there is no P: the share is intended, not to be weighted away.
        """
        shown = self._marked(demos)
        if own.probability is not None:
            even = torch.full_like(own.probability[:1], self.share / self.sampler.transitions)
            shown = shown._replace(probability=even.expand(len(shown.index)))
            own = own._replace(probability=own.probability * (1 - self.share))
        if own.mask is not None:  # every head of an ensemble learns from demonstrations
            shown = shown._replace(mask=own.mask.new_ones(len(shown.index), own.mask.shape[1]))
        own = own._replace(expert=torch.zeros_like(own.index, dtype=torch.bool))
        pairs: Any = zip(own, shown, strict=True)  # all tensors: no loss looks ahead where demonstrations are mixed in
        fields: Any = [None if mine is None else self._interleave(mine, theirs) for mine, theirs in pairs]
        return Batch(*fields)

    def _marked(self, demos: Batch) -> Batch:
        return demos._replace(
            index=torch.full_like(demos.index, -1), expert=torch.ones_like(demos.index, dtype=torch.bool)
        )

    def _interleave(self, mine: Tensor, theirs: Tensor | None) -> Tensor:
        assert theirs is not None, "demonstrations lack what the run's own transitions have: config should refuse it"
        parts = [field.view(self.shards, -1, *field.shape[1:]) for field in (mine, theirs)]
        return torch.cat(parts, 1).flatten(0, 1)

    def _own_rows(self, field: Tensor) -> Tensor:
        """Return the rows that are not demonstrations, [B, ...] -> [b, ...], by their position."""
        return field.view(self.shards, -1, *field.shape[1:])[:, : self.own_each].flatten(0, 1)

    def reprioritize(self, index: Tensor, result: UpdateOut) -> None:
        """Give the run's own memory the new priorities of its transitions."""
        self.own.reprioritize(self._own_rows(index), result._replace(priority=self._own_rows(result.priority)))

    def wait_until(self, step: int) -> None:
        self.own.wait_until(step)

    def cut(self) -> None:
        self.own.cut()

    def state_dict(self) -> State:
        """Return the state of the run's own memory and of the streams: the demonstrations come from their file."""
        return self._beside(self.own.state_dict())

    def snapshot(self) -> State:
        """Return the same with large parts as `Blocks`."""
        return self._beside(self.own.snapshot())

    def _beside(self, own: State) -> State:
        streams = self.sampler.state_dict()
        return {shard: {"own": own[shard], "demos": streams[shard]} for shard in streams}

    def load_state_dict(self, state: State) -> None:
        self.own.load_state_dict({shard: part["own"] for shard, part in state.items()})
        self.sampler.load_state_dict({shard: part["demos"] for shard, part in state.items()})
