"""A run folder from outside: its config, its checkpoints and the network they hold."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from trainer import checkpoint
from trainer.build.nets import build_net
from trainer.checkpoint import layout as folders
from trainer.checkpoint import manifest, verify
from trainer.cli import read_config
from trainer.config import Config
from trainer.envs import EnvSpec
from trainer.layout import scaled
from trainer.nets import QNetwork, RecurrentQNetwork


def read_run(run: Path) -> Config:
    """Return the config of a run, scaled to its shards. Raises ValueError, in one line, if there is no run."""
    stated = read_config(run / "config.json", f"run {run}")
    assert stated.shards is not None, "train writes the shards down"
    return scaled(stated, stated.shards)


def find_checkpoint(run: Path, step: int | None) -> checkpoint.Manifest:
    """Return a run's newest good checkpoint, or that of a step, every byte checked. Raises ValueError."""
    root = run / "checkpoints"
    try:
        if step is None:
            newest = checkpoint.latest(root, warn=lambda text: print(f"lockstep: {text}", file=sys.stderr))
            if newest is None:
                raise ValueError(f"run {run}: it holds no checkpoint yet; train until it has saved one")
            return newest
        stored = sorted(entry.step for entry in folders.entries(root) if entry.mark == "")
        if step not in stored:
            has = f"it has {', '.join(map(str, stored))}" if stored else "it has none"
            raise ValueError(f"--checkpoint {step}: run {run} has no checkpoint of that step; {has}")
        found = manifest.read(folders.final(root, step))
        verify.check(found, found.files)
        return found
    except checkpoint.CheckpointError as error:
        raise ValueError(f"run {run}: {error}") from None


def load_net(
    config: Config, spec: EnvSpec, found: checkpoint.Manifest, device: torch.device
) -> QNetwork | RecurrentQNetwork:
    """Build the online network with the weights of a checkpoint. Raises ValueError if they do not fit."""
    net = build_net(config, spec, device)
    try:
        net.load_state_dict(checkpoint.load(found, ()).replicated["net"])
    except (checkpoint.CheckpointError, RuntimeError) as error:
        raise ValueError(f"{found.folder}: {' '.join(str(error).split())}") from None
    return net.eval()
