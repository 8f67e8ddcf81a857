"""What travels instead of the gradient: fewer bits, fewer elements, or factors of its matrices."""

from trainer.sync.compress.base import Compression, Exact
from trainer.sync.compress.cast import Cast
from trainer.sync.compress.hooks import Hook
from trainer.sync.compress.int8 import Int8
from trainer.sync.compress.narrow import Narrow
from trainer.sync.compress.powersgd import PowerSGD
from trainer.sync.compress.topk import TopK

__all__ = ["Cast", "Compression", "Exact", "Hook", "Int8", "Narrow", "PowerSGD", "TopK"]
