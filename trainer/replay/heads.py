"""Which heads of an ensemble learn from which transition (bootstrapped DQN, Osband et al. 2016, appendix D)."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 2**32 - 1


class HeadMask:
    """Lets each head learn from a transition with a given probability, by a hash of (seed, row, global lane, head).

    The mask is thus fixed as long as the transition lives, takes no memory, and does not depend on the number of ranks.
    first_lane: index of this rank's lane 0 among the lanes of all ranks; lanes: of this rank.
    """

    def __init__(
        self, seed: int, heads: int, probability: float, *, first_lane: int, lanes: int, device: torch.device
    ) -> None:
        head = torch.arange(heads, device=device)
        lane = torch.arange(first_lane, first_lane + lanes, device=device)
        self.lanes, self._below = lanes, round(probability * 2**32)
        self._keys = _mix(_mix(head + _mix(torch.tensor(seed, device=device)))[None] + lane[:, None])  # [N, E]

    def __call__(self, index: Tensor) -> Tensor:
        """Return whether each head learns from the transitions at flat ring indices [K], [K, E] bool."""
        row = index // self.lanes
        return _mix(self._keys.index_select(0, index % self.lanes) + row[:, None]) < self._below


def _mix(key: Tensor) -> Tensor:
    """Return 32 random-looking bits for every int64 >= 0; only its lower 32 bits count.

    Two rounds of xor, shift and multiplication, as in the finaliser of MurmurHash3 (Appleby 2008).
    """
    key = key & _LOW
    key = ((key ^ (key >> 16)) * 0x85EBCA6B) & _LOW
    key = ((key ^ (key >> 13)) * 0xC2B2AE35) & _LOW
    return key ^ (key >> 16)
