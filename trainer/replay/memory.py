"""The replay memory of one rank: storage, frame stacks, n-step fold and sampler, composed.

Storing and drawing are two functions of tensors alone, `store` and `chosen`, so that each can be one compiled graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from trainer.replay.frames import Frames, Happened
from trainer.replay.heads import HeadMask
from trainer.replay.nstep import fold
from trainer.replay.prioritized import PrioritizedSampler
from trainer.replay.ring import START, STOP, TERMINAL, Ring, pick
from trainer.types import Batch, Choice, Future, State, Stateful, Timestep, UpdateOut


class Sampler(Stateful, Protocol):
    """Decides which transitions a batch is made of."""

    @property
    def generators(self) -> Mapping[int, torch.Generator]:
        """One random stream per shard, in the order of the shards' lanes."""

    @property
    def lanes_per_shard(self) -> int: ...

    def draw(self, updates: int, batch_size: int) -> Tensor:
        """Return the random numbers for `updates` batches, [S, updates, batch_size / S]."""

    def index(self, draws: Tensor) -> Tensor:
        """Return flat ring indices, [updates, batch_size], shard after shard within a batch."""

    def buffers(self) -> list[Tensor]:
        """Return every tensor that ever changes, except the ring's."""

    def over(self, ring: Ring, buffers: Iterator[Tensor]) -> Self:
        """Return the same sampler over another ring and other buffers, taking as many as it needs."""


class ReplayMemory:
    """Transitions in, batches out.

    updates: gradient steps due at a step, from the step alone; batch_size: of this rank;
    dtype: precision of returns and discounts; device: where batches go; future: steps of `Batch.future`;
    task: [N] which task each lane belongs to, in multi-task training; heads: which heads of an ensemble learn from
    what; next_action: whether batches hold the action taken in next_obs; the ring's horizon must then be n + 1.
    """

    def __init__(
        self,
        ring: Ring,
        frames: Frames,
        sampler: Sampler,
        *,
        updates: Callable[[int], int],
        batch_size: int,
        gamma: float,
        clip_reward: bool,
        dtype: torch.dtype,
        device: torch.device,
        future: int = 0,
        task: Tensor | None = None,
        heads: HeadMask | None = None,
        next_action: bool = False,
    ) -> None:
        self.ring, self.frames, self.sampler = ring, frames, sampler
        self.updates, self.batch_size, self.gamma = updates, batch_size, gamma
        self.clip_reward, self.dtype, self.device = clip_reward, dtype, device
        self._priorities = sampler if isinstance(sampler, PrioritizedSampler) else None
        self._window = torch.arange(ring.horizon - next_action, device=ring.device)
        self._ahead = torch.arange(future, device=ring.device)
        self._task, self._heads, self._next_action = task, heads, next_action
        self._shards = list(sampler.generators)
        self._wait = 0

    def add(self, timestep: Timestep, choice: Choice, next_timestep: Timestep) -> None:
        """Store what happened between two timesteps; rows made by an autoreset are not transitions."""
        self.ring.before_step()
        self.store(*self.frames.happened(timestep, choice.action, next_timestep, self.ring.device))

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this step's batches; one gather serves all of them, unless each changes the priorities of the next."""
        count = self.updates(step)
        if count == 0 or step < self._wait:
            return
        for together in [count] if self._priorities is None else [1] * count:
            yield from self.drawn(self.sampler.draw(together, self.batch_size))

    def reprioritize(self, index: Tensor, result: UpdateOut) -> None:
        """Take the new priorities of a batch; uniform sampling has none."""
        if self._priorities is not None:
            assert result.highest is not None, "only uniform sampling does without"
            here = self.ring.device
            self._priorities.reprioritize(index.to(here), result.priority.to(here), result.highest.to(here))

    def store(self, *happened: Tensor) -> None:
        """Write what happened, the fields of `Happened`, after `ring.before_step`."""
        self.frames.store(self.ring, Happened(*happened), clip_reward=self.clip_reward)
        if self._priorities is not None:
            self._priorities.follow()

    def drawn(self, draws: Tensor) -> list[Batch]:
        """Return the batches chosen by random numbers [S, updates, K], on the learner's device."""
        return [self.developed(batch) for batch in self.chosen(draws)]

    def chosen(self, draws: Tensor) -> list[Batch]:
        """Return the same, not `developed`; one gather serves all of them."""
        return apart(self.together(draws), draws.shape[1])

    def together(self, draws: Tensor) -> Batch:
        """Return all those batches as one."""
        return self.transitions(self.sampler.index(draws).flatten())

    def buffers(self) -> list[Tensor]:
        """Return every tensor that ever changes."""
        return [*self.ring.buffers(), *self.sampler.buffers()]

    def over(self, buffers: Sequence[Tensor]) -> Self:
        """Return the same memory over other buffers."""
        other, rest = copy.copy(self), iter(buffers)
        other.ring = self.ring.over(rest)
        other.sampler = self.sampler.over(other.ring, rest)
        other._priorities = other.sampler if isinstance(other.sampler, PrioritizedSampler) else None
        return other

    def fetch(self, index: Tensor) -> Batch:
        """Return the transitions at flat ring indices [K], folded, on the learner's device."""
        return self.developed(self.transitions(index))

    def transitions(self, index: Tensor) -> Batch:
        """Return the transitions at flat ring indices [K], not `developed`: stacks of frames as rows of the ring.

        Copying whole rows is fast, but not in a compiled graph, which copies them element by element.
        """
        ring, frames = self.ring, self.frames
        ret, discount, after = self._fold(index)
        if frames.stack == 1:
            obs, next_obs = frames.gather(ring, index), frames.gather(ring, after)
        else:
            obs, next_obs = frames.rows_around(ring, index, after, steps=len(self._window)), after
        return Batch(
            obs=obs,
            action=pick(ring.action, index).long(),
            ret=ret,
            discount=discount,
            next_obs=next_obs,
            index=index,
            probability=None if self._priorities is None else self._priorities.probability(index),
            next_action=self._action_in(after) if self._next_action else None,
            mask=None if self._heads is None else self._heads(index),
            future=self._follow(index) if len(self._ahead) else None,
            task=None if self._task is None else pick(self._task, index % ring.lanes),
        )

    def developed(self, batch: Batch) -> Batch:
        """Return transitions with stacks of frames in place of rows, on the learner's device."""
        ring, stack = self.ring, self.frames.stack
        if stack > 1:
            batch = batch._replace(obs=pick(ring.frames, batch.obs))  # [K, R, *frame]
            if (future := batch.future) is not None:
                batch = batch._replace(future=future._replace(obs=pick(ring.frames, future.obs)))
        if ring.device != self.device:
            batch = batch.map(lambda field: field.pin_memory().to(self.device, non_blocking=True))
        if stack == 1:
            return batch
        return batch._replace(obs=batch.obs[:, :stack], next_obs=batch.obs[:, -stack:])

    def _fold(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return n-step returns, discounts, and where the windows that begin at flat ring indices [K] end."""
        ring = self.ring
        if len(self._window) == 1:  # the same numbers as below, in half as many operations
            terminal = pick(ring.flags, index) & TERMINAL != 0
            ret = pick(ring.reward, index).to(self.dtype)
            return ret, torch.full_like(ret, self.gamma).masked_fill_(terminal, 0), ring.shift(index, 1)
        window = ring.shift(index[:, None], self._window)  # [K, n]
        flags = pick(ring.flags, window)
        reward = pick(ring.reward, window).to(self.dtype)
        ret, discount, length = fold(reward, flags & TERMINAL != 0, flags & STOP != 0, self.gamma)
        return ret, discount, ring.shift(index, length)

    def _action_in(self, index: Tensor) -> Tensor:
        """Return the actions taken in the observations at flat ring indices [K]; -1 where an episode ended there."""
        return torch.where(pick(self.ring.flags, index) & START != 0, pick(self.ring.action, index).long(), -1)

    def _follow(self, index: Tensor) -> Future:
        """Return the steps that follow the transitions at flat ring indices [K].

        A chain of rows that start transitions ends at the row being written, so older rows are never taken for future.
        """
        ring = self.ring
        window = ring.shift(index[:, None], self._ahead)  # [K, F]
        flags = pick(ring.flags, window)
        goes_on = (flags[:, :-1] & STOP == 0) & (flags[:, 1:] & START != 0)
        valid = torch.cat((torch.ones_like(flags[:, :1], dtype=torch.bool), goes_on), 1).cumprod(1).bool()
        after = ring.shift(window, 1)
        rows = self.frames.rows(ring, after.flatten())
        obs = rows if self.frames.stack > 1 else pick(ring.frames, rows)
        return Future(obs.view(*after.shape, *obs.shape[1:]), pick(ring.action, window).long(), valid)

    def wait_until(self, step: int) -> None:
        """Yield no batches before `step`, while an empty memory fills."""
        self._wait = step

    def cut(self) -> None:
        """Close every running episode as truncated."""
        self.ring.cut()
        if self._priorities is not None:
            self._priorities.follow()

    def state_dict(self) -> State:
        return self._state(self.ring.state_dict)

    def snapshot(self) -> State:
        """Return the same with the rows as `Blocks`."""
        return self._state(self.ring.snapshot)

    def _state(self, ring_state: Callable[[slice], State]) -> State:
        streams = self.sampler.state_dict()
        return {
            str(shard): {"ring": ring_state(self._lanes(i)), "sampler": streams[str(shard)]}
            for i, shard in enumerate(self._shards)
        }

    def load_state_dict(self, state: State) -> None:
        for i, shard in enumerate(self._shards):
            self.ring.load_state_dict(self._lanes(i), state[str(shard)]["ring"])
        self.sampler.load_state_dict({shard: part["sampler"] for shard, part in state.items()})

    def _lanes(self, i: int) -> slice:
        per = self.sampler.lanes_per_shard
        return slice(i * per, (i + 1) * per)


def apart(together: Batch, count: int) -> list[Batch]:
    """Return equal batches, one after the other, as views."""
    if count == 1:
        return [together]
    size = len(together.index) // count
    return [_rows(together, begin, size) for begin in range(0, count * size, size)]


def _rows(batch: Batch, begin: int, count: int) -> Batch:
    return batch.map(lambda field: field.narrow(0, begin, count))
