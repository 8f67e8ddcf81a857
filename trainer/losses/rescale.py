"""Value rescaling, so that one network copes with rewards of any size (Pohlen et al. 2018)."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-3


def rescale(x: Tensor) -> Tensor:
    """Return h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x (Pohlen et al. 2018, section 3.2)."""
    size = x.abs()
    return x.sign() * (size / ((size + 1).sqrt() + 1)) + EPSILON * x  # sqrt(y + 1) - 1 without cancellation


def unscale(x: Tensor) -> Tensor:
    """Return h^-1(x) = sign(x) (r^2 - 1), r = (sqrt(1 + 4 epsilon (|x| + 1 + epsilon)) - 1) / (2 epsilon).

    (Pohlen et al. 2018, proposition A.2.) As written there, single precision leaves four digits. Here r - 1 is
    computed without subtracting close numbers, from the root s and s^2 - (1 + 2 epsilon)^2 = 4 epsilon |x|.
    """
    size = x.abs()
    root = (1 + 4 * EPSILON * (size + 1 + EPSILON)).sqrt()
    above = (2 * size - 4 * EPSILON * size / (root + 1 + 2 * EPSILON)) / (root + 1)  # r - 1
    return x.sign() * above * (above + 2)
