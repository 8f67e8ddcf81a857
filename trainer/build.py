"""The composition root: Config -> Run. The only file that names concrete classes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import checkpoint
from trainer.config import Config, ConfigError, EnvConfig
from trainer.envs import EnvSpec, ShardedEnvs, env_spec, make_backend
from trainer.evaluate import Score, play, quotas, score
from trainer.layout import Layout
from trainer.learner import Learner
from trainer.log import make_logger
from trainer.losses import dqn
from trainer.nets import DuelingHead, ImageTorso, QNetwork, ValueHead, VectorTorso, minatar, nature
from trainer.policy import EpsilonGreedy
from trainer.replay import Frames, ReplayMemory, Ring, UniformSampler
from trainer.run import Run
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.memory import free_bytes, human
from trainer.runtime.ranks import Ranks, cores_per_rank
from trainer.runtime.spans import Spans
from trainer.runtime.stop import StopRequest
from trainer.sync import AllReduce, FlatParameters
from trainer.types import Envs, Episode, State

_TORSOS: dict[str, Callable[[tuple[int, ...], Sequence[int]], VectorTorso | ImageTorso]] = {
    "mlp": VectorTorso,
    "nature": nature,
    "minatar": minatar,
}
_HEADS: dict[bool, Callable[[int, int], ValueHead | DuelingHead]] = {False: ValueHead, True: DuelingHead}
_DTYPES = {"float32": torch.float32, "float64": torch.float64}

EVAL_ENVS, EVAL_SETS = 2**14, 2**16
"""Environments in one set of evaluation seeds, and sets; together the 2^30 seeds that training never uses."""


def inspect_env(config: Config) -> EnvSpec:
    """Make one environment, look at it, close it. Raises ValueError with one line if it cannot be trained on."""
    return env_spec(
        config.env.backend,
        config.env.id,
        autoreset=config.env.autoreset,
        kwargs=json.loads(config.env.kwargs),
        sticky=config.env.sticky,
        full_action_space=config.env.full_action_space,
        frame_skip=config.env.frame_skip,
        frame_stack=config.env.frame_stack,
    )


def build_run(config: Config, layout: Layout, spec: EnvSpec, ranks: Ranks, run_dir: Path, launch: Launch) -> Run:
    """Make every part of this rank's run and join them. A collective: the weights of rank 0 go to all."""
    device, dtype = ranks.device, _DTYPES[config.runtime.dtype]
    torch.set_num_threads(threads(config, spec, launch))
    torch.set_flush_denormal(True)  # moments of dead units decay through denormals, which a CPU handles slowly
    envs = build_envs(config, layout, spec, device)
    net = build_net(config, spec, device)
    target_net = build_net(config, spec, device).requires_grad_(False)
    spans = Spans()
    flat, flat_target = FlatParameters(net), FlatParameters(target_net)
    sync = AllReduce(flat, flat_target, build_optimizer(config, flat), ranks, spans, overlap=config.sync.kind == "ddp")
    loss = functools.partial(dqn, double=config.loss.double, kind=config.loss.kind)
    learner = Learner(sync.prepare(net), target_net, loss, sync, max_grad_norm=config.optim.max_grad_norm)
    ladder = layout.ladder()
    policy = EpsilonGreedy(
        net,
        layout.envs_per_rank,
        spec.num_actions,
        {shard: seeding.generator(config.seed, "policy", shard, device) for shard in layout.owned},
        device,
        None if ladder is None else torch.tensor(ladder, dtype=torch.float64, device=device),
    )
    logger = make_logger(
        ranks.rank,
        run_dir,
        total_env_steps=layout.env_steps(layout.num_steps),
        title=f"{config.preset} {config.env.id}",
        config=config.to_dict(),
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb,
        wandb_project=config.log.wandb_project,
    )
    return Run(
        config=config,
        layout=layout,
        peers=ranks,
        envs=envs,
        policy=policy,
        replay=build_replay(config, layout, spec, device, dtype),
        learner=learner,
        sync=sync,
        weights={"net": _Weights(net), "target_net": _Weights(target_net)},
        logger=logger,
        spans=spans,
        stop=StopRequest().install(),
        evaluator=build_evaluator(config, layout, spec, net, ranks),
        write=_writer(config, run_dir, ranks),
        timestep=envs.reset(),
    )


class _Weights:
    """A network as a Stateful: named tensors, loaded in place so that views of a flat buffer stay views."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def state_dict(self) -> State:
        return dict(self.module.state_dict())

    def load_state_dict(self, state: State) -> None:
        self.module.load_state_dict(state)


def threads(config: Config, spec: EnvSpec, launch: Launch) -> int:
    """Return how many CPU threads this rank's torch gets: small networks lose time by sharing."""
    if config.runtime.threads:
        return config.runtime.threads
    return cores_per_rank(launch) if torso_kind(config, spec) == "nature" else 1


def build_envs(
    config: Config,
    layout: Layout,
    spec: EnvSpec,
    device: torch.device,
    *,
    evaluation: bool = False,
    eval_set: int = 0,
    per_shard: int | None = None,
    render: bool = False,
) -> ShardedEnvs:
    """Make this rank's environments, one backend a shard; those of evaluation have seeds of their own, in sets."""
    count = per_shard or (layout.eval_envs_per_shard if evaluation else layout.envs_per_shard)
    first = eval_set * EVAL_ENVS
    env = config.env
    backends = {
        shard: make_backend(
            spec.kind,
            env.id,
            count,
            seeding.env_seeds(config.seed, first + shard * count, count, evaluation=evaluation),
            render=render,
            threads=env.threads or max(1, cores_per_rank(Launch.read()) // layout.shards_per_rank),
            **_env_options(env, evaluation),
        )
        for shard in layout.owned
    }
    return ShardedEnvs(backends, device, {shard: shard * count for shard in layout.owned})


def _env_options(env: EnvConfig, evaluation: bool) -> dict[str, Any]:
    return {
        "autoreset": env.autoreset,
        "kwargs": json.loads(env.kwargs),
        "sticky": env.sticky,
        "full_action_space": env.full_action_space,
        "frame_skip": env.frame_skip,
        "frame_stack": env.frame_stack,
        "noop_max": env.noop_max,
        "fire_reset": env.fire_reset,
        "life_loss": env.life_loss and not evaluation,
    }


def torso_kind(config: Config, spec: EnvSpec) -> str:
    """Return the torso that `auto` stands for."""
    if config.net.torso != "auto":
        return config.net.torso
    if len(spec.obs_shape) != 3:
        return "mlp"
    return "minatar" if spec.obs_shape[1:] == (10, 10) else "nature"


def check_torso(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError if the network's body cannot take the observations."""
    kind = torso_kind(config, spec)
    smallest = {"nature": 36, "minatar": 3}.get(kind, 0)
    if smallest and (len(spec.obs_shape) != 3 or min(spec.obs_shape[1:]) < smallest):
        problem = f"needs images of at least {smallest}x{smallest}, {config.env.id} gives {spec.obs_shape}"
        raise ConfigError("net.torso", kind, problem, "use --net.torso auto or mlp")


def build_net(config: Config, spec: EnvSpec, device: torch.device) -> QNetwork:
    """Make a Q-network; all calls with one config give the same weights, on every rank."""
    kind = torso_kind(config, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.stream_seed(config.seed, "weights"))
        torso = _TORSOS[kind](spec.obs_shape, config.net.hidden)
        head = _HEADS[config.net.dueling](torso.features, spec.num_actions)
    return QNetwork(torso, head).to(device=device, dtype=_DTYPES[config.runtime.dtype])


def build_optimizer(config: Config, flat: FlatParameters) -> torch.optim.Optimizer:
    optim = config.optim
    if optim.kind == "adam":
        return torch.optim.Adam([flat.data], lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
    return torch.optim.RMSprop(
        [flat.data], lr=optim.lr, alpha=optim.rms_decay, eps=optim.eps, momentum=optim.rms_momentum, centered=True
    )


def build_replay(
    config: Config, layout: Layout, spec: EnvSpec, device: torch.device, dtype: torch.dtype
) -> ReplayMemory:
    where = torch.device("cpu") if config.replay.device == "cpu" else device
    frames = Frames(spec.obs_shape, spec.stack, spec.stack_pad)
    ring = Ring(
        layout.rows_per_lane(spec.stack),
        layout.envs_per_rank,
        frames.frame_shape,
        spec.obs_dtype,
        horizon=config.replay.n_step,
        stack=spec.stack,
        device=where,
        pin=where.type == "cpu" and device.type == "cuda",
    )
    streams = {shard: seeding.generator(config.seed, "replay", shard, where) for shard in layout.owned}
    return ReplayMemory(
        ring,
        frames,
        UniformSampler(ring, streams),
        updates=layout.updates,
        batch_size=layout.batch_per_rank,
        gamma=config.replay.gamma,
        clip_reward=config.env.clip_reward,
        dtype=dtype,
        device=device,
    )


def check_memory(config: Config, layout: Layout, spec: EnvSpec, device: torch.device, launch: Launch) -> str:
    """Return what the replay will take, in words. Raises ConfigError if this machine's ranks cannot hold it."""
    frames = Frames(spec.obs_shape, spec.stack, spec.stack_pad)
    row = Ring.row_bytes(frames.frame_shape, spec.obs_dtype)
    mine = layout.rows_per_lane(spec.stack) * layout.envs_per_rank * row
    where = torch.device("cpu") if config.replay.device == "cpu" else device
    sharing = launch.local_world_size if where.type == "cpu" else 1
    free = free_bytes(where)
    if mine * sharing > free:
        problem = f"{sharing} rank(s) here need {human(mine * sharing)} on {where.type}, {human(free)} are free"
        fits = int(config.replay.capacity * 0.9 * free / (mine * sharing))
        raise ConfigError("replay.capacity", config.replay.capacity, problem, f"use {fits} or less, or more machines")
    return (
        f"replay: {config.replay.capacity:,} transitions of {human(row)}, {human(mine * layout.world_size)} in all, "
        f"{human(mine)} on each of {layout.world_size} rank(s) ({where.type})"
    )


def build_evaluator(config: Config, layout: Layout, spec: EnvSpec, net: nn.Module, ranks: Ranks) -> Callable[[], Score]:
    """Return what plays config.eval.episodes, spread over all shards, and scores them. The result is a collective."""

    def evaluate() -> Score:
        played = play_episodes(config, layout, spec, net, ranks.device)
        return score([episode for part in ranks.gather(played) for episode in part])

    return evaluate


def play_episodes(
    config: Config, layout: Layout, spec: EnvSpec, net: nn.Module, device: torch.device, *, eval_set: int = 0
) -> list[Episode]:
    """Play this rank's share of the evaluation episodes, on seeds that training never uses."""
    envs = build_envs(config, layout, spec, device, evaluation=True, eval_set=eval_set)
    policy = build_eval_policy(config, layout, envs, net, device, eval_set=eval_set)
    every = quotas(config.eval.episodes, layout.eval_envs_per_shard * layout.shards)
    first = layout.owned.start * layout.eval_envs_per_shard
    mine = {env: every[env] for env in range(first, first + envs.num_envs)}
    try:
        return play(envs, policy, mine, config.eval.epsilon)
    finally:
        envs.close()


def build_eval_policy(
    config: Config, layout: Layout, envs: Envs, net: nn.Module, device: torch.device, *, eval_set: int = 0
) -> EpsilonGreedy:
    first = eval_set * EVAL_ENVS
    streams = {shard: seeding.generator(config.seed, "evaluation", first + shard, device) for shard in layout.owned}
    return EpsilonGreedy(net, envs.num_envs, envs.num_actions, streams, device)


def _writer(config: Config, run_dir: Path, ranks: Ranks) -> Callable[[int, State, dict[int, State]], None]:
    def write(step: int, replicated: State, shards: dict[int, State]) -> None:
        checkpoint.save(
            run_dir / "checkpoints",
            step,
            replicated,
            shards,
            {"config": config.to_dict()},
            ranks,
            config.checkpoint.keep,
        )

    return write
