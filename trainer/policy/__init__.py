"""Acting: a chooser asks the network for the best action, an explorer replaces some of them."""

from trainer.policy.actor import Actor, Chooser, Explorer
from trainer.policy.epsilon import EpsilonGreedy
from trainer.policy.greedy import Greedy
from trainer.policy.heads import FollowHead, Vote
from trainer.policy.recurrent import RecurrentGreedy
from trainer.policy.teacher import Demonstrator
from trainer.policy.zgreedy import ZetaGreedy

__all__ = [
    "Actor",
    "Chooser",
    "Demonstrator",
    "EpsilonGreedy",
    "Explorer",
    "FollowHead",
    "Greedy",
    "RecurrentGreedy",
    "Vote",
    "ZetaGreedy",
]
