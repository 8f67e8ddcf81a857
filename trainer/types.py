"""The vocabulary that the parts of a run share: what flows between them, and what each promises.

Nothing of the project is imported here but the schedules. Shape legend, used in trailing comments everywhere:

    N  environments on this rank        B  batch on this rank        A  actions
    T  rows per lane of a replay ring   *  the observation's shape   n  n-step horizon
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from trainer.schedules import Rates as Rates

State = dict[str, Any]
"""A nested dict whose leaves are tensors or JSON values; what `state_dict` returns and a checkpoint stores."""


Function = Callable[..., Sequence[Tensor]]
Compiler = Callable[[Function, Sequence[Tensor]], Function]
"""(function of tensors, an example of these) -> the same function, compiled for such tensors. Nothing is run."""


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


class Future(NamedTuple):
    """What followed a transition, step by step; F steps. Where nothing is known of a step, it is not valid."""

    obs: Tensor  # [B, F, *] obs[:, k] was reached by action[:, k]; the last one of an episode counts
    action: Tensor  # [B, F] int64; the first one is the transition's own
    valid: Tensor  # [B, F] bool: within the episode, and happened already


class Batch(NamedTuple):
    """Transitions for one update, n-step fold applied. The rows of a shard lie together, shard after shard."""

    obs: Tensor  # [B, *]
    action: Tensor  # [B] int64
    ret: Tensor  # [B] n-step return
    discount: Tensor  # [B] gamma^n, 0 where terminated: carries gamma, n and termination
    next_obs: Tensor  # [B, *]
    index: Tensor  # type: ignore[assignment]  # [B] int64, which transitions these are (for `reprioritize`)
    probability: Tensor | None = None  # [B] P(i); None: uniform
    next_action: Tensor | None = None  # [B] int64 taken at next_obs, -1 where none was; where SARSA wants it
    mask: Tensor | None = None  # [B, E] bool: which heads of an ensemble learn from it; None: all
    expert: Tensor | None = None  # [B] bool: a demonstration; None: none is
    task: Tensor | None = None  # [B] int64, in multi-task training
    future: Future | None = None  # where a loss looks ahead step by step

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch of changed tensors."""
        parts: list[Any] = [None if field is None else change(field) for field in self[:-1]]
        parts.append(None if self.future is None else Future(*map(change, self.future)))
        return Batch(*parts)


class Sequences(NamedTuple):
    """Consecutive steps of one episode each, for recurrent networks; L = burn-in + learning steps + n.

    Steps in front of the episode or behind its end repeat the nearest one and do not learn.
    """

    obs: Tensor  # [B, L, *]
    last_action: Tensor  # [B, L] int64 that led to obs; 0 at the start of an episode
    last_reward: Tensor  # [B, L] that came with it; 0 at the start of an episode
    action: Tensor  # [B, L] int64
    ret: Tensor  # [B, L] n-step return
    discount: Tensor  # [B, L] gamma^m, 0 where terminated
    ahead: Tensor  # [B, L] int64 m: the bootstrap observation of step t is obs[t + m]
    learns: Tensor  # [B, L] bool: behind the burn-in, within the episode, window complete
    state: Tensor  # [B, ...] recurrent state in front of obs[0], or of the first step that learns, where not warm
    warm: Tensor  # [B] bool: the burn-in is there; not at the start of an episode, where the state is known
    index: Tensor  # type: ignore[assignment]  # [B]
    probability: Tensor | None = None  # [B]

    def map(self, change: Callable[[Tensor], Tensor]) -> Sequences:
        """Return sequences of changed tensors."""
        parts: Any = (field if field is None else change(field) for field in self)
        return Sequences(*parts)


class Draws(Protocol):
    """Random numbers for rows that belong to shards, so that they do not depend on the number of ranks."""

    @property
    def one_noise(self) -> bool:
        """Whether all rows have the same noise."""

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return numbers in [0, 1), [rows, *shape]."""

    def noise(self, rows: int, *shape: int) -> Tensor:
        """Return standard normal numbers, [rows, *shape], or [1, *shape] where all rows have the same noise."""


class Given(NamedTuple):
    """What a network is told besides the observation; each part only where the run has use for it."""

    draws: Draws | None = None  # for noisy layers and IQN's fractions; None: no noise, evenly spaced fractions
    fractions: int = 0  # IQN: how many, over [0, 1); 0: as acting does, over the share `policy.risk`
    task: Tensor | None = None  # [B] int64
    state: Tensor | None = None  # [B, ...] recurrent state in front of obs
    last_action: Tensor | None = None  # [B] or [B, L] int64
    last_reward: Tensor | None = None  # [B] or [B, L]


class QOut(NamedTuple):
    """What a Q-network says; `q` is always there, so that policies need not know the head."""

    q: Tensor  # [B, A]
    logits: Tensor | None = None  # [B, A, K] C51: log-probabilities of the atoms
    quantiles: Tensor | None = None  # [B, A, K] QR-DQN, IQN
    fractions: Tensor | None = None  # [B, K] QR-DQN, IQN: where those quantiles stand in (0, 1)
    heads: Tensor | None = None  # [B, A, E] values by each head of an ensemble
    state: Tensor | None = None  # [B, ...] recurrent state behind obs


class LossOut(NamedTuple):
    """One number per sample, never reduced: the learner weights, averages and steps."""

    loss: Tensor  # [B]
    priority: Tensor  # [B] >= 0, |TD error|
    metrics: dict[str, Tensor]  # name -> [B]
    terms: Tensor | None = None  # [B] how many terms each loss sums up; the learner divides by their total. None: one
    out: QOut | None = None  # of the online network on batch.obs, with its graph, for what is added to this loss


Loss = Callable[[nn.Module, nn.Module, Any, Rates], LossOut]
"""(net, target_net, Batch or Sequences, rates) -> LossOut."""


class UpdateOut(NamedTuple):
    """What one gradient step reports; on the device, nothing has been waited for."""

    priority: Tensor  # [B]
    highest: Tensor | None = None  # [] largest priority of this update over all ranks; None under uniform sampling


class Stateful(Protocol):
    """Everything that has state says so with the same two methods; a checkpoint is that list.

    The state of a part that is owned by shards has the shard numbers as its top-level keys ("0", "1", ...).
    """

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


@runtime_checkable
class Blocks(Protocol):
    """Rows of tensors as they were when a state was taken, read block by block while their owner goes on writing.

    It may be a leaf of a `State` that is stored, and comes back as a list with a dict of tensors for each block.
    """

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """The tensors of a block."""

    @property
    def count(self) -> int:
        """How many blocks there are."""

    def want(self, since: Self | None) -> list[int]:
        """Return which blocks may differ from those of `since`, an earlier one of the same owner; None: all.

        They are kept as they are until each is taken, best in this order, or all are released. Called before the
        owner goes on.
        """

    def take(self, block: int) -> dict[str, Tensor]:
        """Return a wanted block on the CPU, valid until the next one is taken; in any one thread."""

    def release(self) -> None:
        """Let go of everything but what a later `want` compares with."""


class Envs(Stateful, Protocol):
    """The vector environments of all shards of one rank behind one send/recv face."""

    num_envs: int
    num_actions: int
    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    saves_state: bool  # False: after a resume these environments begin new episodes

    @property
    def restarts(self) -> int:
        """How many environments failed and began anew so far."""

    def reset(self) -> Timestep: ...

    def send(self, action: Tensor) -> None:
        """Hand over actions, [N] int64 on any device; environments that can, start stepping."""

    def recv(self) -> Timestep:
        """Wait for the step that `send` began."""

    def episodes(self) -> list[Episode]:
        """Drain the episodes finished since the last call."""

    def close(self) -> None: ...


class Policy(Stateful, Protocol):
    def act(self, timestep: Timestep, rates: Rates) -> Choice: ...


class Replay(Stateful, Protocol):
    def add(self, timestep: Timestep, choice: Choice, next_timestep: Timestep) -> None:
        """Store what happened between two timesteps."""

    def batches(self, step: int) -> Iterator[Any]:
        """Yield this step's batches (Batch or Sequences).

        How many is decided from `step` alone, so every rank yields as many.
        """

    def reprioritize(self, index: Tensor, result: UpdateOut) -> None:
        """Take the new priorities of a batch that `batches` yielded; new transitions enter at the highest so far."""

    def wait_until(self, step: int) -> None:
        """Yield no batches before `step`, while an empty memory fills."""

    def cut(self) -> None:
        """Close every running episode as truncated, because its environment is about to begin a new one."""

    def snapshot(self) -> State:
        """Return `state_dict` with what is too large to copy as `Blocks`."""


class Sync(Stateful, Protocol):
    """One way to keep the replicas together: owns exchange, clip and optimizer step."""

    capturable: bool  # whether a step may be captured in a CUDA graph

    def prepare(self, net: nn.Module) -> nn.Module:
        """Start from rank 0's weights everywhere; return the module that losses must call. A collective."""

    def agreed(self) -> AbstractContextManager[None]:
        """Within it the online network holds what the ranks agree on, for evaluation and checkpoints. A collective."""

    def report(self) -> dict[str, float]:
        """Return numbers for the log since the last report, the same names on every rank."""

    def own_state(self) -> State:
        """Return what this rank alone has, as copies; nothing where replicas are equal."""

    def load_own_state(self, state: State) -> None:
        """Restore it, behind all else; it is not called where the ranks have become more or fewer."""

    def zero_grad(self) -> None: ...

    def set_lr(self, lr: float) -> None: ...

    def step(self, max_norm: float) -> Tensor:
        """Exchange, clip, step the optimizer; return the norm of the gradient it applied before the clip, []."""

    def gather(self, values: Tensor) -> Tensor:
        """Return every rank's few numbers, [K] -> [ranks, K], on the device. A collective."""

    def refresh(self, tau: float) -> None:
        """Move every rank's target network towards the agreed weights; compare equal replicas on the way."""

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
