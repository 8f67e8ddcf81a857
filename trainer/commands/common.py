"""What several commands share: how a rank fails, how a line is told, how JSON is written."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from trainer.run import AgreedError
from trainer.runtime.failure import EXIT_FAILED, LAST_WORDS, condense, lost_peer, tell_launcher
from trainer.runtime.ranks import Ranks


def fail(error: BaseException, ranks: Ranks, hint: str = "") -> int:
    """Tell the first cause, make the peers end, and leave without waiting for any of them.

    hint: where one can read more.
    """
    told = f"{type(error).__name__}: {error}" if not isinstance(error, AgreedError) else str(error)
    cause = condense(told)
    if lost_peer(error):
        time.sleep(LAST_WORDS)  # the launcher blames the rank that it sees end first
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
        tell(f"rank {ranks.rank} stops, because of {first}")
    if hint and ranks.rank == 0:
        tell(hint)
    if (mine or isinstance(error, AgreedError)) and isinstance(error, Exception):
        tell_launcher(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)  # a peer may sit in a collective that will never end: no goodbye


def write_json(path: Path, value: Any) -> None:
    """Write JSON by rename, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def tell(text: str) -> None:
    """Print a line of our own on stderr."""
    print(f"lockstep: {text}", file=sys.stderr, flush=True)
