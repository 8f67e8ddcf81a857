"""h and its inverse (Pohlen et al. 2018): the formulas of the paper, each other's inverse, in both precisions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.losses.rescale import EPSILON, rescale, unscale

VALUES = st.floats(-1e6, 1e6, allow_subnormal=False)  # a run flushes those to zero


def h(x: float) -> float:
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + EPSILON * x


def h_inverse(x: float) -> float:
    root = (math.sqrt(1 + 4 * EPSILON * (abs(x) + 1 + EPSILON)) - 1) / (2 * EPSILON)
    return math.copysign(root**2 - 1, x)


@given(VALUES)
def test_equal_the_formulas_of_the_paper(x: float) -> None:
    value = torch.tensor(x, dtype=torch.float64)
    assert rescale(value).item() == pytest.approx(h(x), rel=1e-12, abs=1e-12)
    assert unscale(value).item() == pytest.approx(h_inverse(x), rel=1e-9, abs=1e-9)


@given(VALUES)
def test_are_inverse_to_each_other(x: float) -> None:
    value = torch.tensor(x, dtype=torch.float64)
    assert unscale(rescale(value)).item() == pytest.approx(x, rel=1e-12, abs=1e-15)
    assert rescale(unscale(value)).item() == pytest.approx(x, rel=1e-12, abs=1e-15)


@given(st.floats(-1e5, 1e5, width=32))
def test_single_precision_keeps_its_digits(x: float) -> None:
    """The paper's formula as written is off by 1e-4 and more."""
    value = torch.tensor(x, dtype=torch.float32)
    assert unscale(rescale(value)).item() == pytest.approx(x, rel=3e-6, abs=1e-30)


@given(VALUES, VALUES)
def test_order_and_sign_are_kept(x: float, y: float) -> None:
    a, b = torch.tensor([x, y], dtype=torch.float64)
    assert (rescale(a) < rescale(b)) == (a < b) or abs(x - y) < 1e-9 * max(abs(x), abs(y))
    assert rescale(-a) == -rescale(a)
    assert unscale(-a) == -unscale(a)


def test_zero_and_one() -> None:
    zero = torch.zeros((), dtype=torch.float64)
    assert rescale(zero) == unscale(zero) == 0
    assert rescale(zero + 1).item() == pytest.approx(math.sqrt(2) - 1 + EPSILON, rel=1e-14)
