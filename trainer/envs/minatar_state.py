"""Save and restore MinAtar's games, as JSON values and tensors.

A game is a plain object whose attributes are numbers, flags, None, lists of such lists, and small arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trainer.types import State

CONSTANT = ("channels", "action_map", "ramping", "random")


def game_state(game: Any) -> State:
    """Return everything that changes in a game, except its random stream."""
    return {name: _plain(value) for name, value in vars(game).items() if name not in CONSTANT}


def load_game_state(game: Any, state: State) -> None:
    for name, value in state.items():
        setattr(game, name, _own(value))


def random_state(random: np.random.RandomState) -> State:
    state: Any = random.get_state(legacy=False)
    return {
        "key": torch.from_numpy(state["state"]["key"].astype(np.int64)),
        "pos": int(state["state"]["pos"]),
        "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }


def load_random_state(random: np.random.RandomState, state: State) -> None:
    key = state["key"].numpy().astype(np.uint32)
    random.set_state(("MT19937", key, state["pos"], state["has_gauss"], state["gauss"]))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    assert value is None or isinstance(value, bool | int | float), f"a MinAtar game holds a {type(value)}"
    return value


def _own(value: Any) -> Any:
    """Return a copy, so that the game does not go on changing the checkpoint's lists."""
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()
    return [_own(item) for item in value] if isinstance(value, list) else value
