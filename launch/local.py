"""`lockstep launch local`: torchrun on this machine, with the settings that make its restarts and signals reliable.

Standard library only: commands are passed as text, neither torch nor the trainer is imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from launch.checks import refusal
from launch.options import Parser, count, split

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
"""Without the last two, torchrun would die of them and leave its workers behind."""
DEFAULT_RANKS = 2  # where there is no GPU
COMMANDS = ("train", "evaluate")
_PROC_GPUS = Path("/proc/driver/nvidia/gpus")


class Launching(NamedTuple):
    """A command line, and the environment variables that it needs."""

    command: list[str]
    environment: dict[str, str]

    def text(self) -> str:
        """Return it as a shell command."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*settings, shlex.join(self.command)])


def render(
    arguments: Sequence[str], *, ranks: int, max_restarts: int = 0, python: str = "python", signals: bool = True
) -> Launching:
    """Return how to run `lockstep train ARGUMENTS` (or evaluate, if it says so) as `ranks` processes.

    signals: whether this torchrun has --signals-to-handle.
    """
    asked = [*arguments] if arguments[0] in COMMANDS else ["train", *arguments]
    command = [
        *(python, "-m", "torch.distributed.run"),
        "--standalone",
        *("--nproc-per-node", str(ranks)),
        *("--max-restarts", str(max_restarts)),
        *([f"--signals-to-handle={SIGNALS}"] if signals else []),
        *("-m", "trainer"),
        *asked,
    ]
    # the first keeps restarted workers from meeting stale keys in the agent's store (pytorch issues 135712, 167288)
    return Launching(command, {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"})


def command(argv: Sequence[str]) -> int:
    """Run `lockstep launch local`: print the command line, or become it. Raises ValueError for bad input."""
    own, arguments = _parse(argv)
    ranks = own.ranks or count_gpus(os.environ) or DEFAULT_RANKS
    launching = render(
        arguments,
        ranks=ranks,
        max_restarts=own.max_restarts,
        python=sys.executable,
        signals=_handles_signals(),
    )
    if own.dry_run:
        print(launching.text())
        return 0
    trained = arguments[1:] if arguments[0] == "train" else arguments
    # under torchrun every rank would report a mistake, followed by torchrun's own report
    if arguments[0] != "evaluate" and (told := refusal(sys.executable, trained, ranks)):
        raise ValueError(told)
    # what the user has set wins
    os.execve(launching.command[0], launching.command, launching.environment | dict(os.environ))


def count_gpus(environment: Mapping[str, str]) -> int:
    """Return how many GPUs a process started here would see, according to the driver."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [name.strip() for name in visible.split(",")]
        # CUDA stops at the first entry that names no device
        return next((i for i, name in enumerate(named) if name in ("", "-1")), len(named))
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return len(list(_PROC_GPUS.iterdir())) if _PROC_GPUS.is_dir() else 0
    return sum(line.startswith("GPU ") for line in said.splitlines())


def _handles_signals() -> bool:
    """Return whether the installed torchrun knows --signals-to-handle, from its text: importing it takes seconds."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return True
    source = Path(torch.origin).parent / "distributed" / "run.py"
    return not source.is_file() or "--signals-to-handle" in source.read_text()


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return our own options, and the arguments after `--`."""
    parser = Parser(
        prog="lockstep launch local",
        usage="%(prog)s [--ranks N] [--max-restarts K] [--dry-run] -- PRESET [--section.field VALUE ...]",
        description="Train with torchrun on this machine; `-- evaluate RUN` evaluates.",
        allow_abbrev=False,
    )
    # as text: argparse's error for a number names neither its range nor a remedy
    parser.add_argument("--ranks", metavar="N", help=f"processes; default: one per GPU, {DEFAULT_RANKS} without GPUs")
    parser.add_argument("--max-restarts", metavar="K", default="0", help="how often failed ranks restart; default 0")
    parser.add_argument("--dry-run", action="store_true", help="print the command line only")
    own, arguments = split(parser, argv, "launch local")
    own.ranks = None if own.ranks is None else count("--ranks", own.ranks, 1)
    own.max_restarts = count("--max-restarts", own.max_restarts, 0)
    return own, arguments
