"""PQN's memory: the last rollout and nothing older, with the Q(lambda) returns of all its transitions.

Parallelised Q-network (Gallici et al. 2025) needs neither a replay memory nor a target network: when a rollout is
complete, the online network evaluates all its successors at once, and Q is regressed on the resulting returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from trainer.types import Batch, Choice, State, Timestep, UpdateOut

VALUE_ROWS = 1024
"""Observations evaluated at a time."""
_FIELDS = ("obs", "next_obs", "action", "reward", "terminal", "stop", "happened")


def q_lambda(reward: Tensor, value: Tensor, terminal: Tensor, stop: Tensor, gamma: float, trace: float) -> Tensor:
    """Return the targets R_t = r_t + gamma (trace R_{t+1} + (1 - trace) max_a Q(s_{t+1}, a)), [N, T].

    Peng's Q(lambda), which PQN uses (Gallici et al. 2025, section 4.1): exploratory actions do not cut the trace.
    Nothing follows a `terminal` transition. At a `stop`, where an episode was cut, and at the end of the rollout the
    value of the true successor alone follows.
    reward, value: [N, T], value[t] of the successor of t; terminal, stop: [N, T] bool, stop wherever an episode ends.
    """
    ret = torch.empty_like(reward)
    onward = gamma * (~terminal).to(reward.dtype)
    ahead = value[:, -1]
    for t in range(reward.shape[1] - 1, -1, -1):
        ahead = torch.where(stop[:, t], value[:, t], torch.lerp(value[:, t], ahead, trace))
        ahead = reward[:, t] + onward[:, t] * ahead
        ret[:, t] = ahead
    return ret


class RolloutMemory:
    """`types.Replay`: `steps` transitions of every environment in, all of them out `epochs` times, in minibatches.

    values: max_a Q(obs, a) of the online network, (obs [B, *], task [B] or None) -> [B], on the learner's device;
    generators: one random stream per shard, in the order of the shards' lanes, on the storage's device; updates:
    gradient steps due at a step, from the step alone; batch_size: of this rank, drawn equally from every shard;
    resets: whether rows may be resets (NEXT_STEP autoreset), which are not transitions: batches then have a mask, and
    keep their shapes; task: [N] which task each lane belongs to, in multi-task training, on the storage's device.
    """

    def __init__(
        self,
        steps: int,
        lanes: int,
        obs_shape: tuple[int, ...],
        obs_dtype: torch.dtype,
        generators: Mapping[int, torch.Generator],
        values: Callable[[Tensor, Tensor | None], Tensor],
        *,
        updates: Callable[[int], int],
        batch_size: int,
        epochs: int,
        gamma: float,
        trace: float,
        clip_reward: bool,
        resets: bool,
        dtype: torch.dtype,
        storage: torch.device,
        device: torch.device,
        task: Tensor | None = None,
    ) -> None:
        self.steps, self.generators, self.values = steps, generators, values
        self.updates, self.batch_size, self.epochs = updates, batch_size, epochs
        self.gamma, self.trace, self.clip_reward, self.resets = gamma, trace, clip_reward, resets
        self.dtype, self.device = dtype, device
        self._lanes_per_shard = lanes // len(generators)

        def field(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(lanes, steps, *shape, dtype=dtype, device=storage)

        self.obs = field(obs_dtype, *obs_shape)  # [N, T, *], so that a shard's transitions are contiguous
        self.next_obs = field(obs_dtype, *obs_shape)
        self.action = field(torch.int64)
        self.reward = field(torch.float32)
        self.terminal = field(torch.bool)  # nothing follows
        self.stop = field(torch.bool)  # the next row belongs to another episode, or life
        self.happened = field(torch.bool)  # whether it is a transition
        self.filled = 0  # steps of the running rollout, the same on every rank
        self._task = None if task is None else task.repeat_interleave(steps)  # [N*T]

    @staticmethod
    def transition_bytes(obs_shape: tuple[int, ...], obs_dtype: torch.dtype) -> int:
        """Return the memory of one transition [bytes]."""
        return 2 * torch.Size(obs_shape).numel() * obs_dtype.itemsize + 8 + 4 + 3

    def add(self, timestep: Timestep, choice: Choice, next_timestep: Timestep) -> None:
        """Store what happened between two timesteps."""
        assert self.filled < self.steps, "the previous rollout was never consumed"
        after, t = next_timestep, self.filled
        self.obs[:, t] = timestep.obs
        self.next_obs[:, t] = after.final_obs
        self.action[:, t] = choice.action
        self.reward[:, t] = after.reward.clamp(-1, 1) if self.clip_reward else after.reward
        self.terminal[:, t] = after.terminated | after.life_lost
        self.stop[:, t] = after.terminated | after.truncated | after.life_lost
        self.happened[:, t] = ~after.reset
        self.filled += 1

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield the minibatches of a complete rollout and forget it; an incomplete one, after a resume, is dropped."""
        count, complete = self.updates(step), self.filled == self.steps
        if count == 0:
            return
        self.filled = 0
        if not complete:
            return
        ret = self.returns().flatten()
        for _ in range(self.epochs):
            for index in torch.split(self._permute(), self.batch_size):
                yield self._batch(index, ret)

    @torch.no_grad()
    def returns(self) -> Tensor:
        """Return the targets of the rollout under the current network, [N, T]."""
        chunks = torch.split(self.next_obs.flatten(0, 1), VALUE_ROWS)
        tasks = [None] * len(chunks) if self._task is None else torch.split(self._task.to(self.device), VALUE_ROWS)
        values = [self.values(chunk.to(self.device), task) for chunk, task in zip(chunks, tasks, strict=True)]
        value = torch.cat(values).view(self.reward.shape)
        terminal, stop = self.terminal.to(self.device), self.stop.to(self.device)
        return q_lambda(self.reward.to(value), value, terminal, stop, self.gamma, self.trace).to(self.dtype)

    def _permute(self) -> Tensor:
        """Return a permutation of all transitions, [N*T], in which each minibatch draws equally from every shard."""
        each = self._lanes_per_shard * self.steps
        storage, shards = self.action.device, len(self.generators)
        orders = [
            torch.randperm(each, generator=generator, device=storage) + i * each
            for i, generator in enumerate(self.generators.values())
        ]
        return torch.stack([order.view(-1, self.batch_size // shards) for order in orders], 1).flatten()

    def _batch(self, index: Tensor, ret: Tensor) -> Batch:
        """Return the transitions `index` [B]; their returns are complete: nothing is left to bootstrap."""
        obs = self.obs.flatten(0, 1).index_select(0, index).to(self.device)
        happened = self.happened.flatten().index_select(0, index).to(self.device)
        ret = ret.index_select(0, index.to(self.device))
        return Batch(
            obs=obs,
            action=self.action.flatten().index_select(0, index).to(self.device),
            ret=ret,
            discount=torch.zeros_like(ret),
            next_obs=obs,
            index=index,
            mask=happened[:, None] if self.resets else None,
            task=None if self._task is None else self._task.index_select(0, index).to(self.device),
        )

    def reprioritize(self, index: Tensor, result: UpdateOut) -> None:
        """Do nothing: every transition is learned from equally often."""

    def wait_until(self, step: int) -> None:
        """Do nothing: an incomplete rollout is dropped in any case."""

    def cut(self) -> None:
        """Close every running episode as truncated."""
        if self.filled:
            self.stop[:, self.filled - 1] = True

    def state_dict(self) -> State:
        return {
            str(shard): {
                "filled": self.filled,
                "generator": generator.get_state(),
                **{name: getattr(self, name)[self._lanes(i), : self.filled] for name in _FIELDS},
            }
            for i, (shard, generator) in enumerate(self.generators.items())
        }

    def snapshot(self) -> State:
        """Return the same: a rollout is small compared with a replay, and overwritten as a whole."""
        return self.state_dict()

    def load_state_dict(self, state: State) -> None:
        for i, (shard, generator) in enumerate(self.generators.items()):
            saved = state[str(shard)]
            self.filled = saved["filled"]
            generator.set_state(saved["generator"])
            for name in _FIELDS:
                getattr(self, name)[self._lanes(i), : self.filled] = saved[name].to(self.action.device)

    def _lanes(self, i: int) -> slice:
        return slice(i * self._lanes_per_shard, (i + 1) * self._lanes_per_shard)
