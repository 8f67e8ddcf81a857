"""Environments whose whole step is tensor operations, so that they live where the network does. Tensors in and out."""

from trainer.envs.device.backend import DeviceBackend
from trainer.envs.device.games import IDS

__all__ = ["IDS", "DeviceBackend"]
