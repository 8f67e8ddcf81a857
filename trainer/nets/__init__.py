"""Networks: torsos, heads and the Q-network that joins them."""

from trainer.nets.heads import ActionOutputs, ValueHead
from trainer.nets.layers import NoisyLinear
from trainer.nets.qnet import QNetwork
from trainer.nets.torsos import ImageTorso, VectorTorso, minatar, nature

__all__ = ["ActionOutputs", "ImageTorso", "NoisyLinear", "QNetwork", "ValueHead", "VectorTorso", "minatar", "nature"]
