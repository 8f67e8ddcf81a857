"""The loss of a run: one of the families, with what is added to it."""

from __future__ import annotations

import functools

import torch
from torch import nn

from trainer.config import Config
from trainer.envs import EnvSpec
from trainer.losses import Part, dqn, joint
from trainer.types import Draws, Loss


def build_loss(config: Config, spec: EnvSpec, net: nn.Module, draws: Draws, device: torch.device) -> Loss:
    """Return the loss that `config` states.

    net: the raw online network, for parts of it that only a loss uses; draws: the shards' random numbers.
    """
    loss = _family(config, draws)
    parts = _parts(config, spec, net, draws, device)
    if parts:
        loss = functools.partial(joint, base=loss, parts=parts)
    return loss


def _family(config: Config, draws: Draws) -> Loss:
    """The loss on the TD error."""
    given = draws if config.net.noisy or config.net.head == "iqn" else None
    return functools.partial(dqn, double=config.loss.double, kind=config.loss.kind, draws=given)


def _parts(config: Config, spec: EnvSpec, net: nn.Module, draws: Draws, device: torch.device) -> dict[str, Part]:
    """What is added to it, by the name of its metric."""
    parts: dict[str, Part] = {}
    return parts
