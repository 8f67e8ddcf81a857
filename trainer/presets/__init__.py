"""Runs that are known to work, each with the source of its hyperparameters. A preset is a function returning a Config.

Imports config alone, never torch, so that `lockstep presets` and `--help` answer at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from trainer.config import Config
from trainer.presets import atari, classic, minatar

PRESETS: dict[str, Callable[[], Config]] = {
    "debug": classic.debug,
    "cartpole": classic.cartpole,
    "cartpole-cleanrl": classic.cartpole_cleanrl,
    "acrobot": classic.acrobot,
    "mountaincar": classic.mountaincar,
    "lunarlander": classic.lunarlander,
    "minatar": minatar.minatar,
    **{f"minatar-{game.lower()}": functools.partial(minatar.minatar, game) for game in minatar.GAMES},
    **{f"minatar-dqn-{game.lower()}": functools.partial(minatar.minatar_dqn, game) for game in minatar.GAMES},
    "atari": atari.atari,
    "atari-nature": atari.atari_nature,
}
