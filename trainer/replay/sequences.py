"""Sequence replay (R2D2, Kapturowski et al. 2019): a ring of rows, the book of its sequences, prioritized draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from trainer.replay.book import SequenceBook
from trainer.replay.draws import Uniform
from trainer.replay.frames import Frames
from trainer.replay.nstep import fold
from trainer.replay.prioritized import EPS
from trainer.replay.ring import STOP, TERMINAL, Ring, pick
from trainer.replay.tree import SumTree
from trainer.types import Choice, Sequences, State, Timestep, UpdateOut


class SequenceMemory:
    """Transitions and recurrent states in, batches of sequences out.

    Each shard contributes equally many sequences to a batch, sequence i with probability p_i / sum(p), p = (priority +
    eps)^alpha, stratified, as `PrioritizedSampler` does with transitions. generators: one stream per shard, in the
    order of the lanes; shards: of the whole run; updates: gradient steps due at a step, from the step alone;
    batch_size: sequences, of this rank; dtype: precision of returns and discounts; device: where batches go.
    """

    def __init__(
        self,
        ring: Ring,
        frames: Frames,
        book: SequenceBook,
        generators: Mapping[int, torch.Generator],
        *,
        shards: int,
        updates: Callable[[int], int],
        batch_size: int,
        gamma: float,
        alpha: float,
        clip_reward: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.ring, self.frames, self.book, self.generators = ring, frames, book, generators
        self.shards, self.updates, self.batch_size = shards, updates, batch_size
        self.gamma, self.alpha, self.clip_reward, self.dtype, self.device = gamma, alpha, clip_reward, dtype, device
        self.lanes_per_shard = ring.lanes // len(generators)
        self.each = self.lanes_per_shard * book.slots  # of a shard
        self.tree = SumTree(self.each, len(generators), ring.device)
        self.highest = torch.ones((), dtype=torch.float64, device=ring.device)  # priority so far, over all ranks
        # the steps that the columns of a batch hold, counted from the first learning step
        self._column = torch.arange(-book.burn_in, book.length + ring.horizon, device=ring.device)  # [L]
        self._window = torch.arange(ring.horizon, device=ring.device)
        self._uniform = Uniform(generators, ring.device)
        self._wait = 0

    def add(self, timestep: Timestep, choice: Choice, next_timestep: Timestep) -> None:
        """Store what happened between two timesteps, and the state before it where a sequence begins."""
        assert choice.state is not None, "needs a recurrent policy"
        now, after = self.ring.device, next_timestep
        happened, done = (~after.reset).to(now), (after.terminated | after.truncated).to(now)
        self.book.open(self.ring.head, choice.state.to(now), happened)
        self.ring.before_step()
        what = self.frames.happened(timestep, choice.action, after, now)
        self.frames.store(self.ring, what, clip_reward=self.clip_reward)
        self._follow(*self.book.advance(happened, done, self.ring.tail))

    def batches(self, step: int) -> Iterator[Sequences]:
        """Yield this step's batches, each drawn with the priorities left by the one before it."""
        if step < self._wait:
            return
        for _ in range(self.updates(step)):
            index, probability = self.sample()
            yield self.fetch(index)._replace(probability=probability.to(self.device))

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return the slots [B] of a batch, shard after shard, and the probability of each."""
        each = self.batch_size // len(self.generators)
        draws = self._uniform(each)
        leaf = self.tree.find((draws + torch.arange(each, device=draws.device)) / each).flatten()
        return leaf - leaf // self.tree.size * (self.tree.size - self.each), self.tree.share(leaf) / self.shards

    def fetch(self, index: Tensor) -> Sequences:
        """Return the sequences in slots [B], on the learner's device."""
        ring, book = self.ring, self.book
        lane, warm, offset = index // book.slots, book.warm[index], book.offset[index].long()
        skip, span = book.burn_in * warm, book.span[index]
        begin = ring.locate(book.number[index], lane)  # [B] row
        at = (self._column + skip[:, None]).clamp(min=0)  # [B, L] steps from the beginning
        learns = (self._column >= 0) & (self._column < book.length) & (at < span[:, None])
        at = torch.minimum(at, span[:, None])
        row = ring.shift(begin[:, None], at)
        flags, reward = (pick(field, ring.shift(row[..., None], self._window)) for field in (ring.flags, ring.reward))
        folds = fold(
            reward.to(self.dtype).flatten(0, 1),
            (flags & TERMINAL != 0).flatten(0, 1),
            (flags & STOP != 0).flatten(0, 1),
            self.gamma,
        )
        ret, discount, ahead = (part.view(row.shape).where(learns, 0) for part in folds)
        before, opens = ring.shift(row, -1), at + offset[:, None] == 0
        obs = self.frames.gather(ring, row.flatten())
        batch = Sequences(
            obs=obs.view(*row.shape, *obs.shape[1:]),
            last_action=pick(ring.action, before).long().masked_fill(opens, 0),
            last_reward=pick(ring.reward, before).to(self.dtype).masked_fill(opens, 0),
            action=pick(ring.action, row).long(),
            ret=ret,
            discount=discount,
            ahead=ahead,
            learns=learns,
            state=pick(book.state, index),
            warm=warm,
            index=index,
        )
        if ring.device == self.device:
            return batch
        return batch.map(lambda field: field.pin_memory().to(self.device, non_blocking=True))

    def reprioritize(self, index: Tensor, result: UpdateOut) -> None:
        """Take the new priorities of a batch; new sequences enter at the highest so far over all ranks."""
        assert result.highest is not None
        self.highest = torch.maximum(self.highest, result.highest.to(self.highest))
        leaf = self._leaf(index.to(self.ring.device))
        self.tree.set(leaf, self._weight(result.priority.to(self.highest)) * (self.tree.get(leaf) > 0))

    def _follow(self, slot: Tensor, enters: Tensor, dies: Tensor) -> None:
        """Make slots [M] drawable from now on, or no longer."""
        leaf = torch.where(enters | dies, self._leaf(slot), self.tree.dummy)
        self.tree.set(leaf, enters * self._weight(self.highest))

    def _weight(self, priority: Tensor) -> Tensor:
        weight: Tensor = (priority + EPS) ** self.alpha
        return weight

    def _leaf(self, slot: Tensor) -> Tensor:
        """Return the leaves of flat slots: those of a shard are contiguous."""
        return slot + slot // self.each * (self.tree.size - self.each)

    def wait_until(self, step: int) -> None:
        """Yield no batches before `step`, while an empty memory fills."""
        self._wait = step

    def cut(self) -> None:
        """Close every running episode as truncated."""
        self.ring.cut()
        self._follow(*self.book.cut(self.ring.tail))

    def state_dict(self) -> State:
        return self._state(self.ring.state_dict)

    def snapshot(self) -> State:
        """Return the same with the rows as `Blocks`."""
        return self._state(self.ring.snapshot)

    def _state(self, ring_state: Callable[[slice], State]) -> State:
        return {
            str(shard): {
                "ring": ring_state(self._lanes(i)),
                "book": self.book.state_dict(self._lanes(i)),
                "weight": self.tree.leaves[i, : self.each],
                "generator": generator.get_state(),
                "highest": self.highest,
            }
            for i, (shard, generator) in enumerate(self.generators.items())
        }

    def load_state_dict(self, state: State) -> None:
        self.highest = torch.stack([part["highest"] for part in state.values()]).max().to(self.ring.device)
        for i, (shard, generator) in enumerate(self.generators.items()):
            part = state[str(shard)]
            self.ring.load_state_dict(self._lanes(i), part["ring"])
            self.book.load_state_dict(self._lanes(i), part["book"])
            self.tree.load(i, part["weight"])
            generator.set_state(part["generator"])

    def _lanes(self, i: int) -> slice:
        return slice(i * self.lanes_per_shard, (i + 1) * self.lanes_per_shard)
