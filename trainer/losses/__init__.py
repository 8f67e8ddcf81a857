"""Losses: pure maths of targets, one file per algorithm family."""

from trainer.losses.c51 import c51
from trainer.losses.distill import Teacher, distill, teach
from trainer.losses.dqn import dqn
from trainer.losses.ensemble import ensemble
from trainer.losses.joint import Part, joint
from trainer.losses.margin import large_margin
from trainer.losses.munchausen import Munchausen
from trainer.losses.quantile import quantile
from trainer.losses.returns import returns
from trainer.losses.sequence import sequence
from trainer.losses.shift import shifted
from trainer.losses.spr import spr

__all__ = [
    "Munchausen",
    "Part",
    "Teacher",
    "c51",
    "distill",
    "dqn",
    "ensemble",
    "joint",
    "large_margin",
    "quantile",
    "returns",
    "sequence",
    "shifted",
    "spr",
    "teach",
]
