"""What every way to exchange gradients implements, and the plain one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from trainer.sync.wire import Wire
from trainer.types import State


class Compression(Protocol):
    """A mean over the ranks, exact or nearly so.

    label: the method with its settings; what one left over is of no use to another.
    """

    @property
    def label(self) -> str: ...

    def mean_(self, grad: Tensor) -> None:
        """Replace this rank's flat gradient, [P], by the mean, with the same bits on every rank. A collective."""

    def forget(self, norm: Tensor) -> None:
        """Owe nothing of a mean whose norm, [], is not finite: no update came of it."""

    def state_dict(self) -> State:
        """Return copies of what this rank still owes to the next gradients; empty if nothing is lost."""

    def load_state_dict(self, state: State) -> None: ...


class Exact:
    """The mean itself, by one all-reduce."""

    label = "none"

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def mean_(self, grad: Tensor) -> None:
        self.wire.mean_(grad)

    def forget(self, norm: Tensor) -> None:
        pass

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        assert not state
