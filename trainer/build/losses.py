"""The loss of a run: one of the families, plus added terms."""

from __future__ import annotations

import functools

import torch
from torch import nn

from trainer.config import Config
from trainer.envs import EnvSpec
from trainer.losses import (
    Munchausen,
    Part,
    Teacher,
    c51,
    distill,
    dqn,
    ensemble,
    joint,
    large_margin,
    quantile,
    returns,
    sequence,
    shifted,
    spr,
)
from trainer.types import Draws, Loss


def build_loss(
    config: Config,
    spec: EnvSpec,
    net: nn.Module,
    draws: Draws,
    device: torch.device,
    teacher: Teacher | None = None,
) -> Loss:
    """Return the loss that `config` states.

    net: the raw online network, for parts of it that only a loss uses; draws: the shards' random numbers.
    """
    loss = _family(config, draws)
    parts = _parts(config, spec, net, draws, device, teacher)
    if parts:
        loss = functools.partial(joint, base=loss, parts=parts)
    if config.pixels.shift:  # outermost, so that added terms see the same images
        loss = functools.partial(shifted, base=loss, draws=draws, pixels=config.pixels.shift)
    return loss


def _family(config: Config, draws: Draws) -> Loss:
    """The loss on the TD error."""
    if config.replay.kind == "rollout":
        return functools.partial(returns, kind=config.loss.kind)
    given = draws if config.net.noisy or config.net.head == "iqn" else None
    if config.replay.kind == "sequence":
        return functools.partial(
            sequence,
            burn_in=config.replay.burn_in,
            double=config.loss.double,
            kind=config.loss.kind,
            rescaled=config.loss.rescale,
            eta=config.replay.eta,
            draws=given,
        )
    if config.net.ensemble > 1:
        return functools.partial(ensemble, double=config.loss.double, kind=config.loss.kind, draws=given)
    net, loss = config.net, config.loss
    soft = Munchausen(loss.munchausen_alpha, loss.munchausen_tau, loss.munchausen_min) if loss.munchausen else None
    family: Loss
    if net.head == "c51":
        assert net.v_min is not None
        assert net.v_max is not None
        family = functools.partial(c51, v_min=net.v_min, v_max=net.v_max)
    elif net.head in ("qr", "iqn"):
        family = functools.partial(
            quantile,
            kappa=loss.kappa,
            munchausen=soft,
            fractions=loss.fractions,
            target_fractions=loss.target_fractions,
        )
    else:
        family = functools.partial(dqn, kind=loss.kind, munchausen=soft)
    return functools.partial(family, double=loss.double, target=loss.target, draws=given)


def _parts(
    config: Config,
    spec: EnvSpec,
    net: nn.Module,
    draws: Draws,
    device: torch.device,
    teacher: Teacher | None,
) -> dict[str, Part]:
    """The terms added to it, by the name of their metric."""
    parts: dict[str, Part] = {}
    if config.pixels.spr > 0:
        parts["spr_loss"] = functools.partial(spr, online=net, weight=config.pixels.spr)
    if teacher is not None and config.teacher.weight > 0:
        parts["distillation"] = functools.partial(distill, teacher=teacher, weight=config.teacher.weight)
    if config.demos.path and config.demos.weight > 0:
        parts["margin"] = functools.partial(large_margin, margin=config.demos.margin, weight=config.demos.weight)
    return parts
