"""A run, as frozen dataclasses in the order of the data flow. Imports nothing of ours, and never torch.

Every value is global: it means the same on 1, 2 or 64 ranks. Periods and horizons end in `_every` or are counted in
*env steps*: one environment, of all environments on all ranks, stepped once. (A `step` is every environment stepped
once, an `update` one gradient step, a `frame` one emulator frame.) What one rank does of it is derived in `Layout`.
The text under a field is its documentation and its `--help`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """A value the user stated cannot be used: one line that names field, value and remedy."""

    def __init__(self, name: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(f"--{name} {value}: {problem}; {remedy}")


@dataclass(frozen=True)
class EnvConfig:
    id: str = "CartPole-v1"
    """Environment: a Gymnasium id, `package:MyEnv-v0` for your own, `ALE/Breakout-v5`, `MinAtar/Breakout-v1`,
    `toy/Catch`, `toy/Chain` or `toy/Memory`."""
    tasks: tuple[str, ...] = ()
    """Several environments in one run, instead of `id`: shard s plays task s modulo their number, and one network,
    told the task, learns them all."""
    num_envs: int = 8
    """Environments over all ranks [count]."""
    backend: Literal["auto", "sync", "async", "native", "ale", "minatar", "toy"] = "auto"
    """Who steps them: Gymnasium's sync or async vector env, the env's own vector entry point (native), ALE's C++
    vector env, MinAtar, or the built-in toys. `auto` picks by id."""
    autoreset: Literal["auto", "next_step", "same_step"] = "auto"
    """Gymnasium autoreset mode, where the backend offers a choice. The transitions are the same."""
    kwargs: str = "{}"
    """Keyword arguments for the environment's constructor, as JSON; with `tasks` by task: {"toy/Chain": {...}}."""
    sticky: float | None = None
    """Probability that the previous action is repeated instead [0-1]. Default: 0.25 for Atari, 0.1 for MinAtar."""
    full_action_space: bool = False
    """Atari, MinAtar: all actions rather than those that the game uses."""
    frame_skip: int = 4
    """Atari: frames per step [frames]."""
    frame_stack: int = 4
    """Atari: frames per observation [frames]."""
    noop_max: int = 0
    """Atari: at most so many random no-ops after a reset [frames]."""
    fire_reset: bool = False
    """Atari: press FIRE after a reset where the game needs it."""
    life_loss: bool = False
    """Atari: a lost life ends the bootstrap (not the episode) in training."""
    clip_reward: bool = False
    """Learn from rewards clipped to [-1, 1]; returns are reported unclipped."""
    threads: int = 0
    """ALE: emulator threads per rank [count]. 0: the rank's share of the cores."""

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
    """Ensemble: how it acts in evaluation, by the mean of its heads or by the action that most of them prefer."""
    risk: float = 1.0
    """IQN: act on the mean of this worst share of the returns (CVaR, Dabney et al. 2018); 1: on all [0-1]."""


@dataclass(frozen=True)
class ReplayConfig:
    kind: Literal["uniform", "prioritized", "sequence", "rollout"] = "uniform"
    """Transitions drawn uniformly or by priority (Schaul et al. 2016), whole sequences drawn by priority (R2D2,
    Kapturowski et al. 2019), or no memory but the last rollout (PQN, Gallici et al. 2025)."""
    capacity: int = 100_000
    """Transitions kept over all ranks; of sequences as well [transitions]."""
    batch_size: int = 128
    """Transitions per update over all ranks; with sequences how many of those [transitions or sequences]."""
    learning_starts: int = 1_000
    """Env steps before the first update [env steps]."""
    update_every: float = 10.0
    """Env steps per update; the replay ratio is batch_size / update_every [env steps]."""
    burst: int = 1
    """Updates done together, after burst * update_every env steps: in between the policy stands still, which explores
    more coherently [updates]."""
    n_step: int = 1
    """Horizon of the n-step return [steps]."""
    gamma: float = 0.99
    """Discount per step [0-1]."""
    device: Literal["auto", "cpu"] = "auto"
    """Where the ring lies: on the rank's device, or in (pinned) host memory."""
    alpha: float = 0.6
    """Prioritized, sequence: exponent of the priorities; 0: uniform [0-1]."""
    beta: float = 0.4
    """Prioritized, sequence: exponent of the importance weights at the start [0-1]."""
    beta_end: float = 1.0
    """Prioritized, sequence: that exponent at the last env step, annealed linearly [0-1]."""
    length: int = 80
    """Sequence: steps that learn [steps]."""
    burn_in: int = 40
    """Sequence: steps in front of them that only bring the recurrent state up to date [steps]."""
    stride: int = 40
    """Sequence: steps from the start of one to that of the next; less than `length` makes them overlap [steps]."""
    eta: float = 0.9
    """Sequence: priority = eta max|TD error| + (1 - eta) mean|TD error| [0-1]."""
    rollout: int = 32
    """Rollout: steps of every environment between learning phases [steps]."""
    epochs: int = 2
    """Rollout: how often each transition is learned from [count]."""
    trace: float = 0.65
    """Rollout: lambda of Q(lambda) [0-1]."""


@dataclass(frozen=True)
class NetConfig:
    torso: Literal["auto", "mlp", "nature", "minatar", "impala"] = "auto"
    """Body of the Q-network. `auto` picks by observation shape: vectors mlp, 10x10 images minatar, larger nature."""
    hidden: tuple[int, ...] = (120, 84)
    """Widths of the fully connected layers that all streams of the head share; may be empty behind convolutions
    [units]."""
    head: Literal["q", "c51", "qr", "iqn"] = "q"
    """What the network says of an action: its value, or the distribution of its return as a histogram (C51,
    Bellemare et al. 2017), fixed quantiles (QR-DQN, Dabney et al. 2018) or sampled ones (IQN, Dabney et al. 2018)."""
    head_hidden: tuple[int, ...] = ()
    """Widths of hidden fully connected layers of each stream of the head for itself [units]."""
    dueling: bool = False
    """Value and advantage streams (Wang et al. 2016)."""
    noisy: bool = False
    """Factorised Gaussian noise on the weights of every fully connected layer (Fortunato et al. 2018)."""
    noisy_sigma: float = 0.5
    """Noisy: standard deviation of the noise at the start, times 1/sqrt(inputs)."""
    atoms: int = 51
    """C51: bars of the histogram [count]."""
    v_min: float | None = None
    """C51: lowest return of the histogram. Has to be stated."""
    v_max: float | None = None
    """C51: highest return of the histogram. Has to be stated."""
    quantiles: int = 200
    """QR-DQN: quantiles of the return [count]."""
    cosines: int = 64
    """IQN: cosine features that embed a fraction [count]."""
    acting_fractions: int = 32
    """IQN: fractions that acting averages over [count]."""
    norm: Literal["none", "layer"] = "none"
    """Layer normalisation in front of every ReLU (Ba et al. 2016), which PQN needs."""
    width: int = 1
    """IMPALA: multiple of its 16, 32, 32 channels."""
    spectral_norm: bool = False
    """IMPALA: spectral normalisation of the residual blocks (Gogianu et al. 2021)."""
    pool: int = 0
    """IMPALA: side of an adaptive max-pooling behind the convolutions; 0: none [pixels]."""
    ensemble: int = 1
    """Heads on a shared body; each episode follows one of them (bootstrapped DQN, Osband et al. 2016) [count]."""
    lstm: int = 0
    """Width of an LSTM between body and head, fed with the last action and reward too; 0: none [units]."""


@dataclass(frozen=True)
class LossConfig:
    target: Literal["max", "sarsa", "expected"] = "max"
    """Value of the next state: of its best action, of the action that was taken (SARSA, Rummery & Niranjan 1994), or
    the mean under the behaviour policy (expected SARSA, van Seijen et al. 2009)."""
    double: bool = False
    """Double Q-learning targets (van Hasselt et al. 2016)."""
    kind: Literal["huber", "mse"] = "mse"
    """Regression loss on the TD error: its square, or half of that up to 1 and linear beyond (huber)."""
    munchausen: bool = False
    """Add the scaled log-policy to the reward and learn soft values (Vieillard et al. 2020)."""
    munchausen_alpha: float = 0.9
    """Munchausen: scale of the log-policy [0-1]."""
    munchausen_tau: float = 0.03
    """Munchausen: temperature of the policy."""
    munchausen_min: float = -1.0
    """Munchausen: lower bound of the scaled log-policy."""
    kappa: float = 1.0
    """QR-DQN, IQN: where the quantile Huber loss turns linear; 0: the plain quantile loss."""
    fractions: int = 64
    """IQN: fractions of the online network per sample [count]."""
    target_fractions: int = 64
    """IQN: fractions of the target network per sample [count]."""
    rescale: bool = False
    """Learn h(Q) with h(x) = sign(x)(sqrt(|x|+1)-1) + 0.001 x (Pohlen et al. 2018)."""
    bootstrap_mask: float = 1.0
    """Ensemble: probability that a head learns from a transition [0-1]."""


@dataclass(frozen=True)
class PixelsConfig:
    shift: int = 0
    """Random shift of the images in the update, up to so far in each direction (DrQ, Yarats et al. 2021); 0: none
    [pixels]."""
    spr: float = 0.0
    """Weight of the self-prediction loss (SPR, Schwarzer et al. 2021); 0: none."""
    spr_steps: int = 5
    """SPR: how far ahead latents are predicted [steps]."""


@dataclass(frozen=True)
class TeacherConfig:
    runs: tuple[str, ...] = ()
    """Folders of trained runs to learn from; with env.tasks one for each task, otherwise their mean is the teacher."""
    weight: float = 1.0
    """Weight of the distillation loss at the start."""
    temperature: float = 0.01
    """Softmax temperature of the teacher's values (Rusu et al. 2016)."""
    act: float = 0.0
    """Share of the env steps in which the teacher acts, at the start [0-1]."""
    decay: int = 0
    """Weight and share fall linearly to 0 over so many env steps; 0: they stay [env steps]."""


@dataclass(frozen=True)
class DemosConfig:
    path: str = ""
    """File of demonstrations, as `lockstep demos RUN` writes them; empty: none."""
    ratio: float = 0.25
    """Share of a batch that is demonstrations [0-1]."""
    weight: float = 1.0
    """Weight of the large-margin loss on them (DQfD, Hester et al. 2018)."""
    margin: float = 0.8
    """How far the demonstrated action has to be above all others."""
    pretrain: int = 0
    """Updates on demonstrations alone before the first env step [updates]."""


@dataclass(frozen=True)
class OptimConfig:
    kind: Literal["adam", "rmsprop", "radam"] = "adam"
    """Adam, RMSprop in the centred form of Mnih et al. 2015, or rectified Adam (Liu et al. 2020)."""
    lr: float = 2.5e-4
    """Learning rate at the start."""
    lr_end: float | None = None
    """Learning rate at the last env step, annealed linearly. None: constant."""
    eps: float = 1e-8
    """Epsilon of the denominator."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam: decay of the moment estimates [0-1)."""
    rms_decay: float = 0.95
    """RMSprop: decay of both moment estimates [0-1)."""
    rms_momentum: float = 0.0
    """RMSprop: momentum [0-1)."""
    max_grad_norm: float = math.inf
    """Clip the global gradient norm, after the exchange, to this. inf: no clipping."""


@dataclass(frozen=True)
class TargetConfig:
    every: int = 500
    """Env steps between refreshes of the target network [env steps]."""
    tau: float = 1.0
    """Share of the new weights at a refresh; 1: hard copy, less: Polyak averaging [0-1]."""


@dataclass(frozen=True)
class SyncConfig:
    kind: Literal["flat", "ddp"] = "flat"
    """How gradients meet: one all-reduce over a flat buffer, or DistributedDataParallel."""


@dataclass(frozen=True)
class ScaleConfig:
    world: Literal["strong", "weak"] = "strong"
    """`strong`: the same run on any number of ranks. `weak`: num_envs, batch_size, update_every, learning_starts and
    replay capacity are per rank and multiply with the ranks."""
    lr_rule: Literal["none", "sqrt", "linear"] = "sqrt"
    """Weak: what the learning rate does when the batch grows by the number of ranks."""


@dataclass(frozen=True)
class RuntimeConfig:
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA with NCCL where every rank has a GPU, else CPU with gloo."""
    threads: int = 0
    """CPU threads per rank for torch [count]. 0: 1 for small networks, the rank's share of the cores for CNNs."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of network and returns."""
    timeout: float = 120.0
    """A collective that takes longer ends the run [s]."""
    poll_every: int = 1_000
    """Env steps between the ranks' agreement on stop requests and bad numbers [env steps]."""


@dataclass(frozen=True)
class LogConfig:
    dir: str = "runs"
    """Folder that holds run folders."""
    name: str = ""
    """Name of the run folder. Empty: preset, environment, seed and time."""
    every: int = 1_000
    """Env steps between rows of metrics.jsonl [env steps]."""
    tensorboard: bool = True
    """Write TensorBoard events, where tensorboard is installed."""
    wandb: bool = False
    """Log to Weights & Biases, where wandb is installed; offline unless logged in."""
    wandb_project: str = "lockstep"
    """Project name on Weights & Biases."""
    plot: bool = True
    """Draw the learning curve into the run folder at the end, where matplotlib is installed."""
    video: bool = False
    """Record a GIF of the trained agent into the run folder at the end."""


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = 50_000
    """Env steps between checkpoints; one is always written at the end. 0: only at the end [env steps]."""
    keep: int = 2
    """Checkpoints kept, the newest ones [count]."""
    replay: bool = True
    """Store the replay memory as well; without it a resumed run refills it first."""


@dataclass(frozen=True)
class EvalConfig:
    every: int = 0
    """Env steps between evaluations. 0: only at the end [env steps]."""
    episodes: int = 100
    """Episodes per evaluation over all ranks; 0: none [count]."""
    num_envs: int = 10
    """Environments that play them, over all ranks [count]."""
    epsilon: float = 0.0
    """Exploration in evaluation [0-1]."""
    max_steps: int = 27_000
    """An episode that is longer is cut there and counts as it stands: a greedy policy may never end it [steps]."""


@dataclass(frozen=True)
class Config:
    preset: str = "cartpole"
    """Name of the preset this run derives from."""
    seed: int = 1
    """Every random stream is keyed by (seed, purpose, shard)."""
    shards: int | None = None
    """Units of ownership: each has its own environments, replay lanes and random streams. The same run on any number
    of ranks that divides it. None: the ranks of the first launch."""
    total_env_steps: int = 100_000
    """Length of the run [env steps]."""
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    net: NetConfig = field(default_factory=NetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    demos: DemosConfig = field(default_factory=DemosConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
