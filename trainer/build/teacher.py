"""Teachers: trained runs whose networks are rebuilt, frozen, for a student to learn from."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer import checkpoint
from trainer.build.envs import inspect_env
from trainer.build.nets import in_precision
from trainer.build.trained import find_checkpoint, load_net, read_run
from trainer.checkpoint import layout as folders
from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.losses import Teacher, teach
from trainer.runtime.ranks import Ranks
from trainer.types import Given, QOut


def check_teachers(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError or ValueError, in one line, for the first teacher that does not fit this environment."""
    for i, run in enumerate(config.teacher.runs):
        learned = _read(run)
        if learned.env.tasks:
            raise ConfigError("teacher.runs", run, "it was trained on several tasks", "name a run for each task")
        if learned.net.lstm or learned.replay.kind == "sequence":
            raise ConfigError("teacher.runs", run, "its network is recurrent", "name one without --net.lstm")
        mine = spec.tasks[i] if spec.tasks else spec
        env_id = config.env.tasks[i] if config.env.tasks else config.env.id
        theirs = inspect_env(learned)
        if _spaces(theirs) != _spaces(mine):
            problem = f"trained on {learned.env.id} ({_spaces(theirs)}), but {env_id} has {_spaces(mine)}"
            raise ConfigError("teacher.runs", run, problem, f"name runs of {env_id}, with the same settings of env.*")
        try:
            stored = any(entry.mark in ("", ".old-") for entry in folders.entries(Path(run) / "checkpoints"))
        except OSError as error:
            raise ConfigError("teacher.runs", run, f"{error.strerror}: {error.filename}", "check the folder") from None
        if not stored:
            raise ConfigError("teacher.runs", run, "it holds no checkpoint yet", "train until it has saved one")


def load_teachers(config: Config, spec: EnvSpec, ranks: Ranks) -> Teacher | None:
    """Return the policy of the teachers' newest good checkpoints, the same on every rank. A collective.

    They compute in the precision of the run: a temperature of 0.01 magnifies a rounding error a hundredfold.
    """
    runs = config.teacher.runs
    if not runs:
        return None
    found: list[checkpoint.Manifest] = []
    if ranks.rank == 0:  # a teacher that is still training may save another one meanwhile
        found = [find_checkpoint(Path(run), None) for run in runs]
    found = ranks.gather(found)[0]
    nets: list[nn.Module] = []
    for i, (run, manifest) in enumerate(zip(runs, found, strict=True)):
        own = spec.tasks[i] if spec.tasks else spec
        net = in_precision(load_net(_read(run), own, manifest, ranks.device), config)
        net.requires_grad_(False)
        nets.append(net if own is spec else _OneTask(net, own, spec))
    return functools.partial(teach, nets=nets, temperature=config.teacher.temperature)


class _OneTask(nn.Module):
    """A teacher of one task, among the padded observations and repeated actions of several."""

    def __init__(self, net: nn.Module, own: EnvSpec, joined: EnvSpec) -> None:
        super().__init__()
        self.net, self.size = net, own.obs_shape[0]
        self.register_buffer("meant", torch.arange(joined.num_actions) % own.num_actions)

    def forward(self, obs: Tensor, given: Given) -> QOut:
        """Map obs [B, *] of all tasks to q [B, A] of all actions."""
        return QOut(self.net(obs[:, : self.size], given).q[:, self.meant])


def _read(run: str) -> Config:
    try:
        return read_run(Path(run))
    except ValueError as error:
        raise ValueError(f"--teacher.runs {run}: {str(error).removeprefix(f'run {run}: ')}") from None


def _spaces(spec: EnvSpec) -> str:
    kind = str(spec.obs_dtype).removeprefix("torch.")
    return f"{kind} observations {spec.obs_shape} and {spec.num_actions} actions"
