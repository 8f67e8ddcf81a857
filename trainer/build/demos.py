"""Files of demonstrations, and the replay that mixes them in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.replay import Demonstrations, DemoSampler, Frames, ReplayMemory, WithDemos, demo_ring
from trainer.runtime import seeding
from trainer.types import Replay

_DTYPES = {"action": torch.int64, "reward": torch.float32, "starts": torch.int64}
_DTYPES |= {"terminated": torch.bool, "truncated": torch.bool}


def write_demos(path: Path, demos: Demonstrations, about: Mapping[str, str]) -> None:
    """Write demonstrations by rename, and only if they read back unchanged."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(save({name: value.contiguous() for name, value in demos._asdict().items()}, dict(about)))
            file.flush()
            os.fsync(file.fileno())
        found, facts = _read(part)
        if facts != about or any(not torch.equal(found[name], value) for name, value in demos._asdict().items()):
            raise OSError(f"{path}: what was read back is not what was written")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_demos(path: str, spec: EnvSpec, env_id: str) -> Demonstrations:
    """Return the demonstrations in a file. Raises ConfigError if it holds none, or none of this environment."""

    def refuse(problem: str, remedy: str = "write it as docs/teaching.md says, or with lockstep demos") -> ConfigError:
        return ConfigError("demos.path", path, problem, remedy)

    try:
        fields, about = _read(Path(path))
    except FileNotFoundError:
        raise refuse("no such file", "make it with lockstep demos RUN --episodes N") from None
    except (OSError, SafetensorError) as error:
        raise refuse(f"it cannot be read ({' '.join(str(error).split())})") from None
    missing = [name for name in Demonstrations._fields if name not in fields]
    if missing:
        raise refuse(f"it holds no {missing[0]!r}")
    demos = Demonstrations(**{name: fields[name] for name in Demonstrations._fields})
    found = f"{str(demos.obs.dtype).removeprefix('torch.')} {tuple(demos.obs.shape[1:])}"
    wanted = f"{str(spec.obs_dtype).removeprefix('torch.')} {spec.obs_shape}"
    ours = f"record them in {env_id}, with the same settings of env.*"
    if found != wanted:
        raise refuse(f"its observations are {found}, those of {env_id} {wanted}", ours)
    if about.get("num_actions") != str(spec.num_actions):
        said = about.get("num_actions", "an unknown number of")
        raise refuse(f"it was made with {said} actions, {env_id} has {spec.num_actions}", ours)
    problem = _flaw(demos, spec)
    if problem:
        raise refuse(problem)
    return demos


def check_demos(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError if the demonstrations that `config` names cannot be learned from in this environment."""
    if config.demos.path:
        read_demos(config.demos.path, spec, config.env.id)


def _flaw(demos: Demonstrations, spec: EnvSpec) -> str:
    """Return what is wrong with demonstrations of the right shape; empty if nothing is."""
    steps, episodes = len(demos.action), len(demos.starts)
    for name, value in demos._asdict().items():
        if name in _DTYPES and (value.dtype is not _DTYPES[name] or value.dim() != 1):
            return f"{name!r} is {value.dtype} {tuple(value.shape)}, not one {_DTYPES[name]} a step or an episode"
    if steps == 0 or episodes == 0:
        return "it is empty"
    if any(len(field) != steps for field in demos[:5]):
        return "obs, action, reward, terminated and truncated differ in length"
    starts = demos.starts
    if starts[0] != 0 or (starts.diff() < 1).any() or starts[-1] >= steps:
        return "'starts' is not a growing list of steps that begins with 0"
    if demos.final_obs.dtype is not demos.obs.dtype or demos.final_obs.shape != (episodes, *spec.obs_shape):
        return f"'final_obs' is not one observation for each of {episodes} episodes"
    if not ((demos.action >= 0) & (demos.action < spec.num_actions)).all():
        return f"it holds actions outside 0 to {spec.num_actions - 1}"
    for name in ("obs", "final_obs", "reward"):
        value = getattr(demos, name)
        if value.is_floating_point() and not value.isfinite().all():
            return f"{name!r} holds numbers that are not finite"
    ended = (demos.terminated | demos.truncated).nonzero().squeeze(1)
    if not torch.equal(ended, starts + demos.lengths - 1):
        return "episodes must be terminated or truncated at their last step, and nowhere else"
    return _unlike_stacks(demos, spec)


def _unlike_stacks(demos: Demonstrations, spec: EnvSpec, chunk: int = 1024) -> str:
    """Return the problem if observations cannot be rebuilt from their newest frames; empty if they can."""
    if spec.stack == 1:
        return ""
    frames = Frames(spec.obs_shape, spec.stack, spec.stack_pad)
    ring = demo_ring(demos, frames, horizon=1, clip_reward=False, device=torch.device("cpu"))
    lane = torch.zeros((), dtype=torch.int64)
    for begin in range(0, len(demos.action), chunk):
        obs = demos.obs[begin : begin + chunk]
        if not torch.equal(frames.gather(ring, ring.locate(torch.arange(begin, begin + len(obs)), lane)), obs):
            return f"its observations are not stacks of {spec.stack} successive frames, newest last"
    return ""


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def describe_demos(demos: Demonstrations, config: Config, spec: EnvSpec) -> dict[str, str]:
    """Return the metadata to store with demonstrations of a run's agent."""
    return {
        "env": config.env.id,
        "obs_shape": json.dumps(spec.obs_shape),
        "obs_dtype": str(spec.obs_dtype).removeprefix("torch."),
        "num_actions": str(spec.num_actions),
        "steps": str(len(demos.action)),
        "episodes": str(len(demos.starts)),
        "returns": json.dumps(demos.returns.tolist()),
    }


def demos_per_shard(config: Config, shards: int) -> int:
    """Return how many rows of a shard's part of a batch are demonstrations."""
    return round(config.demos.ratio * config.replay.batch_size / shards)


def with_demos(
    config: Config,
    layout: Layout,
    spec: EnvSpec,
    device: torch.device,
    dtype: torch.dtype,
    make: Callable[[Config, Layout], Replay],
) -> Replay:
    """Return the replay that `make` builds, with the demonstrations that `config` names mixed in."""
    if not config.demos.path:
        return make(config, layout)
    demos = read_demos(config.demos.path, spec, config.env.id)
    each = demos_per_shard(config, layout.shards)
    rest = replace(config, replay=replace(config.replay, batch_size=config.replay.batch_size - each * layout.shards))
    where = torch.device("cpu") if config.replay.device == "cpu" else device
    frames = Frames(spec.obs_shape, spec.stack, spec.stack_pad)
    ring = demo_ring(
        demos,
        frames,
        horizon=config.replay.n_step,
        clip_reward=config.env.clip_reward,
        device=where,
        pin=where.type == "cpu" and device.type == "cuda",
    )
    streams = {shard: seeding.generator(config.seed, "demos", shard, where) for shard in layout.owned}
    sampler = DemoSampler(ring, len(demos.action), streams)
    store = ReplayMemory(
        ring,
        frames,
        sampler,
        updates=layout.updates,
        batch_size=each * layout.shards_per_rank,
        gamma=config.replay.gamma,
        clip_reward=config.env.clip_reward,
        dtype=dtype,
        device=device,
    )
    return WithDemos(make(rest, replace(layout, config=rest)), store, sampler, layout.batch_per_rank)
