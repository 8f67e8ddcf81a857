"""`lockstep presets`: what there is to train, or one preset in full. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.cli import find_preset, parse_options
from trainer.config import Config
from trainer.presets import PRESETS


@dataclass(frozen=True)
class Options:
    """List the presets, or print one in full: as JSON that `lockstep train FILE.json` takes."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Preset to print."""


def command(rest: list[str]) -> int:
    """Run `lockstep presets`."""
    options = parse_options(Options, rest, "presets")
    if options.name is not None:
        print(json.dumps(find_preset(options.name).to_dict(), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(_table())
    console.print("lockstep presets NAME shows one in full; lockstep train NAME runs it.")
    return 0


def _table() -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("preset", style="bold", no_wrap=True)
    table.add_column("env steps", justify="right", no_wrap=True)
    table.add_column("what it is")
    for name, make in PRESETS.items():
        table.add_row(name, f"{make().total_env_steps:,}", Text(describe(name, make)))
    return table


def describe(name: str, make: Callable[[], Config]) -> str:
    """Return the environment and first line of a preset's docstring; for a variant, what it derives from."""
    function = getattr(make, "func", None)  # of functools.partial, whose own docstring is not wanted
    family = max((other for other in PRESETS if name.startswith(f"{other}-")), key=len, default=None)
    text = make.__doc__ if function is None else None
    if text is None:
        text = f"as {family}" if family is not None else (getattr(function, "__doc__", None) or "")
    env, line = make().env.name, text.strip().partition("\n")[0].rstrip(".")
    return line if env in line else f"{env}: {line}" if line else env
