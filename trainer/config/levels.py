"""Parts of the network with an optimizer of their own, as the user states them: `torso=rmsprop,lr=0.5,every=2`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from trainer.config.errors import ConfigError

OptimKind = Literal["adam", "rmsprop", "radam", "sgd", "adagrad", "adadelta"]
_FORM = "write NAME=KIND,lr=MULTIPLE,every=UPDATES, e.g. torso=rmsprop,lr=0.5,every=2"


@dataclass(frozen=True)
class LevelConfig:
    """Parameters whose name begins with `prefix`; lr: a multiple of the learning rate; every: updates per step."""

    prefix: str
    kind: OptimKind
    lr: float = 1.0
    every: int = 1


def parse_levels(told: Sequence[str]) -> list[LevelConfig]:
    """Parse the levels in the order they are stated. Raises ConfigError for the first invalid one."""
    levels: list[LevelConfig] = []
    for text in told:
        level = _parse(text)
        if any(level.prefix == other.prefix for other in levels):
            raise _refusal(text, f"{level.prefix} is named twice", "name every part of the network once")
        levels.append(level)
    return levels


def level_of(levels: Sequence[LevelConfig], name: str) -> int:
    """Return the index of the level that parameter `name` belongs to; one past the last: none.

    A level is named by whole components, and the longest name wins: `torso.layers.0` before `torso`.
    """
    fitting = [i for i, level in enumerate(levels) if f"{name}.".startswith(f"{level.prefix}.")]
    return max(fitting, key=lambda i: len(levels[i].prefix), default=len(levels))


def check_names(levels: Sequence[LevelConfig], told: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigError for the first level that has none of the network's parameters, which are called `names`."""
    taken = {level_of(levels, name) for name in names}
    for i, (level, text) in enumerate(zip(levels, told, strict=True)):
        if i in taken:
            continue
        if any(level_of([level], name) == 0 for name in names):
            raise _refusal(text, "longer names claim all of its parameters", "omit it, or one of those")
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
        problem = f"no parameter's name begins with {level.prefix}"
        raise _refusal(text, problem, f"use {parts}, or more of a name, as in {names[0]}")


def _parse(text: str) -> LevelConfig:
    prefix, _, rest = text.partition("=")
    kind, *options = rest.split(",")
    if not prefix or not rest or prefix != prefix.strip():
        raise _refusal(text, "not a level", _FORM)
    if kind not in get_args(OptimKind):
        problem = f"{kind or 'an empty name'} is not an optimizer"
        raise _refusal(text, problem, f"use one of {', '.join(get_args(OptimKind))}")
    values: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in ("lr", "every"):
            raise _refusal(text, f"{option or 'an empty option'} is neither lr=... nor every=...", _FORM)
        if name in values:
            raise _refusal(text, f"{name} is given twice", _FORM)
        values[name] = value
    return LevelConfig(prefix, cast(OptimKind, kind), _lr(text, values), _every(text, values))


def _lr(text: str, values: dict[str, str]) -> float:
    given = values.get("lr", "1")
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise _refusal(text, f"lr={given} is not a multiple of the learning rate", "choose a number above 0")
    return value


def _every(text: str, values: dict[str, str]) -> int:
    given = values.get("every", "1")
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise _refusal(text, f"every={given} is not a number of updates", "choose a whole number, 1 or more")
    return int(given)


def _refusal(text: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError("optim.levels", text, problem, remedy)
