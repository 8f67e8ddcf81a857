"""Narrow products within a graph: the same numbers, and a sum in place of a BLAS call."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from trainer.build.narrow import FEW, ROWS, TERMS, narrow_products


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x, weight.t())


def gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Of a layer's weights, [in, out]."""
    return x.t() @ grad


CASES = {
    "few outputs": (layer, (randn(32, 84), randn(FEW, 84), randn(FEW)), False),
    "more outputs": (layer, (randn(32, 84), randn(FEW + 1, 84), randn(FEW + 1)), True),
    "few rows": (layer, (randn(ROWS, 84), randn(120, 84), randn(120)), False),
    "more rows": (layer, (randn(ROWS + 1, 84), randn(120, 84), randn(120)), True),
    "gradient of few outputs": (gradient, (randn(32, 84), randn(32, FEW)), False),
    "gradient of more outputs": (gradient, (randn(32, 84), randn(32, FEW + 1)), True),
    "gradient of few inputs": (gradient, (randn(32, ROWS), randn(32, FEW + 1)), False),
    "gradient of more inputs": (gradient, (randn(32, ROWS + 1), randn(32, FEW + 1)), True),
    "few terms": (torch.mm, (randn(32, TERMS), randn(TERMS, 84)), False),
    "more terms": (torch.mm, (randn(32, TERMS + 1), randn(TERMS + 1, 84)), True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_narrow_product_is_a_sum_and_another_one_is_left_alone(case: str) -> None:
    function, given, called = CASES[case]
    graph = make_fx(function, narrow_products(), tracing_mode="fake")(*given)
    names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert ("aten.mm.default" in names) == called, names
    assert "aten.addmm.default" not in names, "a bias is added by what follows"
    torch.testing.assert_close(graph(*given), function(*given), rtol=0, atol=1e-12)
