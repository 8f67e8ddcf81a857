"""How a run behaves: device, logs, checkpoints, evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RuntimeConfig:
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA with NCCL where every rank has a GPU, else CPU with gloo."""
    threads: int = 0
    """CPU threads per rank for torch [count]. 0: 1 for small networks, the rank's share of the cores for CNNs."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Precision of network and returns. `bfloat16`: only the products in convolutions and hidden layers; weights,
    outputs, losses and the optimizer stay in float32."""
    compile: Literal[False, True, "auto"] = False
    """Compile an update's gradient, its step, acting, and what the replay memory does, each into one graph, which takes
    a C++ compiler and half a minute at the first start; `auto`: where possible, and eagerly elsewhere. The same numbers
    up to rounding."""
    timeout: float = 120.0
    """A rank that makes no progress for longer, or an exchange that takes longer, ends the run, which reports who and
    where; in an evaluation it applies to each step [s]."""
    save_timeout: float = 1800.0
    """The same while a checkpoint is written, if that is longer [s]."""
    poll_every: int = 1_000
    """Env steps between polls, in which ranks agree on stop requests and bad numbers [env steps]."""


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
    failures: int = 3
    """This many failed saves in a row end the run; until then it continues with the previous checkpoint and tries again
    at the next save [count]."""
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
    """A longer episode is cut there and counts as it stands: a greedy policy may never end it [steps]."""
