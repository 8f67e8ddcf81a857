"""The vocabulary that the parts of a run share: the data that flows between them, and their protocols.

Imports nothing of the project but the schedules. Shape legend, used in trailing comments everywhere:

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
"""(function of tensors, example arguments) -> the same function, compiled for such tensors."""


class Timestep(NamedTuple):
    """What the environments returned, in one normal form for every backend and autoreset mode.

    `final_obs` is the true successor of the previous observation and action. It equals `obs` except where the
    environment was reset within this very step (SAME_STEP); it may be the same tensor as `obs`.
    Where `reset` is set (NEXT_STEP autoreset) the action was ignored: there is no transition, `obs` opens an episode.
    A lost life ends the bootstrap but not the episode, hence its own flag.
    """

    obs: Tensor  # [N, *] what the policy acts on next
    reward: Tensor  # [N] float32, unclipped
    terminated: Tensor  # [N] bool: the episode ended in a terminal state
    truncated: Tensor  # [N] bool: the episode was cut off, final_obs is still bootstrapped from
    life_lost: Tensor  # [N] bool: a life was lost and the run treats that as terminal for learning
    reset: Tensor  # [N] bool: no transition leads here
    final_obs: Tensor  # [N, *]


class Episode(NamedTuple):
    """One finished training episode."""

    env: int  # global index of the environment
    ret: float  # undiscounted sum of unclipped rewards
    length: int  # steps of this environment


class Choice(NamedTuple):
    """What the policy chose at a timestep."""

    action: Tensor  # [N] int64
    state: Tensor | None = None  # [N, ...] recurrent state that led to the action; None without a recurrent core


class Future(NamedTuple):
    """What followed a transition, step by step, for F steps; unknown steps are not valid."""

    obs: Tensor  # [B, F, *] obs[:, k] was reached by action[:, k]; the last one of an episode counts
    action: Tensor  # [B, F] int64; the first one is the transition's own
    valid: Tensor  # [B, F] bool: within the episode, and happened already


class Batch(NamedTuple):
    """Transitions for one update, with n-step returns. The rows of a shard are contiguous, shard after shard."""

    obs: Tensor  # [B, *]
    action: Tensor  # [B] int64
    ret: Tensor  # [B] n-step return
    discount: Tensor  # [B] gamma^n, 0 where terminated: carries gamma, n and termination
    next_obs: Tensor  # [B, *]
    index: Tensor  # type: ignore[assignment]  # [B] int64, which transitions these are (for `reprioritize`)
    probability: Tensor | None = None  # [B] P(i); None: uniform
    next_action: Tensor | None = None  # [B] int64 taken at next_obs, -1 if none was; for SARSA only
    mask: Tensor | None = None  # [B, E] bool: which heads of an ensemble learn from it; None: all
    expert: Tensor | None = None  # [B] bool: is a demonstration; None: none is
    task: Tensor | None = None  # [B] int64, in multi-task training
    future: Future | None = None  # for losses that look ahead step by step

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch of changed tensors."""
        parts: list[Any] = [None if field is None else change(field) for field in self[:-1]]
        parts.append(None if self.future is None else Future(*map(change, self.future)))
        return Batch(*parts)


class StandingBatch(Batch):
    """One whose tensors are always the same: each draw fills them anew, so a changed copy is a plain `Batch`."""

    __slots__ = ()
    _make = Batch._make  # type: ignore[assignment]


class Sequences(NamedTuple):
    """Consecutive steps of one episode each, for recurrent networks; L = burn-in + learning steps + n.

    Steps before the episode's start or after its end repeat the nearest one and do not learn.
    """

    obs: Tensor  # [B, L, *]
    last_action: Tensor  # [B, L] int64 that led to obs; 0 at the start of an episode
    last_reward: Tensor  # [B, L] that came with it; 0 at the start of an episode
    action: Tensor  # [B, L] int64
    ret: Tensor  # [B, L] n-step return
    discount: Tensor  # [B, L] gamma^m, 0 where terminated
    ahead: Tensor  # [B, L] int64 m: the bootstrap observation of step t is obs[t + m]
    learns: Tensor  # [B, L] bool: after the burn-in, within the episode, window complete
    state: Tensor  # [B, ...] recurrent state before obs[0], or before the first learning step if not warm
    warm: Tensor  # [B] bool: has a burn-in; not at the start of an episode, where the state is known
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
    """What a network receives besides the observation; each part only if the run needs it."""

    draws: Draws | None = None  # for noisy layers and IQN's fractions; None: no noise, evenly spaced fractions
    fractions: int = 0  # IQN: how many, over [0, 1); 0: as in acting, over the share `policy.risk`
    task: Tensor | None = None  # [B] int64
    state: Tensor | None = None  # [B, ...] recurrent state before obs
    last_action: Tensor | None = None  # [B] or [B, L] int64
    last_reward: Tensor | None = None  # [B] or [B, L]


class QOut(NamedTuple):
    """Output of a Q-network; `q` is always there, so that policies need not know the head."""

    q: Tensor  # [B, A]
    logits: Tensor | None = None  # [B, A, K] C51: log-probabilities of the atoms
    quantiles: Tensor | None = None  # [B, A, K] QR-DQN, IQN
    fractions: Tensor | None = None  # [B, K] QR-DQN, IQN: levels of those quantiles in (0, 1)
    heads: Tensor | None = None  # [B, A, E] values by each head of an ensemble
    state: Tensor | None = None  # [B, ...] recurrent state after obs


class LossOut(NamedTuple):
    """One number per sample, never reduced: the learner weights, averages and steps."""

    loss: Tensor  # [B]
    priority: Tensor  # [B] >= 0, |TD error|
    metrics: dict[str, Tensor]  # name -> [B]
    terms: Tensor | None = None  # [B] number of terms in each loss; the learner divides by their total. None: one
    out: QOut | None = None  # of the online network on batch.obs, with its graph, for terms added to this loss


Loss = Callable[[nn.Module, nn.Module, Any, Rates], LossOut]
"""(net, target_net, Batch or Sequences, rates) -> LossOut."""


class UpdateOut(NamedTuple):
    """What one gradient step reports, on the device: nothing has been waited for."""

    priority: Tensor  # [B]
    highest: Tensor | None = None  # [] largest priority of this update over all ranks; None under uniform sampling


class Stateful(Protocol):
    """The two methods of everything that has state; a checkpoint is the list of these states.

    The state of a part that shards own has the shard numbers as its top-level keys ("0", "1", ...).
    """

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


@runtime_checkable
class Blocks(Protocol):
    """Rows of tensors as they were when a state was taken, read block by block while their owner keeps writing.

    It may be a leaf of a `State` to be stored, and is loaded as a list with one dict of tensors per block.
    """

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """The tensors of a block, by name."""

    @property
    def count(self) -> int:
        """How many blocks there are."""

    def want(self, since: Self | None) -> list[int]:
        """Return which blocks may differ from those of `since`, an earlier one of the same owner; None: all.

        They are preserved until each is taken, preferably in this order, or all are released. To be called before
        the owner goes on.
        """

    def take(self, block: int) -> dict[str, Tensor]:
        """Return a wanted block on the CPU, valid until the next one is taken; from any single thread."""

    def release(self) -> None:
        """Release everything but what a later `want` compares with."""


class Envs(Stateful, Protocol):
    """The vector environments of all shards of one rank behind one send/recv interface."""

    num_envs: int
    num_actions: int
    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    saves_state: bool  # False: these environments begin new episodes after a resume

    @property
    def restarts(self) -> int:
        """How many environments have failed and been restarted."""

    def reset(self) -> Timestep: ...

    def send(self, action: Tensor) -> None:
        """Submit actions, [N] int64 on any device; environments that can, start stepping."""

    def recv(self) -> Timestep:
        """Wait for the step that `send` started."""

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

        Their number depends on `step` alone, so it is the same on every rank.
        """

    def reprioritize(self, index: Tensor, result: UpdateOut) -> None:
        """Set the new priorities of a batch that `batches` yielded; new transitions enter at the highest so far."""

    def wait_until(self, step: int) -> None:
        """Yield no batches before `step`, while an empty memory fills."""

    def cut(self) -> None:
        """Close every running episode as truncated, because its environment is about to start a new one."""

    def snapshot(self) -> State:
        """Return `state_dict`, with `Blocks` for what is too large to copy."""


class Sync(Stateful, Protocol):
    """One way to keep replicas in sync: owns exchange, clipping and optimizer step."""

    capturable: bool  # whether a step may be captured in a CUDA graph

    def prepare(self, net: nn.Module) -> nn.Module:
        """Start from rank 0's weights everywhere; return the module that losses must call. A collective."""

    def agreed(self) -> AbstractContextManager[None]:
        """Within it, the online network holds what the ranks agree on, for evaluation and checkpoints. A collective."""

    def report(self) -> dict[str, float]:
        """Return numbers for the log since the last report, the same names on every rank."""

    def own_state(self) -> State:
        """Return copies of what this rank alone has; empty if replicas are equal."""

    def load_own_state(self, state: State) -> None:
        """Restore it, after everything else; not called if the number of ranks has changed."""

    def zero_grad(self) -> None: ...

    def set_lr(self, lr: float) -> None: ...

    def step(self, max_norm: float) -> Tensor:
        """Exchange, clip, step the optimizer; return the applied gradient's norm before clipping, []."""

    def gather(self, values: Tensor) -> Tensor:
        """Gather every rank's few `values`, [K] -> [ranks, K], on the device. A collective."""

    def refresh(self, tau: float) -> None:
        """Move every rank's target network towards the agreed weights; also compare replicas that must be equal."""

    def diverged(self) -> Tensor:
        """Return how many elements have differed from rank 0's in exchanges so far, [] int64 on the device."""

    def blame(self) -> str:
        """Name the ranks and parameters that differ from rank 0's. A collective."""


class Logger(Stateful, Protocol):
    """Rank 0's fan-out to console, files and services; does nothing on the other ranks."""

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None: ...

    def progress(self, values: Mapping[str, float]) -> None:
        """Redraw the live line."""

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...
