"""Searches in a form that is fast within a graph on a CPU: without branches, which nobody can foresee."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def searches() -> dict[Any, Callable[..., Any]]:
    """Return the decomposition of a search into what is faster, for a tracer."""
    return {torch.ops.aten.searchsorted.Tensor: _searchsorted}


def _searchsorted(
    ordered: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Any:
    """Return how many of `ordered` [..., L] are below each of `values` [..., K], or with `right` not above, [..., K].

    All values halve what is left of their row in step: a comparison each, and no call per value.
    """
    if ordered.device.type != "cpu" or out_int32 or side is not None or sorter is not None:
        return NotImplemented
    if ordered.dim() != values.dim() or ordered.dtype != values.dtype:
        return NotImplemented
    length = ordered.shape[-1]
    found = torch.zeros_like(values, dtype=torch.int64)
    for step in (1 << bit for bit in reversed(range(length.bit_length()))):
        upto = found + step
        last = ordered.gather(-1, (upto - 1).clamp(max=length - 1))
        passed = (last <= values) if right else (last < values)
        found = torch.where(passed & (upto <= length), upto, found)
    return found
