"""Before ranks meet in a collective: do all of them run the same program, and are all there?

Collectives that do not match hang, or abort the process, and never say why. So every rank first publishes what it is
about to do, over the launcher's store, which works whatever the ranks believe; rank 0 compares and answers all.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

_POLL = 0.05  # s
_LAST_WORDS = 5.0  # s


def code_version() -> dict[str, str]:
    """Return what decides how this code behaves: a hash of its text, and torch's version."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return {"code": digest.hexdigest()[:12], "torch": str(torch.__version__)}


def roll_call(store: Any, rank: int, world_size: int, facts: Mapping[str, Any], timeout: float) -> None:
    """Meet all ranks, and raise ValueError on each of them if two differ in a fact; the same words everywhere.

    facts: name -> JSON value; timeout: [s]. Raises TimeoutError if a rank does not come.
    """
    mine = {"WORLD_SIZE": world_size, **facts}
    until = time.monotonic() + timeout
    store.set(f"facts/{rank}", json.dumps(mine))
    if rank == 0:
        told = ""
        for other in range(1, world_size):
            theirs = json.loads(_wait_for(store, f"facts/{other}", f"rank {other}", until))
            if told := _difference(other, theirs, json.loads(json.dumps(mine))):
                break
        store.set("verdict", json.dumps(told))
        if told:
            _let_them_hear(store, world_size)
    else:
        told = json.loads(_wait_for(store, "verdict", "the answer of rank 0", until))
        store.set(f"heard/{rank}", "")
    if told:
        raise ValueError(told)


def _let_them_hear(store: Any, world_size: int) -> None:
    """Wait until all ranks that came have the answer: the store may be in this process, and end with it."""
    until = time.monotonic() + _LAST_WORDS
    came = [rank for rank in range(1, world_size) if store.check([f"facts/{rank}"])]
    while not all(store.check([f"heard/{rank}"]) for rank in came) and time.monotonic() < until:
        time.sleep(_POLL)


def _difference(rank: int, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """Return the first fact in which a rank differs from rank 0, in one line; empty if there is none."""
    for name in {**mine, **theirs}:
        one, other = theirs.get(name, "nothing"), mine.get(name, "nothing")
        if one != other:
            remedy = "start all ranks with the same command, from one checkout"
            return f"rank {rank} has {name} {one}, rank 0 has {other}; {remedy}"
    return ""


def _wait_for(store: Any, key: str, who: str, until: float) -> bytes:
    while not store.check([key]):
        if time.monotonic() > until:
            raise TimeoutError(f"{who} did not arrive within --runtime.timeout: check that it runs and does not hang")
        time.sleep(_POLL)
    store.wait([key], timedelta(seconds=10))
    found: bytes = store.get(key)
    return found
