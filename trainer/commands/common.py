"""What several commands share: how a rank fails, printing a line, writing JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from trainer.run import AgreedError
from trainer.runtime import stop
from trainer.runtime.failure import EXIT_FAILED, LAST_WORDS, condense, lost_peer, tell_launcher
from trainer.runtime.ranks import Ranks

_LOOK = 0.05  # s


def fail(error: BaseException, ranks: Ranks, hint: str = "") -> int:
    """Report the first cause, make the peers end, and leave without waiting for any of them.

    hint: where to read more.
    """
    told = f"{type(error).__name__}: {error}" if not isinstance(error, AgreedError) else str(error)
    cause = condense(told)
    until = time.monotonic() + (LAST_WORDS if lost_peer(error) else 0.0)
    while time.monotonic() < until and signal.SIGTERM not in stop.heard:
        time.sleep(_LOOK)  # the launcher blames the rank that it sees end first; if it asks to end, it has seen one
    first = ranks.watch.report(cause)
    mine = first == f"rank {ranks.rank}: {cause}"
    kind = "agreed" if isinstance(error, AgreedError) else "failed" if mine and not lost_peer(error) else "peer"
    ranks.watch.last_words(kind, cause if mine or kind == "agreed" else first, error)
    if isinstance(error, AgreedError):
        if ranks.rank == 0:
            tell(cause)
    elif mine:
        traceback.print_exception(error)
        tell(f"rank {ranks.rank} failed: {cause}")
    else:
        tell(f"rank {ranks.rank} stops because of {first}")
    if hint and ranks.rank == 0:
        tell(hint)
    if (mine or isinstance(error, AgreedError)) and isinstance(error, Exception):
        tell_launcher(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)  # a peer may be in a collective that never ends: exit without cleanup


def write_json(path: Path, value: Any) -> None:
    """Write JSON by rename, so that no reader sees half of it. Raises OSError, and leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    try:
        part.write_text(json.dumps(value, indent=1) + "\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def leave_json(path: Path, value: Any) -> None:
    """Write JSON that a run can do without: a disk that refuses it costs one line of output, not the run."""
    try:
        write_json(path, value)
    except OSError as error:
        tell(f"cannot write {path}: {error}; the run continues without it")


def tell(text: str) -> None:
    """Print a `lockstep:` line on stderr."""
    print(f"lockstep: {text}", file=sys.stderr, flush=True)
