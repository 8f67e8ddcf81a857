"""Record a trained agent: one episode as a GIF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import load_env_creator
from numpy.typing import NDArray

from trainer.build import build_envs, build_eval_policy, inspect_env
from trainer.build.trained import find_checkpoint, load_net, read_run
from trainer.config import Config
from trainer.envs import EnvSpec, ShardedEnvs
from trainer.layout import Layout
from trainer.log.video import write_gif
from trainer.runtime.headless import draw_offscreen
from trainer.types import Policy, Rates

_ATARI_FPS = 60
_BOARD_FPS = {"minatar": 12, "torch": 12, "toy": 5}  # these have no frame rate of their own; slow enough to follow
_UNKNOWN_FPS = 30


def record(
    run_dir: Path, out: Path, *, max_steps: int = 600, seed: int = 0, step: int | None = None, task: int = 0
) -> Path:
    """Write the first evaluation episode as a GIF, cut after `max_steps`; return its path.

    It plays on the CPU, with the epsilon of the run's evaluations (0 unless stated). seed selects the set of evaluation
    environments, step the checkpoint (default: the newest), task one of those that the run learned.

    Raises:
        ValueError: no run, no checkpoint, or an environment that cannot be drawn; in one line.
    """
    draw_offscreen()
    config = read_run(run_dir)
    spec = _drawn_here(inspect_env(config))
    env_id = config.env.tasks[task] if config.env.tasks else config.env.id
    device = torch.device("cpu")
    net = load_net(config, spec, find_checkpoint(run_dir, step), device)
    tasks = len(config.env.tasks) or 1
    layout = Layout(config, shards=tasks, world_size=tasks, rank=task)  # the shard that plays this task
    try:
        envs = build_envs(config, layout, spec, device, evaluation=True, eval_set=seed, per_shard=1, render=True)
        try:
            policy = build_eval_policy(config, layout, envs, net, device, eval_set=seed)
            frames = _frames(env_id, envs, policy, config.eval.epsilon, max_steps)
        finally:
            envs.close()
        kind = spec.tasks[task].kind if spec.tasks else spec.kind
        write_gif(frames, out, fps=_fps(config, env_id, kind), max_frames=max_steps + 1)
    except (ImportError, gym.error.Error) as error:
        raise ValueError(f"{env_id} cannot be drawn: {' '.join(str(error).split())}") from None
    return out


def _frames(env_id: str, envs: ShardedEnvs, policy: Policy, epsilon: float, max_steps: int) -> list[NDArray[np.uint8]]:
    """Play one episode; return a frame of each of its states but the last, which the reset has replaced."""
    timestep = envs.reset()
    frames: list[NDArray[np.uint8]] = []
    for _ in range(max_steps):
        frame = envs.render()
        if frame is None:
            raise ValueError(f"{env_id} cannot be drawn: its render() gives no picture")
        frames.append(frame)
        envs.send(policy.act(timestep, Rates(epsilon=epsilon)).action)
        timestep = envs.recv()
        if bool(timestep.terminated[0] | timestep.truncated[0]):
            break
    return frames


def record_all(run_dir: Path, out: Path, config: Config, *, seed: int = 0, step: int | None = None) -> str:
    """Record an episode of each task, its name appended to that of `out`; return what was written, in words."""
    names = [f"{out.stem}-{task.replace('/', '-').replace(':', '-')}" for task in config.env.tasks] or [out.stem]
    paths = [record(run_dir, out.with_stem(name), seed=seed, step=step, task=i) for i, name in enumerate(names)]
    return ", ".join(map(str, paths))


def _drawn_here(spec: EnvSpec) -> EnvSpec:
    """Return the same environments, stepped in this process, not by workers, and by a backend that can draw them."""
    physics = spec.kind == "torch" and len(spec.obs_shape) == 1
    kind = "sync" if spec.kind == "async" or physics else spec.kind
    return replace(spec, kind=kind, tasks=tuple(_drawn_here(task) for task in spec.tasks))


def _fps(config: Config, env_id: str, kind: str) -> int:
    """Return the frames per second at which this environment runs at its own pace."""
    if kind == "ale":
        return max(1, _ATARI_FPS // config.env.frame_skip)
    if kind in _BOARD_FPS:
        return _BOARD_FPS[kind]
    entry_point = gym.spec(env_id.rpartition(":")[2]).entry_point
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return int(getattr(creator, "metadata", {}).get("render_fps") or _UNKNOWN_FPS)
