"""What happens to an update whose gradient is not finite: nothing is stepped, and nothing of it is kept.

The norm after the exchange decides, with the same bits on every rank that shares the gradient, so all decide alike.
On the CPU reading a number costs nothing; a GPU is never waited for, so there the decision stays in a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def refuses(norm: Tensor) -> bool:
    """Whether a norm, [], is known to be non-finite; never on a GPU, where it is not read."""
    return norm.device.type == "cpu" and not math.isfinite(norm)


def forget(kept: Iterable[Tensor], norm: Tensor) -> None:
    """Zero what was kept of this gradient for later ones, if its norm, [], is not finite."""
    if norm.device.type != "cpu":
        bad = ~norm.isfinite()
        for values in kept:
            values.masked_fill_(bad, 0.0)
    elif not math.isfinite(norm):
        for values in kept:
            values.zero_()


def step_if(fine: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step if `fine`, [], is set, else leave weights and moments as they are, without reading it on the host.

    Gradients must be finite. Step counts that an optimizer keeps on the host advance anyway; only RAdam minds.
    """
    if optimizer.defaults.get("fused"):  # such a step can skip itself, as it does for gradient scalers
        vars(optimizer)["found_inf"] = (~fine).to(torch.float32)
        optimizer.step()
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = (value for weight in weights for value in optimizer.state.get(weight, {}).values())
    held = [t.data for t in (*weights, *moments) if isinstance(t, Tensor) and t.device == fine.device]
    before = [t.clone() for t in held]
    optimizer.step()
    for now, then in zip(held, before, strict=True):
        torch.where(fine, now, then, out=now)
