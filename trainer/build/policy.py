"""The policy that acts in training: how it finds the best action, and how it explores."""

from __future__ import annotations

import torch
from torch import nn

from trainer.build.envs import task_of_lanes
from trainer.build.nets import DTYPES
from trainer.config import Config
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.losses import Teacher
from trainer.policy import (
    Actor,
    Chooser,
    Demonstrator,
    EpsilonGreedy,
    Explorer,
    FollowHead,
    Greedy,
    RecurrentGreedy,
    ZetaGreedy,
)
from trainer.runtime import seeding
from trainer.streams import Streams
from trainer.types import Given


def build_policy(
    config: Config,
    layout: Layout,
    spec: EnvSpec,
    net: nn.Module,
    device: torch.device,
    teacher: Teacher | None = None,
) -> tuple[Actor, Streams]:
    """Return the policy of this rank's environments and what its network draws from; both use per-shard streams."""
    generators = {shard: seeding.generator(config.seed, "policy", shard, device) for shard in layout.owned}
    draws = Streams(generators, device, DTYPES[config.runtime.dtype])
    random = config.net.noisy or config.net.head == "iqn"
    tasks = task_of_lanes(layout, layout.envs_per_shard, device)
    given = Given(draws=draws if random else None, task=tasks)
    ladder = layout.ladder()
    fixed = None if ladder is None else torch.tensor(ladder, dtype=torch.float64, device=device)
    each = torch.tensor([one.num_actions for one in spec.tasks], dtype=torch.float64, device=device)
    actions = spec.num_actions if tasks is None else each[tasks]
    envs, policy = layout.envs_per_rank, config.policy
    chooser: Chooser = Greedy(net, device, given)
    if config.net.ensemble > 1:
        chooser = FollowHead(net, envs, config.net.ensemble, generators, device, given)
    if config.net.lstm:
        chooser = recurrent(config, layout, net, envs, device, given)
    explorer: Explorer = EpsilonGreedy(envs, actions, generators, device, fixed)
    if policy.repeat == "zeta":
        explorer = ZetaGreedy(envs, actions, generators, device, fixed, exponent=policy.zeta, longest=policy.zeta_max)
    if teacher is not None and config.teacher.act > 0:
        mine = {shard: seeding.generator(config.seed, "teacher", shard, device) for shard in layout.owned}
        explorer = Demonstrator(explorer, teacher, config.teacher.act, envs, mine, device, tasks)
    return Actor(chooser, explorer), draws


def recurrent(
    config: Config, layout: Layout, net: nn.Module, num_envs: int, device: torch.device, given: Given
) -> RecurrentGreedy:
    """Return the chooser for a recurrent network and `num_envs` environments of this rank."""
    dtype, clip = DTYPES[config.runtime.dtype], config.env.clip_reward
    width, shards = config.net.lstm, layout.owned
    return RecurrentGreedy(net, num_envs, width, shards, device, dtype, clip_reward=clip, given=given)
