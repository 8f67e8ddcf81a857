"""Sequence replay in lists: whole transitions and states, cut as documented; the reference for ours."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from replay_twin import FRAME, FakeEnvs, NaiveReplay
from torch import Tensor

from trainer.replay import Frames, Ring, SequenceBook, SequenceMemory
from trainer.types import Choice, Sequences, Timestep

GAMMA, WIDTH, A = 0.75, 3, 5
CPU = torch.device("cpu")


class Shape(NamedTuple):
    """How episodes are cut."""

    length: int = 4
    burn_in: int = 2
    stride: int = 3
    horizon: int = 2
    stack: int = 1
    pad: str = "repeat"


def make(
    shape: Shape,
    rows: int,
    lanes: int = 3,
    *,
    shards: tuple[int, ...] = (0,),
    of: int | None = None,
    batch: int = 6,
    alpha: float = 0.9,
    clip: bool = False,
    width: int = WIDTH,
) -> SequenceMemory:
    """A memory; shards: the numbers of its own; of: shards of the whole run."""
    obs_shape = (shape.stack, *FRAME) if shape.stack > 1 else FRAME
    frames = Frames(obs_shape, shape.stack, shape.pad)  # type: ignore[arg-type]
    ring = Ring(rows, lanes, frames.frame_shape, torch.float32, horizon=shape.horizon, stack=shape.stack, device=CPU)
    cut = {"length": shape.length, "burn_in": shape.burn_in, "stride": shape.stride, "horizon": shape.horizon}
    return SequenceMemory(
        ring,
        frames,
        SequenceBook(rows, lanes, **cut, width=width, dtype=torch.float64, device=CPU),
        {shard: torch.Generator().manual_seed(shard) for shard in shards},
        shards=of or len(shards),
        updates=lambda step: 1,
        batch_size=batch,
        gamma=GAMMA,
        alpha=alpha,
        clip_reward=clip,
        dtype=torch.float64,
        device=CPU,
    )


def rows_for(shape: Shape, more: int = 0) -> int:
    """The rows that `Layout` gives the smallest capacity that `validate` lets pass."""
    window = shape.burn_in + shape.length + shape.horizon + shape.stride
    return window + more + shape.horizon + shape.stack + 4


class Known(NamedTuple):
    """One sequence, from first principles."""

    first: int  # transition of its lane
    offset: int  # steps of its episode before it
    warm: bool
    span: int  # transitions


class NaiveSequences:
    """Whole transitions and states in lists, cut as `SequenceBook` documents; nothing is ever forgotten here."""

    def __init__(self, shape: Shape, rows: int, lanes: int) -> None:
        self.shape, self.rows = shape, rows
        self.most = 2 * math.ceil(rows / shape.stride) + 2  # that a lane keeps
        self.replay = NaiveReplay(lanes, shape.horizon, GAMMA, rows, shape.stack)
        self.states: list[list[Tensor]] = [[] for _ in range(lanes)]

    def add(self, timestep: Timestep, choice: Choice, after: Timestep) -> None:
        self.replay.add(timestep, choice, after)
        assert choice.state is not None
        for lane in range(len(self.states)):
            if not after.reset[lane]:
                self.states[lane].append(choice.state[lane].clone())

    def cut(self) -> None:
        self.replay.cut()
        for kept in filter(None, self.replay.kept):
            kept[-1].done = True  # also after a lost life, where the last observation counts for nothing

    def episodes(self, lane: int) -> list[range]:
        """Numbers of the transitions of each episode."""
        kept, begin, found = self.replay.kept[lane], 0, []
        for number, transition in enumerate(kept):
            if transition.done:
                found.append(range(begin, number + 1))
                begin = number + 1
        return [*found, range(begin, len(kept))] if begin < len(kept) else found

    def alive(self, lane: int) -> list[Known]:
        """What must be in the book, in the order in which it entered."""
        return [known for known in self.entered(lane)[-self.most :] if self.safe(lane, known)]

    def entered(self, lane: int) -> list[Known]:
        """What was ever written into the book."""
        found, kept = [], self.replay.kept[lane]
        for episode in self.episodes(lane):
            done = kept[episode[-1]].done
            beginnings = [(0, False)]
            if self.shape.burn_in:
                beginnings += [(offset, True) for offset in range(0, len(episode), self.shape.stride)]
            else:
                beginnings += [(offset, False) for offset in range(self.shape.stride, len(episode), self.shape.stride)]
            for offset, warm in beginnings:
                skip, there = self.shape.burn_in * warm, len(episode) - offset
                whole = skip + self.shape.length + self.shape.horizon - 1
                if there >= whole or (done and there > skip):
                    found.append(Known(episode[0] + offset, offset, warm, min(there, whole)))
        return found

    def safe(self, lane: int, known: Known) -> bool:
        """Whether all rows that it needs outlive the next `add`: its stack's, and one for the last action."""
        kept, replay = self.replay.kept[lane], self.replay
        needs = kept[known.first - (known.offset > 0)].row - (self.shape.stack - 1)
        return needs > replay.cursor[lane] + 1 - replay.rows

    def check(self, lane: int, known: Known, batch: Sequences, b: int) -> int:
        """Assert that row b of a batch is this sequence; return how many of its steps learn."""
        kept, shape, learning = self.replay.kept[lane], self.shape, 0
        assert bool(batch.warm[b]) == known.warm
        assert torch.equal(batch.state[b], self.states[lane][known.first])
        for column in range(shape.burn_in + shape.length + shape.horizon):
            where = column - (0 if known.warm else shape.burn_in)
            at = min(max(where, 0), known.span)
            number = known.first + at
            obs = kept[number].obs if at < known.span else kept[number - 1].next_obs
            assert torch.equal(batch.obs[b, column], obs) or (at == known.span and kept[number - 1].terminal)
            opens = known.offset + at == 0
            assert int(batch.last_action[b, column]) == (0 if opens else kept[number - 1].action)
            assert float(batch.last_reward[b, column]) == (0 if opens else kept[number - 1].reward)
            learns = 0 <= column - shape.burn_in < shape.length and where < known.span
            assert bool(batch.learns[b, column]) == learns
            if not learns:
                continue
            learning += 1
            fold = self.replay.fold(lane, number)
            assert fold is not None
            ret, discount, next_obs = fold
            assert int(batch.action[b, column]) == kept[number].action
            assert float(batch.ret[b, column]) == ret
            assert float(batch.discount[b, column]) == discount
            assert torch.equal(batch.obs[b, column + int(batch.ahead[b, column])], next_obs) or discount == 0
        return learning


class Player:
    """Feeds the same random experience, with states that are all different, to any number of memories."""

    def __init__(self, envs: FakeEnvs, seed: int = 0) -> None:
        self.envs, self.timestep = envs, envs.restart()
        self.random = torch.Generator().manual_seed(seed)

    def play(self, steps: int, *memories: SequenceMemory | NaiveSequences) -> None:
        for _ in range(steps):
            action = torch.randint(0, A, (self.envs.lanes,), generator=self.random)
            state = torch.rand(self.envs.lanes, 2, WIDTH, generator=self.random, dtype=torch.float64)
            after = self.envs.step()
            for memory in memories:
                memory.add(self.timestep, Choice(action, state), after)
            self.timestep = after

    def restart(self, *memories: SequenceMemory | NaiveSequences) -> None:
        for memory in memories:
            memory.cut()
        self.timestep = self.envs.restart()


def alive(memory: SequenceMemory, lane: int) -> Tensor:
    """The slots of a lane's sequences that can be drawn, oldest first."""
    book = memory.book
    numbers = torch.arange(int(book.dead[lane]), int(book.entered[lane]))
    return lane * book.slots + numbers % book.slots


def assert_equals_twin(memory: SequenceMemory, naive: NaiveSequences) -> list[int]:
    """Compare all that can be drawn; return how many steps learn in each."""
    learning = []
    for lane in range(memory.ring.lanes):
        slots, known = alive(memory, lane), naive.alive(lane)
        assert len(slots) == len(known), f"lane {lane}"
        batch = memory.fetch(slots)
        learning += [naive.check(lane, each, batch, b) for b, each in enumerate(known)]
    drawn = torch.cat([alive(memory, lane) for lane in range(memory.ring.lanes)])
    assert sorted(weights(memory).nonzero().flatten().tolist()) == sorted(drawn.tolist())
    return learning


def weights(memory: SequenceMemory) -> Tensor:
    """What the tree holds for each flat slot."""
    return memory.tree.leaves[:, : memory.each].flatten()
