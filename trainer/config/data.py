"""Where transitions come from and how they are sampled: environments, exploration, replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EnvConfig:
    id: str = "CartPole-v1"
    """Environment: a Gymnasium id, `package:MyEnv-v0` for your own, `ALE/Breakout-v5`, `MinAtar/Breakout-v1`,
    `toy/Catch`, `toy/Chain` or `toy/Memory`."""
    tasks: tuple[str, ...] = ()
    """Several environments in one run, instead of `id`: shard s plays task s modulo their number, and one network,
    given the task as input, learns them all."""
    num_envs: int = 8
    """Environments over all ranks [count]."""
    backend: Literal["auto", "sync", "async", "native", "ale", "minatar", "toy", "torch"] = "auto"
    """What steps them: Gymnasium's sync or async vector env, the env's own vector entry point (native), ALE's C++
    vector env, MinAtar, the built-in toys, or CartPole, Acrobot, MountainCar and MinAtar as tensors on the rank's own
    device (torch). `auto` picks by id, and never torch."""
    autoreset: Literal["auto", "next_step", "same_step"] = "auto"
    """Gymnasium autoreset mode, if the backend offers a choice. The transitions are the same."""
    kwargs: str = "{}"
    """Keyword arguments for the environment's constructor, as JSON; with `tasks` by task: {"toy/Chain": {...}}."""
    sticky: float | None = None
    """Probability that the previous action is repeated instead [0-1]. Default: 0.25 for Atari, 0.1 for MinAtar."""
    full_action_space: bool = False
    """Atari, MinAtar: all actions, not only those that the game uses."""
    frame_skip: int = 4
    """Atari: frames per step [frames]."""
    frame_stack: int = 4
    """Atari: frames per observation [frames]."""
    noop_max: int = 0
    """Atari: maximum number of random no-ops after a reset [frames]."""
    fire_reset: bool = False
    """Atari: press FIRE after a reset where the game needs it."""
    life_loss: bool = False
    """Atari: a lost life ends the bootstrap (not the episode) in training."""
    clip_reward: bool = False
    """Learn from rewards clipped to [-1, 1]; returns are reported unclipped."""
    threads: int = 0
    """ALE: emulator threads per rank [count]. 0: the rank's share of the cores."""
    max_restarts: int = 10
    """Gymnasium: an environment that raises or returns a non-finite value or a wrong shape is restarted, its episode
    truncated; async: also if it crashes or hangs. More of these on a rank end the run with the first cause [count]."""
    timeout: float = 60.0
    """async: an environment whose step takes longer hangs [s]."""

    @property
    def name(self) -> str:
        """What is trained on, in a few words."""
        return f"{self.tasks[0]} and {len(self.tasks) - 1} more" if self.tasks else self.id


@dataclass(frozen=True)
class PolicyConfig:
    exploration: Literal["linear", "ladder"] = "linear"
    """`linear`: one epsilon for all environments, annealed. `ladder`: a fixed epsilon per environment over all
    environments of all ranks (Ape-X, Horgan et al. 2018)."""
    epsilon_start: float = 1.0
    """Linear: epsilon before the decay [0-1]."""
    epsilon_end: float = 0.05
    """Linear: epsilon after the decay [0-1]."""
    epsilon_wait: int = 0
    """Linear: env steps before the decay begins [env steps]."""
    epsilon_decay: int = 10_000
    """Linear: length of the decay [env steps]."""
    ladder_base: float = 0.4
    """Ladder: epsilon of the most exploring environment [0-1]."""
    ladder_alpha: float = 7.0
    """Ladder: environment i of N uses base^(1 + alpha i/(N-1))."""
    repeat: Literal["once", "zeta"] = "once"
    """How long a random action lasts: one step, or a number of steps drawn from a zeta distribution
    (epsilon-z-greedy, Dabney et al. 2021)."""
    zeta: float = 2.0
    """Zeta: exponent of the distribution; smaller lasts longer [> 1]."""
    zeta_max: int = 10_000
    """Zeta: a random action lasts at most this long [steps]."""
    ensemble: Literal["mean", "vote"] = "vote"
    """Ensemble: how to act in evaluation, by the mean of the heads or by the action that most of them prefer."""
    risk: float = 1.0
    """IQN: act on the mean of the worst returns, this share of all (CVaR, Dabney et al. 2018); 1: all [0-1]."""


@dataclass(frozen=True)
class ReplayConfig:
    kind: Literal["uniform", "prioritized", "sequence", "rollout"] = "uniform"
    """Transitions sampled uniformly or by priority (Schaul et al. 2016), whole sequences sampled by priority (R2D2,
    Kapturowski et al. 2019), or no memory but the last rollout (PQN, Gallici et al. 2025)."""
    capacity: int = 100_000
    """Transitions kept over all ranks, also for sequences [transitions]."""
    batch_size: int = 128
    """Transitions, or sequences, per update over all ranks [transitions or sequences]."""
    learning_starts: int = 1_000
    """Env steps before the first update [env steps]."""
    update_every: float = 10.0
    """Env steps per update; the replay ratio is batch_size / update_every [env steps]."""
    burst: int = 1
    """Updates done together, after burst * update_every env steps: in between the policy is fixed, which explores
    more coherently [updates]."""
    n_step: int = 1
    """Horizon of the n-step return [steps]."""
    gamma: float = 0.99
    """Discount per step [0-1]."""
    device: Literal["auto", "cpu"] = "auto"
    """Where the ring buffer is: on the rank's device, or in (pinned) host memory."""
    alpha: float = 0.6
    """Prioritized, sequence: exponent of the priorities; 0: uniform [0-1]."""
    beta: float = 0.4
    """Prioritized, sequence: exponent of the importance weights at the start [0-1]."""
    beta_end: float = 1.0
    """Prioritized, sequence: that exponent at the last env step, annealed linearly [0-1]."""
    length: int = 80
    """Sequence: steps that learn [steps]."""
    burn_in: int = 40
    """Sequence: steps before them that only bring the recurrent state up to date [steps]."""
    stride: int = 40
    """Sequence: steps between the starts of successive ones; less than `length` makes them overlap [steps]."""
    eta: float = 0.9
    """Sequence: priority = eta max|TD error| + (1 - eta) mean|TD error| [0-1]."""
    rollout: int = 32
    """Rollout: steps of every environment between learning phases [steps]."""
    epochs: int = 2
    """Rollout: how often each transition is learned from [count]."""
    trace: float = 0.65
    """Rollout: lambda of Q(lambda) [0-1]."""
