"""A made-up vector environment and a replay memory that stores everything whole: slow, obvious, our reference."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trainer.replay import ReplayMemory
from trainer.types import Choice, Timestep

FRAME = (2, 3)


class FakeEnvs:
    """N lanes of random episodes whose every frame is unique, in the normal form of either autoreset mode."""

    def __init__(self, lanes: int, mode: str, stack: int, pad: str, seed: int, ends: float = 0.12) -> None:
        self.lanes, self.mode, self.stack, self.pad, self.ends = lanes, mode, stack, pad, ends
        self.rng = np.random.default_rng(seed)
        self.count = 0
        self.stacks: list[deque[Tensor]] = [deque(maxlen=stack) for _ in range(lanes)]
        self.pending = [False] * lanes

    def frame(self) -> Tensor:
        self.count += 1
        return torch.arange(6, dtype=torch.float32).view(FRAME) / 8 + self.count

    def open(self, lane: int) -> None:
        first = self.frame()
        self.stacks[lane].clear()
        for _ in range(self.stack - 1):
            self.stacks[lane].append(first if self.pad == "repeat" else torch.zeros(FRAME))
        self.stacks[lane].append(first)

    def observe(self) -> Tensor:
        """[N, stack, 2, 3], or [N, 2, 3] without a stack."""
        stacks = [torch.stack(list(s)) for s in self.stacks]
        return torch.stack(stacks if self.stack > 1 else [s[0] for s in stacks])

    def restart(self) -> Timestep:
        """Begin new episodes everywhere, as after a resume of environments that cannot save their state."""
        self.pending = [False] * self.lanes
        for lane in range(self.lanes):
            self.open(lane)
        obs, no = self.observe(), torch.zeros(self.lanes, dtype=torch.bool)
        return Timestep(obs, torch.zeros(self.lanes), no, no, no, ~no, obs)

    def step(self) -> Timestep:
        n = self.lanes
        reward = torch.zeros(n)
        term, trunc, life, reset = (torch.zeros(n, dtype=torch.bool) for _ in range(4))
        for lane in range(n):
            if self.pending[lane]:
                reset[lane], self.pending[lane] = True, False
                self.open(lane)
                continue
            self.stacks[lane].append(self.frame())
            reward[lane] = float(self.rng.integers(-8, 9)) / 4
            draw = self.rng.random()
            term[lane] = draw < self.ends
            trunc[lane] = self.ends / 2 < draw < 1.6 * self.ends  # sometimes both
            life[lane] = self.rng.random() < 0.08 or (bool(term[lane]) and self.rng.random() < 0.3)
        done = term | trunc
        final = self.observe()
        if self.mode == "next_step":
            self.pending = done.tolist()
            return Timestep(final, reward, term, trunc, life, reset, final)
        for lane in range(n):
            if done[lane]:
                self.open(lane)
        return Timestep(self.observe(), reward, term, trunc, life, reset, final)


@dataclass
class Transition:
    obs: Tensor
    action: int
    reward: float
    terminal: bool
    stop: bool
    done: bool
    next_obs: Tensor
    row: int  # where the ring's documented layout puts it, counted without wrapping


@dataclass
class NaiveReplay:
    """Per lane a list of whole transitions, never forgotten; `alive` derives the ring's rule from first principles."""

    lanes: int
    horizon: int
    gamma: float
    rows: int
    stack: int
    kept: list[list[Transition]] = field(default_factory=list)
    cursor: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kept = [[] for _ in range(self.lanes)]
        self.cursor = [0] * self.lanes

    def add(self, timestep: Timestep, choice: Choice, after: Timestep) -> None:
        for lane in range(self.lanes):
            if after.reset[lane]:
                continue
            terminated, truncated = bool(after.terminated[lane]), bool(after.truncated[lane])
            life_lost = bool(after.life_lost[lane])
            self.kept[lane].append(
                Transition(
                    obs=timestep.obs[lane].clone(),
                    action=int(choice.action[lane]),
                    reward=float(after.reward[lane]),
                    terminal=terminated or life_lost,
                    stop=terminated or truncated or life_lost,
                    done=terminated or truncated,
                    next_obs=after.final_obs[lane].clone(),
                    row=self.cursor[lane],
                )
            )
            # an episode of L transitions takes L + 1 rows
            self.cursor[lane] += 2 if terminated or truncated else 1

    def cut(self) -> None:
        for lane, kept in enumerate(self.kept):
            if kept and not kept[-1].stop:
                kept[-1].stop = kept[-1].done = True
                self.cursor[lane] += 1

    def fold(self, lane: int, number: int) -> tuple[float, float, Tensor] | None:
        """(ret, discount, next_obs) of one transition in float64; None while its window is not complete."""
        ret, scale = 0.0, 1.0
        window = self.kept[lane][number : number + self.horizon]
        for i, part in enumerate(window):
            ret += scale * part.reward
            scale *= self.gamma
            if part.terminal:
                return ret, 0.0, part.next_obs
            if part.stop or i == self.horizon - 1:
                return ret, scale, part.next_obs
        return None

    def alive(self, lane: int) -> range:
        """What must be sampled: complete windows, less those that the next `add` (rows cursor, cursor + 1) damages.

        A transition needs the rows of its whole stack, stack - 1 before its own.
        """
        kept = self.kept[lane]
        mature = [k for k in range(len(kept)) if self.fold(lane, k) is not None]
        safe = [k for k in mature if kept[k].row - (self.stack - 1) > self.cursor[lane] + 1 - self.rows]
        return range(safe[0], safe[-1] + 1) if safe else range(0)


class Player:
    """Feeds the same random experience to any number of memories."""

    def __init__(self, envs: FakeEnvs) -> None:
        self.envs, self.timestep, self.steps = envs, envs.restart(), 0

    def play(self, steps: int, *memories: ReplayMemory | NaiveReplay) -> None:
        for _ in range(steps):
            self.steps += 1
            choice = Choice((torch.arange(self.envs.lanes) * 7 + self.steps) % 5)
            after = self.envs.step()
            for memory in memories:
                memory.add(self.timestep, choice, after)
            self.timestep = after

    def restart(self, *memories: ReplayMemory | NaiveReplay) -> None:
        for memory in memories:
            memory.cut()
        self.timestep = self.envs.restart()
