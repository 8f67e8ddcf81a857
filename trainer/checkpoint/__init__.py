"""Checkpoints: each rank writes its shards and rank 0 the rest; any world size can resume from them.

Knows states, folders and how ranks agree, but not what the states mean. Tensors and JSON only, no pickle.
"""

from trainer.checkpoint.errors import CheckpointError
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.ranks import Ranks
from trainer.checkpoint.reader import Loaded, load
from trainer.checkpoint.saver import Saver
from trainer.checkpoint.verify import latest
from trainer.checkpoint.writer import save

__all__ = ["CheckpointError", "Loaded", "Manifest", "Ranks", "Saver", "latest", "load", "save"]
