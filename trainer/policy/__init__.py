"""Acting: a chooser asks the network for the best action, an explorer replaces some of them."""

from trainer.policy.actor import Actor, Chooser, Explorer
from trainer.policy.epsilon import EpsilonGreedy
from trainer.policy.greedy import Greedy

__all__ = ["Actor", "Chooser", "EpsilonGreedy", "Explorer", "Greedy"]
