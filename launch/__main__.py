"""`lockstep launch WHERE ...`, or `python -m launch WHERE ...`: start a run here. Standard library only."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence

from launch import local

USAGE = """usage: lockstep launch WHERE [options] -- PRESET [--section.field VALUE ...]

  local   torchrun on this machine          (lockstep launch local --help)"""

WHERE: dict[str, Callable[[Sequence[str]], int]] = {"local": local.command}
EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Launch; bad input is one line on stderr and status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else EXIT_BAD_INPUT
    try:
        return _where(arguments[0])(arguments[1:])
    except ValueError as error:
        print(f"lockstep: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _where(name: str) -> Callable[[Sequence[str]], int]:
    if name not in WHERE:
        near = difflib.get_close_matches(name, WHERE, 1)
        remedy = f"did you mean {near[0]}?" if near else f"use {' or '.join(WHERE)}"
        raise ValueError(f"launch {name}: unknown; {remedy}")
    return WHERE[name]


if __name__ == "__main__":
    sys.exit(main())
