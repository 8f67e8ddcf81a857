"""What goes wrong with checkpoints, always in one line."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, chosen or read."""


class DamagedError(CheckpointError):
    """One stored checkpoint is unfinished or is not what was written; an older one may be good."""


class UntidyError(CheckpointError):
    """A checkpoint was written and is complete; only older ones could not be deleted."""


def one_line(error: BaseException) -> str:
    """Name an exception and its message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
