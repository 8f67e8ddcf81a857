"""`lockstep launch WHERE ...`, or `python -m launch WHERE ...`: start a run here. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from launch import bench, local, slurm, status, sweep
from launch.options import suggest

USAGE = """usage: lockstep launch WHERE [options] -- PRESET [--section.field VALUE ...]

  local    torchrun on this machine            (lockstep launch WHERE --help)
  slurm    a batch job that survives pre-emption
  sweep    one run per point of a grid: --grid seed=0..9 env.id=A,B
  bench    the scaling benchmark on 1, 2, 4, ... nodes
  status   what runs where, and how far it is: [FOLDER ...]"""

WHERE: dict[str, Callable[[Sequence[str]], int]] = {
    "local": local.command,
    "slurm": slurm.command,
    "sweep": sweep.command,
    "bench": bench.command,
    "status": status.command,
}
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
        raise ValueError(f"launch {name}: unknown; {suggest(name, WHERE)}")
    return WHERE[name]


if __name__ == "__main__":
    sys.exit(main())
