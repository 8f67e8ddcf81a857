"""Evaluation of a network, with its own environments and exploration, episodes spread over all shards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trainer.build.envs import EVAL_ENVS, build_envs, task_of_lanes
from trainer.build.policy import recurrent
from trainer.config import Config
from trainer.envs import EnvSpec
from trainer.evaluate import play, quotas
from trainer.layout import Layout
from trainer.policy import Actor, Chooser, EpsilonGreedy, Greedy, Vote
from trainer.runtime import seeding
from trainer.runtime.ranks import Ranks
from trainer.runtime.spans import Spans
from trainer.types import Envs, Episode, Given


def build_evaluator(
    config: Config, layout: Layout, spec: EnvSpec, net: nn.Module, ranks: Ranks, spans: Spans
) -> Callable[[], list[Episode]]:
    """Return a function that plays config.eval.episodes over all shards and gathers them; the call is a collective."""

    def note() -> None:
        with spans("eval"):  # shows this rank's watchdog that it makes progress
            pass

    def evaluate() -> list[Episode]:
        played = play_episodes(config, layout, spec, net, ranks.device, note=note)
        mine = played if layout.reports else []
        return [episode for part in ranks.gather(mine, patient=True) for episode in part]

    return evaluate


def play_episodes(
    config: Config,
    layout: Layout,
    spec: EnvSpec,
    net: nn.Module,
    device: torch.device,
    *,
    eval_set: int = 0,
    note: Callable[[], object] = lambda: None,
) -> list[Episode]:
    """Play this rank's share of the evaluation episodes, on seeds that training never uses."""
    envs = build_envs(config, layout, spec, device, evaluation=True, eval_set=eval_set)
    policy = build_eval_policy(config, layout, envs, net, device, eval_set=eval_set)
    each = layout.eval_envs_per_shard
    every = quotas(config.eval.episodes, each * layout.shards, each if config.env.tasks else None)
    first = layout.owned.start * layout.eval_envs_per_shard
    mine = {env: every[env] for env in range(first, first + envs.num_envs)}
    try:
        return play(envs, policy, mine, config.eval.epsilon, config.eval.max_steps, note)
    finally:
        envs.close()


def build_eval_policy(
    config: Config, layout: Layout, envs: Envs, net: nn.Module, device: torch.device, *, eval_set: int = 0
) -> Actor:
    """Return the evaluation policy: no noise, and only as much exploration as the evaluation states."""
    first = eval_set * EVAL_ENVS
    streams = {shard: seeding.generator(config.seed, "evaluation", first + shard, device) for shard in layout.owned}
    given = Given(task=task_of_lanes(layout, envs.num_envs // layout.shards_per_rank, device))
    votes = config.net.ensemble > 1 and config.policy.ensemble == "vote"
    chooser: Chooser = Vote(net, device, given) if votes else Greedy(net, device, given)
    if config.net.lstm:
        chooser = recurrent(config, layout, net, envs.num_envs, device, given)
    return Actor(chooser, EpsilonGreedy(envs.num_envs, envs.num_actions, streams, device))
