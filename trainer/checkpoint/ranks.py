"""What a checkpoint needs from the process group, and the one way in which ranks agree that something succeeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from trainer.checkpoint.errors import CheckpointError, one_line


class Ranks(Protocol):
    """The process group, as a checkpoint sees it."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def gather(self, obj: Any) -> list[Any]:
        """Return every rank's object, a small JSON value, in rank order. A collective."""


def agree(ranks: Ranks, doing: str, work: Callable[[], Any]) -> list[Any]:
    """Do this rank's part, wait for all, return every rank's result. A collective.

    Whatever goes wrong on one rank raises CheckpointError on all, with the ranks and causes; so every rank reaches the
    gather, and all go on or none does.
    """
    cause: Exception | None = None
    outcome: dict[str, Any]
    try:
        outcome = {"done": work()}
    except Exception as error:
        cause, outcome = error, {"error": one_line(error)}
    outcomes = ranks.gather(outcome)
    failed = [f"rank {rank}: {outcome['error']}" for rank, outcome in enumerate(outcomes) if "error" in outcome]
    if failed:
        raise CheckpointError(f"{doing} failed: {'; '.join(failed)}") from cause
    return [outcome["done"] for outcome in outcomes]
