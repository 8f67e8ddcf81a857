"""What the launchers share: their own options before `--`, the trainer's after it, errors in one line."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors as ValueError."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see `{self.prog} --help`")


def split(
    parser: argparse.ArgumentParser, argv: Sequence[str], name: str, *, needs: bool = True
) -> tuple[argparse.Namespace, list[str]]:
    """Return our own options, and the arguments after `--`. Raises ValueError for what is unknown or missing."""
    end = argv.index("--") if "--" in argv else len(argv)
    own, strange = parser.parse_known_args(argv[:end])
    if strange:
        known = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(strange[0].partition("=")[0], known, 1)
        remedy = f"did you mean {near[0]}?" if near else "the command to run goes after `--`"
        raise ValueError(f"{name} {strange[0]}: no such option; {remedy}")
    if needs and not argv[end + 1 :]:
        raise ValueError(f"{name}: nothing to run; put it after `--`, e.g. lockstep {name} -- cartpole")
    return own, list(argv[end + 1 :])


def count(flag: str, text: str, least: int) -> int:
    """Return a whole number of at least `least`."""
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise ValueError(f"{flag} {text}: not a number of at least {least}; write e.g. {flag} {max(least, 2)}")
    return int(text)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a remedy for an unknown name."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"use {' or '.join(names)}"
