"""Low-rank factors of each weight matrix's gradient (Vogels et al. 2019, "PowerSGD")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.sync.finite import forget
from trainer.sync.flat import FlatParameters
from trainer.sync.wire import Wire
from trainer.types import State


class Matrix(NamedTuple):
    """A stretch of the flat buffer as a matrix [N, M], N <= M, with its factors: M ~ left @ right.T."""

    begin: int
    end: int
    rows: int  # of the parameter: its first dimension
    left: Tensor  # [N, r]
    right: Tensor  # [M, r]

    def of(self, flat: Tensor) -> Tensor:
        """Return this matrix in a flat buffer, [N, M], a view."""
        matrix = flat[self.begin : self.end].view(self.rows, -1)
        return matrix if len(self.left) == self.rows else matrix.t()


def sides(shape: Sequence[int], rank: int) -> tuple[int, int, int]:
    """Return (shorter side, longer side, rank of the factors) of a parameter as a matrix; a vector has rank 0.

    Rank 0 also if the factors would be no smaller than the matrix, which then travels as it is.
    """
    rows = shape[0] if shape else 1
    columns = math.prod(shape) // rows
    short, long = sorted((rows, columns))
    rank = min(rank, short)
    return short, long, rank if len(shape) > 1 and rank * (short + long) < short * long else 0


class PowerSGD:
    """One step of power iteration, started where the last one ended; all factors travel in two all-reduces.

    Vectors, and matrices that factors would not make smaller, travel with the first. What the projection on the
    common factor leaves of a rank's own gradient is added to its next one.
    """

    def __init__(self, flat: FlatParameters, wire: Wire, rank: int) -> None:
        self.wire = wire
        self.label = f"powersgd {rank}"
        found = [(b, e, shape, *sides(shape, rank)) for (_, b, e), shape in zip(flat.names, flat.shapes, strict=True)]
        lefts, rights = sum(short * r for *_, short, _, r in found), sum(long * r for *_, long, r in found)
        plain = [torch.arange(begin, end) for begin, end, *_, r in found if r == 0]
        self._plain = torch.cat([torch.arange(0), *plain]).to(flat.grad.device)  # indices of elements without factors
        self._first = flat.grad.new_zeros(lefts + len(self._plain))
        self._second = flat.grad.new_zeros(rights)
        self._plain_values = self._first[lefts:]
        self.matrices: list[Matrix] = []
        left = right = 0
        for begin, end, shape, short, long, r in found:
            factors = self._first[left : left + short * r], self._second[right : right + long * r]
            left, right = left + short * r, right + long * r
            if r:
                self.matrices.append(Matrix(begin, end, shape[0], factors[0].view(short, r), factors[1].view(long, r)))
        self._second.copy_(torch.randn(self._second.shape, generator=torch.Generator().manual_seed(0)))
        self._lost = torch.zeros_like(flat.grad)

    def mean_(self, grad: Tensor) -> None:
        """Replace this rank's flat gradient, [P], by its approximate mean (algorithms 1 and 2). A collective."""
        if self.wire.world_size == 1:
            return
        whole = self._lost.add_(grad)
        for matrix in self.matrices:
            torch.mm(matrix.of(whole), matrix.right, out=matrix.left)
        self._plain_values.copy_(whole[self._plain])
        self.wire.mean_(self._first)
        for matrix in self.matrices:
            # Householder QR, unlike Gram-Schmidt, gives a basis for zeros as well: no layer stays silent forever
            matrix.left.copy_(torch.linalg.qr(matrix.left).Q)
            mine = matrix.of(whole)
            torch.mm(mine.t(), matrix.left, out=matrix.right)
            mine.addmm_(matrix.left, matrix.right.t(), alpha=-1)
        self.wire.mean_(self._second)
        for matrix in self.matrices:
            matrix.of(grad).copy_(matrix.left @ matrix.right.t())
        grad[self._plain] = self._plain_values
        whole[self._plain] = 0.0

    def forget(self, norm: Tensor) -> None:
        """Owe nothing; the factors restart from zeros, which the QR in `mean_` allows."""
        forget([self._lost, self._second], norm)

    def state_dict(self) -> State:
        return {"lost": self._lost.clone(), "right": self._second.clone()}

    def load_state_dict(self, state: State) -> None:
        self._lost.copy_(state["lost"])
        self._second.copy_(state["right"])
