"""The vocabulary that the parts of a run share: what flows between them, and what each promises.

Nothing of the project is imported here. Shape legend, used in trailing comments everywhere:

    N  environments on this rank        B  batch on this rank        A  actions
    T  rows per lane of a replay ring   *  the observation's shape   n  n-step horizon
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

State = dict[str, Any]
"""A nested dict whose leaves are tensors or JSON values; what `state_dict` returns and a checkpoint stores."""


class Timestep(NamedTuple):
    """What the environments just said, in one normal form for every backend and autoreset mode.

    `final_obs` is the true successor of the previous observation and action. It equals `obs` except where the
    environment was reset within this very step (SAME_STEP); it may be the same tensor as `obs`.
    Where `reset` is set (NEXT_STEP autoreset) the action was ignored: there is no transition, `obs` opens an episode.
    A life loss ends the bootstrap but not the episode, hence a flag of its own.
    """

    obs: Tensor  # [N, *] what the policy acts on next
    reward: Tensor  # [N] float32, unclipped
    terminated: Tensor  # [N] bool: the episode ended in a terminal state
    truncated: Tensor  # [N] bool: the episode was cut, the value of final_obs still counts
    life_lost: Tensor  # [N] bool: a life was lost and the run treats that as terminal for learning
    reset: Tensor  # [N] bool: no transition leads here
    final_obs: Tensor  # [N, *]


class Episode(NamedTuple):
    """One finished training episode."""

    env: int  # global index of the environment
    ret: float  # undiscounted sum of unclipped rewards
    length: int  # steps of this environment


class Choice(NamedTuple):
    """What the policy did with a timestep."""

    action: Tensor  # [N] int64
    state: Tensor | None = None  # [N, ...] recurrent state that led to the action; None without a recurrent core


class Batch(NamedTuple):
    """Transitions for one update, n-step fold applied."""

    obs: Tensor  # [B, *]
    action: Tensor  # [B] int64
    ret: Tensor  # [B] n-step return
    discount: Tensor  # [B] gamma^n, 0 where terminated: carries gamma, n and termination
    next_obs: Tensor  # [B, *]
    index: Tensor  # type: ignore[assignment]  # [B] int64, which transitions these are (for `reprioritize`)
    probability: Tensor | None = None  # [B] P(i); None: uniform

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch of changed tensors."""
        parts: Any = (field if field is None else change(field) for field in self)
        return Batch(*parts)


class QOut(NamedTuple):
    """What a Q-network says; `q` is always there, so that policies need not know the head."""

    q: Tensor  # [B, A]


class LossOut(NamedTuple):
    """One number per sample, never reduced: the learner weights, averages and steps."""

    loss: Tensor  # [B]
    priority: Tensor  # [B] >= 0, |TD error|
    metrics: dict[str, Tensor]  # name -> [B]


Loss = Callable[[nn.Module, nn.Module, Batch], LossOut]


class UpdateOut(NamedTuple):
    """What one gradient step reports; on the device, nothing has been waited for."""

    priority: Tensor  # [B]


class Stateful(Protocol):
    """Everything that has state says so with the same two methods; a checkpoint is that list.

    The state of a part that is owned by shards has the shard numbers as its top-level keys ("0", "1", ...).
    """

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Envs(Stateful, Protocol):
    """The vector environments of all shards of one rank behind one send/recv face."""

    num_envs: int
    num_actions: int
    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    saves_state: bool  # False: after a resume these environments begin new episodes

    def reset(self) -> Timestep: ...

    def send(self, action: Tensor) -> None:
        """Hand over actions, [N] int64 on any device; environments that can, start stepping."""

    def recv(self) -> Timestep:
        """Wait for the step that `send` began."""

    def episodes(self) -> list[Episode]:
        """Drain the episodes finished since the last call."""

    def close(self) -> None: ...


class Policy(Stateful, Protocol):
    def act(self, timestep: Timestep, epsilon: float) -> Choice: ...


class Replay(Stateful, Protocol):
    def add(self, timestep: Timestep, choice: Choice, next_timestep: Timestep) -> None:
        """Store what happened between two timesteps."""

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this step's batches; how many is decided from `step` alone, so every rank yields as many."""

    def reprioritize(self, index: Tensor, priority: Tensor) -> None: ...

    def wait_until(self, step: int) -> None:
        """Yield no batches before `step`, while an empty memory fills."""

    def cut(self) -> None:
        """Close every running episode as truncated, because its environment is about to begin a new one."""


class Sync(Stateful, Protocol):
    """One way to keep the replicas together: owns exchange, clip and optimizer step."""

    capturable: bool  # whether a step may be captured in a CUDA graph

    def prepare(self, net: nn.Module) -> nn.Module:
        """Start from rank 0's weights everywhere; return the module that losses must call. A collective."""

    def zero_grad(self) -> None: ...

    def set_lr(self, lr: float) -> None: ...

    def step(self, max_norm: float) -> Tensor:
        """Exchange gradients, clip, step the optimizer; return the global gradient norm before the clip, []."""

    def refresh(self, tau: float) -> None:
        """Move every rank's target network towards rank 0's weights; compare the replicas on the way."""

    def diverged(self) -> Tensor:
        """Return how many elements differed from rank 0's in the exchanges so far, [] int64 on the device."""

    def blame(self) -> str:
        """Name the ranks and parameters that differ from rank 0's. A collective."""


class Logger(Stateful, Protocol):
    """Rank 0's fan-out to console, files and services; does nothing on the other ranks."""

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None: ...

    def progress(self, values: Mapping[str, float]) -> None:
        """Redraw the live line."""

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...
