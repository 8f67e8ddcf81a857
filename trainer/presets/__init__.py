"""Runs that are known to work, each with the source of its hyperparameters. A preset is a function returning a Config.

Imports config alone, never torch, so that `lockstep presets` and `--help` answer at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from trainer.config import Config
from trainer.presets import (
    atari,
    btr,
    classic,
    distributional,
    exploration,
    minatar,
    multitask,
    pixels,
    pqn,
    r2d2,
    teaching,
)

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
    **{f"minatar-ddp-{game.lower()}": functools.partial(minatar.minatar_ddp, game) for game in minatar.GAMES},
    **{f"minatar-rainbow-{game.lower()}": functools.partial(minatar.minatar_rainbow, game) for game in minatar.GAMES},
    "minatar-multitask": multitask.minatar_multitask,
    "atari": atari.atari,
    "atari-nature": atari.atari_nature,
    "c51": distributional.c51,
    "qr-dqn": distributional.qr_dqn,
    "iqn": distributional.iqn,
    "munchausen-dqn": distributional.munchausen_dqn,
    "munchausen-iqn": distributional.munchausen_iqn,
    "rainbow": distributional.rainbow,
    "dopamine-rainbow": distributional.dopamine_rainbow,
    "btr": btr.btr,
    "noisy-dqn": exploration.noisy_dqn,
    "bootstrapped-dqn": exploration.bootstrapped_dqn,
    "ez-greedy": exploration.ez_greedy,
    "apex": exploration.apex,
    "der": pixels.der,
    "drq": pixels.drq,
    "spr": pixels.spr,
    "dqfd": teaching.dqfd,
    "pqn-cartpole": pqn.pqn_cartpole,
    "pqn-minatar": pqn.pqn_minatar,
    **{f"pqn-minatar-{game.lower()}": functools.partial(pqn.pqn_minatar, game) for game in minatar.GAMES},
    "pqn-atari": pqn.pqn_atari,
    "r2d2": r2d2.r2d2,
    "r2d2-cartpole": r2d2.r2d2_cartpole,
}
