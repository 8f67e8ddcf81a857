"""The policy that acts in training: who finds the best action, and who explores."""

from __future__ import annotations

import torch
from torch import nn

from trainer.build.nets import DTYPES
from trainer.config import Config
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.policy import Actor, Chooser, EpsilonGreedy, Explorer, Greedy
from trainer.runtime import seeding
from trainer.streams import Streams
from trainer.types import Given


def build_policy(config: Config, layout: Layout, spec: EnvSpec, net: nn.Module, device: torch.device) -> Actor:
    """Return the policy of this rank's environments; everything random about it is the shards' own."""
    generators = {shard: seeding.generator(config.seed, "policy", shard, device) for shard in layout.owned}
    draws = Streams(generators, device, DTYPES[config.runtime.dtype])
    given = Given(draws=draws if config.net.noisy or config.net.head == "iqn" else None)
    ladder = layout.ladder()
    fixed = None if ladder is None else torch.tensor(ladder, dtype=torch.float64, device=device)
    chooser: Chooser = Greedy(net, device, given)
    explorer: Explorer = EpsilonGreedy(layout.envs_per_rank, spec.num_actions, generators, device, fixed)
    return Actor(chooser, explorer)
