"""Replay: a ring of rows, frame stacks, the n-step fold and samplers. Knows nothing of ranks, only of lanes."""

from trainer.replay.frames import Frames
from trainer.replay.memory import ReplayMemory
from trainer.replay.ring import Ring
from trainer.replay.uniform import UniformSampler

__all__ = ["Frames", "ReplayMemory", "Ring", "UniformSampler"]
