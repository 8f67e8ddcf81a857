"""Importance weights: what the learner makes of P(i), against NumPy, with several ranks."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.learner import Learner
from trainer.types import LossOut, Sync


class OtherRanks:
    """`Sync.gather` as it would answer with these ranks besides this one."""

    def __init__(self, *others: Tensor) -> None:
        self.others, self.mine = others, torch.zeros(0)

    def gather(self, values: Tensor) -> Tensor:
        self.mine = values
        return torch.stack((values, *(other.to(values) for other in self.others)))


def weigh(sync: OtherRanks, probability: Tensor | None, priority: Tensor, beta: float) -> tuple[Tensor, Tensor | None]:
    module = cast(Any, None)
    learner = Learner(module, module, module, cast(Sync, sync), max_grad_norm=1.0)
    out = LossOut(loss=torch.ones_like(priority, requires_grad=True), priority=priority, metrics={})
    return learner._weigh(probability, out, beta)


def twin(probability: np.ndarray, transitions: int, beta: float) -> np.ndarray:
    """w_i = (1/N 1/P(i))^beta / max_j w_j, over the samples of all ranks [R, B] (Schaul et al. 2016, algorithm 1)."""
    weight = (1 / transitions * 1 / probability) ** beta
    return weight / weight.max()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_paper(beta: float, ranks: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(ranks)
    transitions, batch = 5000, 16
    probability, priority = 10 ** rng.uniform(-7, -2, (ranks, batch)), rng.uniform(0, 3, (ranks, batch))
    expected = twin(probability, transitions, beta) / (batch * ranks)  # the mean over all samples
    each, sent = [torch.tensor(p) for p in probability], []
    for rank in range(ranks):
        sync = OtherRanks()
        weigh(sync, each[rank], torch.tensor(priority[rank], dtype=dtype), beta)
        sent.append(sync.mine)
    for rank in range(ranks):
        others = OtherRanks(*(sent[other] for other in range(ranks) if other != rank))
        weight, highest = weigh(others, each[rank], torch.tensor(priority[rank], dtype=dtype), beta)
        assert weight.dtype == dtype
        close = 1e-12 if dtype == torch.float64 else 1e-5
        np.testing.assert_allclose(
            weight.numpy() / ranks, expected[rank], rtol=close
        )  # gradients are averaged over ranks
        assert highest is not None
        assert highest.item() == pytest.approx(priority.max(), rel=close)


def test_beta_0_weighs_all_alike_and_beta_1_does_not() -> None:
    probability, priority = torch.tensor([0.5, 0.25, 0.125, 0.125]), torch.ones(4)
    assert weigh(OtherRanks(), probability, priority, 0.0)[0].tolist() == [0.25] * 4
    assert weigh(OtherRanks(), probability, priority, 1.0)[0].tolist() == [1 / 16, 1 / 8, 1 / 4, 1 / 4]
    assert weigh(OtherRanks(), None, priority, 1.0)[0].tolist() == [0.25] * 4


def test_with_beta_1_the_weighted_gradient_is_that_of_uniform_sampling() -> None:
    """The expected gradient of the weighted loss is proportional to the plain mean (section 3.4): bias is undone."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    values = torch.tensor([5.0, -1.0, 2.0, 7.0], dtype=torch.float64)
    weight, _ = weigh(OtherRanks(), p, torch.ones(4, dtype=torch.float64), 1.0)
    assert (p * weight * values).sum().item() / (p * weight).sum().item() == pytest.approx(values.mean().item())
