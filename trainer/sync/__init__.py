"""Ways to keep the replicas together: each owns the exchange, the clip and the optimizer step."""

from trainer.sync.allreduce import AllReduce
from trainer.sync.flat import FlatParameters

__all__ = ["AllReduce", "FlatParameters"]
