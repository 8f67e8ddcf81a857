"""Gradients in 16 bits: half precision, or bfloat16 with the range of float32."""

from __future__ import annotations

import torch
from torch import Tensor


class Cast:
    """A code of 2 bytes per element, without feedback: rounding errors have mean zero.

    float16 has 11 bits from 6e-5 to 65,504 (fewer down to 6e-8, nothing below), bfloat16 8 bits from 1e-38 to 3e38. A
    gradient beyond that becomes infinite, on every rank, and its update is skipped like any other that is not finite.
    """

    multiple = 1
    feedback = False

    def __init__(self, label: str, narrow: torch.dtype) -> None:
        self.label, self.narrow = label, narrow

    def encode(self, values: Tensor) -> Tensor:
        return values.to(self.narrow).view(torch.uint8)

    def decode(self, code: Tensor, dtype: torch.dtype) -> Tensor:
        return code.view(self.narrow).to(dtype)
