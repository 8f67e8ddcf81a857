"""Networks: torsos, heads and the Q-network that joins them."""

from trainer.nets.heads import DuelingHead, ValueHead
from trainer.nets.qnet import QNetwork
from trainer.nets.torsos import ImageTorso, VectorTorso, minatar, nature

__all__ = ["DuelingHead", "ImageTorso", "QNetwork", "ValueHead", "VectorTorso", "minatar", "nature"]
