"""The noise scale of gradients whose true scale is known, seen by ranks as threads."""

from __future__ import annotations

import copy

import pytest
import torch
from meeting import Peer, meet
from torch import Tensor

from trainer.sync import Wire
from trainer.sync.noise import NoiseScale

P, BATCH, UPDATES = 40, 64, 1_500
CPU = torch.device("cpu")


def truth() -> tuple[Tensor, Tensor]:
    """The true gradient, and the standard deviation of one sample's in each element; both differ among elements."""
    g = torch.Generator().manual_seed(1)
    return torch.randn(P, generator=g, dtype=torch.float64), 3 * torch.rand(P, generator=g, dtype=torch.float64)


def estimates(ranks: int, updates: int = UPDATES, noise: float = 1.0) -> list[dict[str, float]]:
    """What every rank reports after this many updates."""
    true, deviation = truth()

    def act(wire: Peer) -> dict[str, float]:
        g = torch.Generator().manual_seed(wire.rank)
        meter = NoiseScale(wire, BATCH, CPU)
        for _ in range(updates):
            samples = torch.randn(BATCH // ranks, P, generator=g, dtype=torch.float64)
            grad = true + (samples * deviation * noise).mean(0)
            meter.before(grad)
            meter.after(torch.linalg.vector_norm(wire.mean_(grad)))
        return meter.report()

    return meet(ranks, act)


@pytest.mark.parametrize("ranks", [2, 4])
def test_estimates_are_the_truth(ranks: int) -> None:
    true, deviation = truth()
    square, variance = float(true.square().sum()), float(deviation.square().sum())
    found = estimates(ranks)
    assert all(theirs == found[0] for theirs in found), "the same on every rank"
    assert found[0]["gradient_squared"] == pytest.approx(square, rel=0.03)
    assert found[0]["gradient_variance"] == pytest.approx(variance, rel=0.03)
    assert found[0]["noise_scale"] == pytest.approx(variance / square, rel=0.05)


def test_without_noise_the_scale_is_zero() -> None:
    found = estimates(2, updates=10, noise=0.0)[0]
    assert found["noise_scale"] == pytest.approx(0.0, abs=1e-10)
    assert found["gradient_squared"] == pytest.approx(float(truth()[0].square().sum())), "whatever the updates so far"


def test_a_gradient_that_noise_hides_has_no_scale() -> None:
    def act(wire: Peer) -> dict[str, float]:
        meter = NoiseScale(wire, BATCH, CPU)
        meter.before(torch.tensor([1.0, 0.0]))
        meter.after(torch.tensor(0.5))  # of the square, less than half: opposite gradients
        return meter.report()

    for found in meet(2, act):
        assert set(found) == {"gradient_squared", "gradient_variance"}
        assert found["gradient_squared"] < 0


def test_nothing_is_reported_before_the_first_update() -> None:
    assert meet(2, lambda wire: NoiseScale(wire, BATCH, CPU).report()) == [{}, {}]


def test_state_round_trip() -> None:
    def act(wire: Peer) -> tuple[dict[str, float], dict[str, float]]:
        old, new = NoiseScale(wire, BATCH, CPU), NoiseScale(wire, BATCH, CPU)
        g = torch.Generator().manual_seed(wire.rank)
        for update in range(20):
            if update == 10:
                new.load_state_dict(copy.deepcopy(old.state_dict()))
            for meter in (old, new):
                meter.before(torch.rand(3, generator=g.manual_seed(100 * wire.rank + update)))
                meter.after(torch.tensor(0.6))
        return old.report(), new.report()

    assert all(old == new for old, new in meet(2, act))


def test_alone_there_is_nothing_to_compare() -> None:
    from trainer.runtime.spans import Spans

    with pytest.raises(AssertionError, match="nothing to compare"):
        NoiseScale(Wire(0, 1, Spans()), BATCH, CPU)
