"""A search within a graph: the same places, without a call for each value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from trainer.build.search import searches

SEARCH = torch.ops.aten.searchsorted.Tensor


def placed(ordered: Tensor, values: Tensor, right: bool, decomposed: bool = True) -> Tensor:
    """Return where a graph finds `values`; decomposed: whether its search must be gone."""
    graph = make_fx(lambda a, b: torch.searchsorted(a, b, right=right), searches(), tracing_mode="fake")(
        ordered, values
    )
    assert any(node.target is SEARCH for node in graph.graph.nodes) != decomposed
    return graph(ordered, values)  # type: ignore[no-any-return]


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
@pytest.mark.parametrize("length", [*range(1, 10), 31, 32, 33, 1000])
def test_every_place_is_the_same(length: int, dtype: torch.dtype, right: bool) -> None:
    """In several rows, with values that occur once, repeatedly, between others, and beyond both ends."""
    draws = torch.Generator().manual_seed(length)
    ordered = torch.randint(-length, length + 1, (3, length), generator=draws).sort(1).values.to(dtype)
    values = torch.arange(-length - 2, length + 3, 0.5 if dtype.is_floating_point else 1, dtype=dtype)
    rows = values.expand(3, -1).contiguous()
    found = placed(ordered, rows, right)
    assert found.dtype == torch.int64
    assert torch.equal(found, torch.searchsorted(ordered, rows, right=right))
    assert {0, length} <= set(found.flatten().tolist()), "all places are reached"


def test_rows_of_one_value_each() -> None:
    """As a tree searches the children of every node."""
    ordered = torch.rand(50, 32, generator=torch.Generator().manual_seed(0)).cumsum(1)
    values = ordered[:, -1:] * torch.linspace(0, 1.1, 50)[:, None]
    assert torch.equal(placed(ordered, values, True), torch.searchsorted(ordered, values, right=True))


def test_what_it_does_not_know_is_left_alone() -> None:
    """One row for many, or numbers of two kinds, which torch's function takes."""
    ordered = torch.arange(5)
    values = torch.tensor([[1, 7], [-1, 3]])
    assert torch.equal(placed(ordered, values, True, decomposed=False), torch.tensor([[2, 5], [0, 4]]))
