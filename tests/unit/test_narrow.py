"""Matrix products within a graph: the same numbers, in the form that is fastest there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from trainer.build.narrow import FEW, ROWS, narrow_products


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x, weight.t())


def gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Of a layer's weights, [in, out]."""
    return x.t() @ grad


SUM, MM, TURNED = "a sum", "the product", "the product, transposed"
CASES = {
    "few outputs": (layer, (randn(32, 84), randn(FEW, 84), randn(FEW)), SUM),
    "more outputs": (layer, (randn(32, 84), randn(64, 84), randn(64)), MM),
    "ragged outputs": (layer, (randn(32, 84), randn(FEW + 1, 84), randn(FEW + 1)), TURNED),
    "more of them than rows": (layer, (randn(32, 84), randn(33, 84), randn(33)), MM),
    "ragged rows as well": (layer, (randn(33, 84), randn(FEW + 1, 84), randn(FEW + 1)), MM),
    "few rows": (layer, (randn(ROWS, 84), randn(120, 84), randn(120)), SUM),
    "more rows": (layer, (randn(ROWS + 1, 84), randn(120, 84), randn(120)), MM),
    "few inputs": (layer, (randn(32, FEW), randn(84, FEW), randn(84)), SUM),
    "more inputs": (layer, (randn(32, FEW + 1), randn(84, FEW + 1), randn(84)), MM),
    "gradient of few outputs": (gradient, (randn(32, 84), randn(32, FEW)), SUM),
    "gradient of more outputs": (gradient, (randn(32, 84), randn(32, FEW + 1)), MM),
    "gradient of few inputs": (gradient, (randn(32, ROWS), randn(32, FEW + 1)), SUM),
    "gradient of more inputs": (gradient, (randn(32, ROWS + 1), randn(32, FEW + 1)), MM),
    "few terms": (torch.mm, (randn(32, FEW), randn(FEW, 84)), SUM),
    "more terms": (torch.mm, (randn(32, FEW + 1), randn(FEW + 1, 84)), MM),
    "neither rows nor columns contiguous": (torch.mm, (randn(32, 8)[:, ::2], randn(4, 84)), MM),
}


@pytest.mark.parametrize("case", CASES)
def test_a_product_takes_its_fastest_form(case: str) -> None:
    function, given, form = CASES[case]
    graph = make_fx(function, narrow_products(), tracing_mode="fake")(*given)
    expected = function(*given)
    calls = {node.target: node for node in graph.graph.nodes if node.op == "call_function"}
    product = calls.get(torch.ops.aten.mm.default)
    assert form == (SUM if product is None else MM if product.meta["val"].shape == expected.shape else TURNED)
    assert torch.ops.aten.addmm.default not in calls, "a bias is added by what follows"
    torch.testing.assert_close(graph(*given), expected, rtol=0, atol=1e-12)
