"""Parameter servers: the weights live on the first ranks, in lock-step with the workers or at each worker's pace."""

from trainer.sync.server.asynchronous import AsyncServer
from trainer.sync.server.lockstep import SyncServer

__all__ = ["AsyncServer", "SyncServer"]
