"""`lockstep doctor [RUN]`: what happened to a run, or whether this machine can train. Works without missing parts."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from trainer.cli import parse_options
from trainer.commands.machine import Check, checks
from trainer.doctor.boxes import gather
from trainer.doctor.verdict import Stored, verdict, where

EXIT_BAD_MACHINE = 1
UNFINISHED = "its save was interrupted"
"""How `checkpoint.latest` reports what a run was writing when it died, which is not damage."""
_WIDTH = 100
_STYLES = {"ok": "green", "warning": "yellow", "bad": "bold red"}


@dataclass(frozen=True)
class Options:
    """Say what happened to a run, or, without RUN, whether this machine can train, and what it lacks."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """Run folder, as printed at the start of the run."""
    dir: Path = Path("runs")
    """Without RUN: the folder whose disk is tested, where run folders would be created (--log.dir)."""


def command(rest: list[str]) -> int:
    """Run `lockstep doctor`. Raises ValueError, in one line, if RUN is not a run."""
    options = parse_options(Options, rest, "doctor")
    return show(checks(options.dir)) if options.run is None else tell(options.run)


def tell(run: Path) -> int:
    """Print what happened to a run."""
    gather(run)  # refuses what is not a run before torch is imported
    kept = stored(run)
    evidence = gather(run)
    found = verdict(evidence, kept)
    width = min(_WIDTH, shutil.get_terminal_size().columns)
    print(textwrap.fill(found.text, width, break_long_words=False, break_on_hyphens=False))
    if found.go_on:
        print(f"continue with: {found.go_on}")
    if folder := where(evidence):
        print(f"evidence:      {folder}")
    return 0


def stored(run: Path) -> Stored:
    """Return the newest checkpoint whose every byte is as it was written."""
    try:
        from trainer import checkpoint
    except ImportError as error:
        return Stored(trouble=f"checkpoints cannot be read here: {error}")
    skipped: list[str] = []
    try:
        newest = checkpoint.latest(run / "checkpoints", warn=skipped.append)
    except checkpoint.CheckpointError as error:
        return Stored(trouble=" ".join(str(error).split()))
    bad = [line for line in skipped if not line.endswith(UNFINISHED)]
    trouble = "a later one was not finished" if len(bad) < len(skipped) else ""
    if bad:
        trouble = (
            f"{len(bad)} later ones are damaged: {bad[0]}" if len(bad) > 1 else f"a later one is damaged: {bad[0]}"
        )
    if newest is None:
        return Stored(trouble=trouble)
    envs = newest.info.get("config", {}).get("env", {}).get("num_envs", 0)
    return Stored(newest.step, newest.step * envs, trouble)


def show(found: Iterable[Check]) -> int:
    """Print checks as they come; return the exit status."""
    console = Console(highlight=False, soft_wrap=True)
    counts: Counter[str] = Counter()
    for check in found:
        counts[check.state] += 1
        console.print(Text.assemble((f"{check.state:8}", _STYLES[check.state]), f"{check.name:24}", check.told))
        if check.remedy:
            console.print(f"{'':32}-> {check.remedy}", style="bright_black", markup=False)
    if counts["bad"]:
        console.print(f"training cannot work here: {counts['bad']} of {counts.total()} checks are bad")
        return EXIT_BAD_MACHINE
    warned = f", {counts['warning']} with a warning" if counts["warning"] else ""
    console.print(f"training can work here: {counts.total()} checks{warned}")
    return 0
