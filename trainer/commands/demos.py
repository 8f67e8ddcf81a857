"""`lockstep demos`: episodes of a trained agent as a file for others to learn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from trainer.build import EVAL_SETS, build_envs, build_eval_policy, inspect_env
from trainer.build.demos import describe_demos, write_demos
from trainer.build.trained import find_checkpoint, load_net, read_run
from trainer.cli import parse_options
from trainer.config import ConfigError
from trainer.evaluate import quotas
from trainer.layout import Layout
from trainer.replay import Demonstrations
from trainer.types import Envs, Policy, Rates

Step = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""One environment's obs [*], action, reward, terminated, truncated."""


@dataclass(frozen=True)
class Options:
    """Play episodes with a trained agent and write them to a file of demonstrations, for --demos.path."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as printed at the start of the run."""
    episodes: int
    """Episodes to write [count]."""
    epsilon: float = 0.0
    """Exploration while they are played [0-1]."""
    out: Path | None = None
    """File to write. Default: demos.safetensors in the run folder."""
    seed: int = 1
    """Which set of evaluation environments; 0 is that of every run's own evaluations."""
    checkpoint: int | None = None
    """Step of a checkpoint, as in the name of its folder. Default: the newest good one."""


def command(rest: list[str]) -> int:
    """Run `lockstep demos`."""
    options = parse_options(Options, rest, "demos")
    limits = {"episodes": (1, float("inf")), "epsilon": (0, 1), "seed": (0, EVAL_SETS - 1)}
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if not low <= value <= high:
            raise ConfigError(name, value, "out of range", f"choose a value in [{low}, {high:g}]")
    config = read_run(options.run)
    if config.env.tasks:
        raise ValueError(f"run {options.run}: it plays several tasks; demonstrations cover only one environment")
    out = options.out or options.run / "demos.safetensors"
    if not out.parent.is_dir() or out.is_dir():
        raise ConfigError("out", out, "not a file in a folder that exists", "make the folder, or name another file")
    found = find_checkpoint(options.run, options.checkpoint)
    spec, device = inspect_env(config), torch.device("cpu")
    net = load_net(config, spec, found, device)
    num_envs = min(options.episodes, config.eval.num_envs)
    config = replace(config, eval=replace(config.eval, num_envs=num_envs))
    layout = Layout(config, shards=1, world_size=1, rank=0)
    envs = build_envs(config, layout, spec, device, evaluation=True, eval_set=options.seed)
    try:
        policy = build_eval_policy(config, layout, envs, net, device, eval_set=options.seed)
        quota = list(quotas(options.episodes, num_envs).values())
        demos = record_episodes(envs, policy, quota, options.epsilon, config.eval.max_steps)
    finally:
        envs.close()
    played = {"run": str(options.run), "checkpoint": str(found.step), "epsilon": json.dumps(options.epsilon)}
    write_demos(out, demos, describe_demos(demos, config, spec) | played)
    returns = demos.returns
    print(f"demonstrations: {out} ({out.stat().st_size:,} bytes)")
    print(
        f"{config.env.id}: {len(returns)} episodes, {len(demos.action):,} steps, "
        f"return {returns.mean():.2f} ({returns.min():.2f} to {returns.max():.2f})"
    )
    print(f"use it with: lockstep train PRESET --env.id {config.env.id} --demos.path {out}")
    return 0


@torch.no_grad()
def record_episodes(envs: Envs, policy: Policy, quota: Sequence[int], epsilon: float, max_steps: int) -> Demonstrations:
    """Play until every environment has finished its quota; truncate episodes longer than `max_steps`."""
    left = list(quota)
    running: list[list[Step]] = [[] for _ in quota]
    episodes: list[tuple[list[Step], Tensor]] = []
    timestep = envs.reset()
    while any(left):
        choice = policy.act(timestep, Rates(epsilon=epsilon))
        envs.send(choice.action)
        after = envs.recv()
        ended = after.terminated | after.truncated
        for i, steps in enumerate(running):
            if left[i] == 0 or after.reset[i]:
                continue
            cut = bool(after.truncated[i]) or (len(steps) + 1 >= max_steps and not after.terminated[i])
            steps.append((timestep.obs[i], choice.action[i], after.reward[i], after.terminated[i], torch.tensor(cut)))
            if cut or ended[i]:
                episodes.append((steps, after.final_obs[i]))
                running[i] = []
                left[i] = left[i] - 1 if ended[i] else 0  # its environment is still in the same episode
        timestep = after
    return _join(episodes)


def _join(episodes: Sequence[tuple[list[Step], Tensor]]) -> Demonstrations:
    obs, action, reward, terminated, truncated = (
        torch.stack(field) for field in zip(*(step for steps, _ in episodes for step in steps), strict=True)
    )
    lengths = torch.tensor([len(steps) for steps, _ in episodes])
    starts = lengths.cumsum(0) - lengths
    finals = torch.stack([final for _, final in episodes])
    return Demonstrations(obs, action, reward, terminated, truncated, starts, finals)
