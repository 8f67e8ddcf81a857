"""Replay: a ring of rows, frame stacks, the n-step fold and samplers. Knows nothing of ranks, only of lanes."""

from trainer.replay.book import SequenceBook
from trainer.replay.compiled import CompiledMemory
from trainer.replay.demos import Demonstrations, DemoSampler, WithDemos, demo_ring
from trainer.replay.frames import Frames
from trainer.replay.heads import HeadMask
from trainer.replay.memory import ReplayMemory
from trainer.replay.prioritized import PrioritizedSampler
from trainer.replay.ring import Ring
from trainer.replay.rollouts import RolloutMemory, q_lambda
from trainer.replay.sequences import SequenceMemory
from trainer.replay.tree import SumTree
from trainer.replay.uniform import UniformSampler

__all__ = [
    "CompiledMemory",
    "DemoSampler",
    "Demonstrations",
    "Frames",
    "HeadMask",
    "PrioritizedSampler",
    "ReplayMemory",
    "Ring",
    "RolloutMemory",
    "SequenceBook",
    "SequenceMemory",
    "SumTree",
    "UniformSampler",
    "WithDemos",
    "demo_ring",
    "q_lambda",
]
