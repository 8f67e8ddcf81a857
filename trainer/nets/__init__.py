"""Networks: torsos, heads and the Q-network that joins them."""

from trainer.nets.ensemble import EnsembleHead
from trainer.nets.heads import ActionOutputs, CategoricalHead, ImplicitQuantileHead, QuantileHead, ValueHead
from trainer.nets.impala import impala, map_side
from trainer.nets.layers import NoisyLinear
from trainer.nets.qnet import QNetwork
from trainer.nets.recurrent import RecurrentQNetwork
from trainer.nets.spr import ForeseeingTorso
from trainer.nets.stages import StageNetwork, layers
from trainer.nets.tasks import TaskHead
from trainer.nets.torsos import ImageTorso, VectorTorso, minatar, nature, use_bfloat16

__all__ = [
    "ActionOutputs",
    "CategoricalHead",
    "EnsembleHead",
    "ForeseeingTorso",
    "ImageTorso",
    "ImplicitQuantileHead",
    "NoisyLinear",
    "QNetwork",
    "QuantileHead",
    "RecurrentQNetwork",
    "StageNetwork",
    "TaskHead",
    "ValueHead",
    "VectorTorso",
    "impala",
    "layers",
    "map_side",
    "minatar",
    "nature",
    "use_bfloat16",
]
