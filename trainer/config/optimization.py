"""How a run learns on many ranks: optimizer, target network, exchange."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainer.config.levels import OptimKind


@dataclass(frozen=True)
class OptimConfig:
    kind: OptimKind = "adam"
    """Adam, RMSprop in the centred form of Mnih et al. 2015, rectified Adam (Liu et al. 2020), plain SGD, Adagrad
    (Duchi et al. 2011) or Adadelta (Zeiler 2012)."""
    lr: float = 2.5e-4
    """Learning rate at the start."""
    lr_end: float | None = None
    """Learning rate at the last env step, annealed linearly. None: constant."""
    eps: float = 1e-8
    """Epsilon in the denominator."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam: decay of the moment estimates [0-1)."""
    rms_decay: float = 0.95
    """RMSprop: decay of both moment estimates [0-1)."""
    rms_momentum: float = 0.0
    """RMSprop: momentum [0-1)."""
    levels: tuple[str, ...] = ()
    """Parts of the network with an optimizer of their own, as `torso=rmsprop,lr=0.5,every=2`: the start of their
    parameters' names, the kind, a multiple of the learning rate [1], and updates per step [1], which is then on their
    mean gradient. The rest follows the fields above."""
    max_grad_norm: float = math.inf
    """Clip the global gradient norm, after the exchange, to this. inf: no clipping."""
    max_skipped: int = 10
    """An update whose loss or gradient is not finite on any rank is skipped on all; this many in a row end the run
    [updates]."""


@dataclass(frozen=True)
class TargetConfig:
    every: int = 500
    """Env steps between refreshes of the target network [env steps]."""
    tau: float = 1.0
    """Share of the new weights at a refresh; 1: hard copy, less: Polyak averaging [0-1]."""


@dataclass(frozen=True)
class SyncConfig:
    kind: Literal["flat", "ddp", "zero1", "overlap", "local_sgd", "gossip", "server"] = "flat"
    """How replicas stay in sync: gradients averaged at every update, by one all-reduce (flat) or by
    DistributedDataParallel (ddp); the same with sharded optimizer state (zero1), or one update late (overlap);
    weights averaged every `period` updates (local_sgd) or with one neighbour at a time (gossip); or weights on a
    parameter server (server)."""
    period: int = 16
    """local_sgd: updates between averagings [updates]."""
    local_after: int = 0
    """local_sgd: updates with averaged gradients before that (post-local SGD, Lin et al. 2020) [updates]."""
    outer_lr: float = 1.0
    """local_sgd: share of the averaged change that is applied; DiLoCo (Douillard et al. 2023) uses 0.7."""
    outer_momentum: float = 0.0
    """local_sgd: Nesterov momentum of the averaged changes; DiLoCo uses 0.9 [0-1)."""
    hierarchical: bool = False
    """local_sgd: average gradients within a node at every update, weights across nodes every `period` updates."""
    topology: Literal["ring", "exponential"] = "exponential"
    """gossip: who exchanges with whom; exponential: the rank at distance 1, 2, 4, ... in turn (Assran et al. 2019)."""
    servers: int = 1
    """server: ranks that each hold a part of the weights [count]."""
    asynchronous: bool = False
    """server: every rank at its own pace, its gradient applied on arrival (Mnih et al. 2016)."""
    staleness: int | None = None
    """server, asynchronous: maximum age of a gradient; 0: workers take turns, None: no bound [updates of the
    server]."""
    compress: Literal["none", "fp16", "bf16", "powersgd", "topk", "int8"] = "none"
    """flat: what travels instead of the gradient: 16 bits a number (fp16, bf16), 8 (int8), factors of each matrix
    (powersgd), or the largest elements (topk). What the last three lose is added to the next gradient. ddp: fp16,
    powersgd, and bf16 on NCCL, by torch's hooks."""
    compress_rank: int = 4
    """powersgd: rank of the factors (Vogels et al. 2019) [count]."""
    compress_share: float = 0.01
    """topk: share of the elements that travel (Lin et al. 2018); it saves bytes below 1 / ranks (0-1]."""
    stages: int = 1
    """flat: spread each replica over this many neighbouring ranks, each with some layers of the network (GPipe, Huang
    et al. 2019), for networks too large for one device; ranks = replicas x stages [ranks]."""
    microbatches: int = 1
    """stages: rows pass through the layers in this many parts, on which the stages work at the same time [count]."""
    shared_memory: bool = True
    """Ranks on the CPUs of one machine exchange gradients through shared memory; False: over sockets, by gloo, as ranks
    on several machines do."""
    noise_scale: bool = False
    """flat, 2 ranks or more: estimate the gradient noise scale (McCandlish et al. 2018), the batch size beyond which
    more data per update hardly pays."""


@dataclass(frozen=True)
class ScaleConfig:
    world: Literal["strong", "weak"] = "strong"
    """`strong`: the same run on any number of ranks. `weak`: num_envs, batch_size, update_every, learning_starts and
    replay capacity are per shard (--shards, by default one per rank) and multiply with the shards."""
    lr_rule: Literal["none", "sqrt", "linear"] = "sqrt"
    """Weak: how the learning rate changes when the batch grows by the number of shards."""
