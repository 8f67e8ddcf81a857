"""Gradients that travel in fewer bits and are summed in many.

An all-reduce of narrow numbers rounds at every hop and overflows in the sum. Here every rank owns a share of the
elements: its peers send it their numbers for that share as bytes, it adds them up in the gradient's own precision, and
returns the mean as bytes. Each rank sends what a ring all-reduce of that many bytes sends; all decode the same bytes.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from trainer.sync.finite import forget
from trainer.sync.wire import Wire
from trainer.types import State


class Code(Protocol):
    """Numbers as bytes, and back.

    multiple: the number of elements is a multiple of it; feedback: add what rounding lost to the next gradient.
    """

    label: str
    multiple: int
    feedback: bool

    def encode(self, values: Tensor) -> Tensor:
        """Return [R, K] numbers as [R, bytes], uint8."""

    def decode(self, code: Tensor, dtype: torch.dtype) -> Tensor:
        """Return [R, bytes] as [R, K] numbers."""


class Narrow:
    """The mean over ranks of numbers in a narrow `code`.

    With feedback, every rank adds what its own rounding lost to its next gradient, and the owner of a share adds what
    rounding the mean lost to its next mean (Tang et al. 2019, "DoubleSqueeze").
    """

    def __init__(self, like: Tensor, wire: Wire, code: Code) -> None:
        self.wire, self.code = wire, code
        each = -(-like.numel() // (wire.world_size * code.multiple)) * code.multiple
        self._whole = like.new_zeros(wire.world_size, each)  # a row per owner, padded after the last element
        lost = code.feedback and wire.world_size > 1
        self._lost = torch.zeros_like(self._whole) if lost else None
        self._lost_of_mean = like.new_zeros(1, each) if lost else None

    @property
    def label(self) -> str:
        return self.code.label

    def mean_(self, grad: Tensor) -> None:
        """Replace this rank's flat gradient, [P], by the approximate mean. A collective."""
        if self.wire.world_size == 1:
            return
        flat = self._whole.view(-1)[: grad.numel()]
        flat.copy_(grad)
        received = self.wire.exchange(self._encode(self._whole, self._lost))
        mean = self.code.decode(received, grad.dtype).mean(0, keepdim=True)
        returned = self.wire.gather(self._encode(mean, self._lost_of_mean)[0])
        self._whole.copy_(self.code.decode(returned, grad.dtype))
        grad.copy_(flat)

    def _encode(self, values: Tensor, lost: Tensor | None) -> Tensor:
        """Return the code of `values` plus what was lost before; record what is lost now."""
        if lost is None:
            return self.code.encode(values)
        code = self.code.encode(values.add_(lost))
        torch.sub(values, self.code.decode(code, values.dtype), out=lost)
        return code

    def forget(self, norm: Tensor) -> None:
        forget([lost for lost in (self._lost, self._lost_of_mean) if lost is not None], norm)

    def state_dict(self) -> State:
        if self._lost is None or self._lost_of_mean is None:
            return {}
        return {"lost": self._lost.clone(), "lost_of_mean": self._lost_of_mean.clone()}

    def load_state_dict(self, state: State) -> None:
        if self._lost is not None and self._lost_of_mean is not None:
            self._lost.copy_(state["lost"])
            self._lost_of_mean.copy_(state["lost_of_mean"])
