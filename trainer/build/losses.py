"""The loss of a run: one of the families, with what is added to it."""

from __future__ import annotations

import functools

from trainer.config import Config
from trainer.losses import dqn
from trainer.types import Draws, Loss


def build_loss(config: Config, draws: Draws) -> Loss:
    """Return the loss that `config` states. draws: for noisy networks and sampled quantiles."""
    given = draws if config.net.noisy or config.net.head == "iqn" else None
    return functools.partial(dqn, double=config.loss.double, kind=config.loss.kind, draws=given)
