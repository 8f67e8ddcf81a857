"""What is learned: the network and its losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetConfig:
    torso: Literal["auto", "mlp", "nature", "minatar", "impala"] = "auto"
    """Body of the Q-network. `auto` picks by observation shape: vectors mlp, 10x10 images minatar, larger nature."""
    hidden: tuple[int, ...] = (120, 84)
    """Widths of the fully connected layers that all streams of the head share; may be empty after convolutions
    [units]."""
    head: Literal["q", "c51", "qr", "iqn"] = "q"
    """What the network predicts for an action: its value, or the distribution of its return as a histogram (C51,
    Bellemare et al. 2017), fixed quantiles (QR-DQN, Dabney et al. 2018) or sampled ones (IQN, Dabney et al. 2018)."""
    head_hidden: tuple[int, ...] = ()
    """Widths of the hidden fully connected layers that each stream of the head has for itself [units]."""
    dueling: bool = False
    """Value and advantage streams (Wang et al. 2016)."""
    noisy: bool = False
    """Factorised Gaussian noise on the weights of every fully connected layer (Fortunato et al. 2018)."""
    noisy_sigma: float = 0.5
    """Noisy: standard deviation of the noise at the start, times 1/sqrt(inputs)."""
    noisy_shared: bool = False
    """Noisy: one noise for all rows of a pass in learning, as in the paper; False: each row has its own, for less
    noise per sample and nearly twice the arithmetic."""
    atoms: int = 51
    """C51: atoms of the histogram [count]."""
    v_min: float | None = None
    """C51: lowest return of the histogram. Must be stated."""
    v_max: float | None = None
    """C51: highest return of the histogram. Must be stated."""
    quantiles: int = 200
    """QR-DQN: quantiles of the return [count]."""
    cosines: int = 64
    """IQN: cosine features that embed a fraction [count]."""
    acting_fractions: int = 32
    """IQN: fractions to average over when acting [count]."""
    norm: Literal["none", "layer"] = "none"
    """Layer normalisation before every ReLU (Ba et al. 2016), which PQN needs."""
    width: int = 1
    """IMPALA: multiple of its 16, 32, 32 channels."""
    spectral_norm: bool = False
    """IMPALA: spectral normalisation of the residual blocks (Gogianu et al. 2021)."""
    pool: int = 0
    """IMPALA: side of an adaptive max-pooling after the convolutions; 0: none [pixels]."""
    ensemble: int = 1
    """Heads on a shared body; each episode follows one of them (bootstrapped DQN, Osband et al. 2016) [count]."""
    lstm: int = 0
    """Width of an LSTM between body and head, also fed with the last action and reward; 0: none [units]."""


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
    """Random shift of the images in the update, by at most this in each direction (DrQ, Yarats et al. 2021); 0: none
    [pixels]."""
    spr: float = 0.0
    """Weight of the self-prediction loss (SPR, Schwarzer et al. 2021); 0: none."""
    spr_steps: int = 5
    """SPR: how far ahead latents are predicted [steps]."""


@dataclass(frozen=True)
class TeacherConfig:
    runs: tuple[str, ...] = ()
    """Folders of trained runs to learn from; with env.tasks one per task, otherwise their mean is the teacher."""
    weight: float = 1.0
    """Weight of the distillation loss at the start."""
    temperature: float = 0.01
    """Softmax temperature of the teacher's values (Rusu et al. 2016)."""
    act: float = 0.0
    """Share of env steps in which the teacher acts, at the start [0-1]."""
    decay: int = 0
    """Weight and share fall linearly to 0 over this many env steps; 0: they stay constant [env steps]."""


@dataclass(frozen=True)
class DemosConfig:
    path: str = ""
    """File of demonstrations, as `lockstep demos RUN` writes it; empty: none."""
    ratio: float = 0.25
    """Share of a batch that is demonstrations [0-1]."""
    weight: float = 1.0
    """Weight of the large-margin loss on them (DQfD, Hester et al. 2018)."""
    margin: float = 0.8
    """How far the demonstrated action must exceed all others."""
    pretrain: int = 0
    """Updates on demonstrations alone before the first env step [updates]."""
