"""Optimizers of parts of the flat buffer: levels relative to a part, and states of parts joined into the whole's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.sync.step import Level
from trainer.types import State


def within(levels: Sequence[Level], part: slice) -> list[Level]:
    """Return the levels relative to a buffer that holds `part` alone; they may extend beyond it on both sides."""
    return [level._replace(begin=level.begin - part.start, end=level.end - part.start) for level in levels]


def on_host(state: State) -> State:
    """Return an optimizer's state in CPU memory, to be sent as objects."""
    return {
        level: {name: value.cpu() if isinstance(value, Tensor) else value for name, value in moments.items()}
        for level, moments in state.items()
    }


def joined(states: Sequence[State]) -> State:
    """Return what one optimizer of the whole buffer would hold, from the states of its parts in order.

    Values per weight are concatenated; step counts are the same in all parts.
    """
    whole: dict[str, dict[str, list[Tensor]]] = {}
    for state in states:
        for level, moments in state.items():
            gathered = whole.setdefault(level, {})
            for name, value in moments.items():
                gathered.setdefault(name, []).append(value)
    return {level: {name: _join(values) for name, values in moments.items()} for level, moments in whole.items()}


def _join(values: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) and values[0].dim() else values[0]
