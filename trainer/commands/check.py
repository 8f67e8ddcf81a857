"""`lockstep check`: say whether a run can work on so many ranks, in an instant: torch is not imported, nothing made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainer.cli import parse_train
from trainer.combinations_sync import replicas
from trainer.layout import scaled
from trainer.validate import validate


def command(arguments: Sequence[str]) -> int:
    """Check the arguments of `lockstep train`. Raises ValueError for the first that cannot work."""
    request = parse_train(arguments)
    ranks = request.ranks or 1
    shards = replicas(request.config, ranks) if request.config.shards is None else request.config.shards
    validate(scaled(replace(request.config, shards=shards), shards), ranks)
    return 0
