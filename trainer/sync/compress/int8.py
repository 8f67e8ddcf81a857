"""Gradients in 8 bits: integers with one scale per chunk, and error feedback.

Quantised gradients with feedback go back to Seide et al. 2014 ("1-Bit Stochastic Gradient Descent").
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 256  # elements that share a scale
_LARGEST = 127
_LEAST = torch.finfo(torch.float32).tiny  # a scale for chunks of zeros


class Int8:
    """A code of 1 byte per element and 4 for the scale of each chunk, the chunk's largest magnitude / 127.

    A number that is not finite spoils its chunk, on every rank, so it cannot go unnoticed.
    """

    label = "int8"
    multiple = CHUNK
    feedback = True

    def encode(self, values: Tensor) -> Tensor:
        chunks = values.view(len(values), -1, CHUNK)
        scale = (chunks.abs().amax(2, keepdim=True) / _LARGEST).to(torch.float32).clamp(min=_LEAST)
        steps = (chunks / scale.to(values.dtype)).round_().clamp_(-_LARGEST, _LARGEST)
        numbers = steps.nan_to_num_(0.0).to(torch.int8).flatten(1).view(torch.uint8)
        return torch.cat((numbers, scale.flatten(1).view(torch.uint8)), 1)

    def decode(self, code: Tensor, dtype: torch.dtype) -> Tensor:
        numbers = code.shape[1] // (CHUNK + 4) * CHUNK
        steps = code[:, :numbers].view(torch.int8).to(dtype).view(len(code), -1, CHUNK)
        scale = code[:, numbers:].view(torch.float32).to(dtype)
        return steps.mul_(scale[:, :, None]).flatten(1)
