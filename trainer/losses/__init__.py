"""Losses: pure maths of targets, one file per algorithm family."""

from trainer.losses.dqn import dqn
from trainer.losses.joint import Part, joint

__all__ = ["Part", "dqn", "joint"]
