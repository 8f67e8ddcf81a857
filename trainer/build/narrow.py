"""Matrix products with few columns or rows as sums: within a graph on a CPU, faster than BLAS."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

FEW = 8
"""Columns up to which a sum is faster."""
ROWS = 2
"""Rows up to which it is, for any number of columns: acting in one or two environments."""
TERMS = 2
"""Terms per element up to which it is: the gradient of a layer with few outputs."""
_aten = torch.ops.aten


def narrow_products() -> dict[Any, Callable[..., Any]]:
    """Return decompositions of those products into sums, for a tracer; all others are left alone."""
    return {_aten.mm.default: _mm, _aten.addmm.default: _addmm}


def _mm(a: Tensor, b: Tensor) -> Any:
    """Return a @ b, [M, K] and [K, N] -> [M, N], if one of these forms fits."""
    if a.device.type != "cpu":
        return NotImplemented
    if a.shape[1] <= TERMS and b.stride(1) == 1:
        return reduce(add, [a[:, i, None] * b[i] for i in range(a.shape[1])])
    if b.shape[1] > FEW and a.shape[0] > ROWS:
        return NotImplemented
    if a.stride(1) == 1 and b.stride(0) == 1:  # a layer with few outputs or rows: both contiguous along the sum
        return (a[:, None] * b.t()).sum(-1)
    if a.stride(0) == 1 and b.stride(1) == 1 and b.shape[1] <= FEW:  # the gradient of a layer with few inputs
        return (b[:, :, None] * a.t()[:, None]).sum(0).t()
    if b.stride(1) == 1 and a.shape[0] <= ROWS:  # that of a layer with few outputs
        return (a.t()[:, :, None] * b[:, None]).sum(0)
    return NotImplemented


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """Return bias + a @ b, likewise; as another sum in any case, which fuses with what follows, unlike BLAS's."""
    if (beta, alpha) != (1, 1) or a.device.type != "cpu":
        return NotImplemented
    product = _mm(a, b)
    if product is NotImplemented:
        return (torch.mm(a, b)[None] + bias)[0]  # in two dimensions Inductor would make it one operation again
    return bias + product
