"""The replay memory of one rank: storage, frame stacks, n-step fold and sampler, composed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trainer.replay.frames import Frames
from trainer.replay.nstep import fold
from trainer.replay.ring import STOP, TERMINAL, Ring, pick
from trainer.replay.uniform import UniformSampler
from trainer.types import Batch, Choice, State, Timestep, UpdateOut


class ReplayMemory:
    """Transitions in, batches out.

    updates: how many gradient steps belong to a step, from the step alone; batch_size: of this rank;
    dtype: precision of returns and discounts; device: where batches go.
    """

    def __init__(
        self,
        ring: Ring,
        frames: Frames,
        sampler: UniformSampler,
        *,
        updates: Callable[[int], int],
        batch_size: int,
        gamma: float,
        clip_reward: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.ring, self.frames, self.sampler = ring, frames, sampler
        self.updates, self.batch_size, self.gamma = updates, batch_size, gamma
        self.clip_reward, self.dtype, self.device = clip_reward, dtype, device
        self._window = torch.arange(ring.horizon, device=ring.device)
        self._shards = list(sampler.generators)
        self._wait = 0

    def add(self, timestep: Timestep, choice: Choice, next_timestep: Timestep) -> None:
        """Store what happened between two timesteps; rows that an autoreset made are no transitions."""
        now = self.ring.device
        after = next_timestep
        reward = after.reward.clamp(-1, 1) if self.clip_reward else after.reward
        self.ring.add(
            self.frames.newest(timestep.obs).to(now),
            choice.action.to(now),
            reward.to(now),
            terminal=(after.terminated | after.life_lost).to(now),
            done=(after.terminated | after.truncated).to(now),
            life_lost=after.life_lost.to(now),
            reset=after.reset.to(now),
            next_frame=self.frames.newest(after.final_obs).to(now),
        )

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this step's batches; one gather serves all of them."""
        count = self.updates(step)
        if count == 0 or step < self._wait:
            return
        index = self.sampler.sample(count, self.batch_size)
        everything = self.fetch(index.flatten())
        if count == 1:
            yield everything
            return
        fields = [[None] * count if field is None else torch.split(field, self.batch_size) for field in everything]
        yield from (Batch(*parts) for parts in zip(*fields, strict=True))

    def fetch(self, index: Tensor) -> Batch:
        """Return the transitions at flat ring indices [K], folded, on the learner's device."""
        ring = self.ring
        window = ring.shift(index[:, None], self._window)  # [K, n]
        flags = pick(ring.flags, window)
        reward = pick(ring.reward, window).to(self.dtype)
        ret, discount, length = fold(reward, flags & TERMINAL != 0, flags & STOP != 0, self.gamma)
        batch = Batch(
            obs=self.frames.gather(ring, index),
            action=pick(ring.action, index).long(),
            ret=ret,
            discount=discount,
            next_obs=self.frames.gather(ring, ring.shift(index, length)),
            index=index,
        )
        if ring.device == self.device:
            return batch
        return batch.map(lambda field: field.pin_memory().to(self.device, non_blocking=True))

    def reprioritize(self, index: Tensor, result: UpdateOut) -> None:
        """Do nothing: uniform sampling has no priorities."""

    def wait_until(self, step: int) -> None:
        """Yield no batches before `step`, while an empty memory fills."""
        self._wait = step

    def cut(self) -> None:
        """Close every running episode as truncated."""
        self.ring.cut()

    def state_dict(self) -> State:
        streams = self.sampler.state_dict()
        return {
            str(shard): {"ring": self.ring.state_dict(self._lanes(i)), "sampler": streams[str(shard)]}
            for i, shard in enumerate(self._shards)
        }

    def load_state_dict(self, state: State) -> None:
        for i, shard in enumerate(self._shards):
            self.ring.load_state_dict(self._lanes(i), state[str(shard)]["ring"])
        self.sampler.load_state_dict({shard: part["sampler"] for shard, part in state.items()})

    def _lanes(self, i: int) -> slice:
        per = self.sampler.lanes_per_shard
        return slice(i * per, (i + 1) * per)
