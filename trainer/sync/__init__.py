"""Ways to keep replicas in sync: each owns the exchange, the clipping and the optimizer step."""

from trainer.sync.allreduce import AllReduce, Overlapped
from trainer.sync.flat import FlatParameters
from trainer.sync.handoff import Handoff
from trainer.sync.staged import Meeting, Staged, meet
from trainer.sync.step import ClippedOptimizer, Level
from trainer.sync.strategy import Strategy
from trainer.sync.wire import Wire

__all__ = [
    "AllReduce",
    "ClippedOptimizer",
    "FlatParameters",
    "Handoff",
    "Level",
    "Meeting",
    "Overlapped",
    "Staged",
    "Strategy",
    "Wire",
    "meet",
]
