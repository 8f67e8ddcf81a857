"""Losses: one small file per algorithm family."""

from trainer.losses.dqn import dqn

__all__ = ["dqn"]
