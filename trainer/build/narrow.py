"""Matrix products in a form that is fast within a graph on a CPU: narrow ones as sums, others as BLAS likes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

FEW = 8
"""Columns, or terms of a sum, up to which a sum in the graph is faster than BLAS."""
ROWS = 2
"""Rows up to which it is, for any number of columns: acting in one or two environments."""
REGISTER = 16
"""Numbers in a vector register."""
_aten = torch.ops.aten


def narrow_products() -> dict[Any, Callable[..., Any]]:
    """Return decompositions of products into what is faster, for a tracer."""
    return {_aten.mm.default: _mm, _aten.addmm.default: _addmm}


def _mm(a: Tensor, b: Tensor) -> Any:
    """Return a @ b, [M, K] and [K, N] -> [M, N], in another form; NotImplemented if BLAS does it best as it is."""
    if a.device.type != "cpu" or 1 not in a.stride() or 1 not in b.stride():
        return NotImplemented
    (rows, terms), columns = a.shape, b.shape[1]
    if terms <= FEW:
        return reduce(add, [a[:, i, None] * line for i, line in enumerate(_lines(b))])
    if columns <= FEW:
        return _few_columns(a, b)
    if rows <= ROWS:
        return _few_columns(b.t(), a.t()).t()
    # BLAS fills registers along the rows of the result: here they leave some unused, its columns do not
    ragged = columns % REGISTER > 0 and rows % REGISTER == 0 and rows >= columns
    if ragged and a.stride(1) == 1 and b.stride(0) == 1:
        return torch.mm(b.t(), a.t()).t()
    return NotImplemented


def _few_columns(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b as one sum per column, all of them in a single pass over `a`, in the order in which it lies."""
    if a.stride(0) == 1:
        return torch.stack([(a.t() * column[:, None]).sum(0) for column in b.unbind(1)], 1)
    return torch.stack([(a * line).sum(-1) for line in _lines(b.t())], 1)


def _lines(a: Tensor) -> Tensor:
    """Return `a` with contiguous rows; a copy is made once (`as_strided` wants memory), not anew by each reader."""
    return a if a.stride(1) == 1 else a.contiguous().as_strided(a.shape, (a.shape[1], 1))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """Return bias + a @ b, likewise; as another sum in any case, which fuses with what follows, unlike BLAS's."""
    if (beta, alpha) != (1, 1) or a.device.type != "cpu":
        return NotImplemented
    product = _mm(a, b)
    if product is NotImplemented:
        return (torch.mm(a, b)[None] + bias)[0]  # in two dimensions Inductor would make it one operation again
    return bias + product
