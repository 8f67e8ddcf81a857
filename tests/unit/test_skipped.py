"""Updates whose loss or gradient is not finite change nothing, are counted, and too many in a row are known by rank."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_learner_sync import ADAM, CPU, MOMENTUM, Ours, batches, config
from torch import Tensor

from trainer.config import OptimConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.skipped import Bad, Skipped, finite
from trainer.sync.finite import forget, step_if
from trainer.types import Rates, UpdateOut

NAN, INF = math.nan, math.inf
KINDS = ["flat", "ddp", "local_sgd", "gossip", "zero1", "overlap", "server"]


@pytest.fixture(scope="module", autouse=True)
def ranks() -> Iterator[Ranks]:
    with process_group(CPU, Launch(0, 0, 1, 1, False), 30.0) as group:
        yield group


def everything(ours: Ours) -> Any:
    return copy.deepcopy([ours.flat.data.detach(), ours.sync.state_dict()["optimizer"]])


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optim", [ADAM, MOMENTUM, OptimConfig(kind="sgd", lr=1e-3)], ids=["adam", "rmsprop", "sgd"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("clip", [INF, 0.5])
def test_a_bad_update_is_as_if_it_had_not_been(
    kind: str, optim: OptimConfig, bad: float, clip: float, ranks: Ranks
) -> None:
    stated = config(replace(optim, max_grad_norm=clip))
    ours, plain = Ours(stated, kind, (7,), ranks), Ours(stated, kind, (7,), ranks)
    every = batches((7,), 9)
    for i, batch in enumerate(every):
        if i in (0, 4):
            before = everything(ours)
            ret = batch.ret.clone()
            ret[5] = bad
            out = ours.learner.update(batch._replace(ret=ret), Rates(lr=optim.lr))
            assert equal(before, everything(ours))
            assert out.priority.isfinite().all(), "replay has to go on with them"
        for side in (ours, plain):
            side.learner.update(batch, Rates(lr=optim.lr))
    assert equal(everything(ours), everything(plain))
    assert [math.isfinite(norm) for norm in ours.learner.drain()["grad_norm"]].count(False) == 2


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_as_well(ranks: Ranks) -> None:
    """Huber's gradient of an infinite error is 1: only the loss tells that something is wrong."""
    import functools

    from trainer.losses import dqn

    ours = Ours(config(ADAM), "flat", (7,), ranks)
    ours.learner.loss = functools.partial(dqn, double=True, kind="huber")
    (batch,) = batches((7,), 1)
    ret = batch.ret.clone()
    ret[0] = INF
    before = everything(ours)
    ours.learner.update(batch._replace(ret=ret), Rates(lr=1e-3))
    assert equal(before, everything(ours))


def test_priorities_of_prioritized_replay_stay_finite(ranks: Ranks) -> None:
    ours = Ours(config(ADAM), "flat", (7,), ranks)
    (batch,) = batches((7,), 1)
    ret = batch.ret.clone()
    ret[0], ret[1] = NAN, INF
    batch = batch._replace(ret=ret, probability=torch.full((32,), 1 / 100))
    out: UpdateOut = ours.learner.update(batch, Rates(lr=1e-3, beta=0.4))
    assert out.priority[:2].tolist() == [0.0, 0.0], "drawn no more than need be"
    assert out.highest is not None
    assert out.highest.isfinite()
    assert (out.priority[2:] > 0).all()


@pytest.mark.parametrize("kind", ["adam", "sgd", "rmsprop", "radam", "adagrad", "adadelta"])
def test_a_step_that_nobody_looks_at(kind: Any) -> None:
    """What a GPU does: the decision is a tensor. The CPU can do the same."""
    from trainer.build.sync import make_optimizer

    def steps(decide: bool) -> tuple[Tensor, dict[str, Any]]:
        weights = torch.nn.Parameter(torch.arange(64.0))
        optimizer = make_optimizer(OptimConfig(kind=kind, lr=0.1), weights)
        generator = torch.Generator().manual_seed(0)
        for i in range(6):
            weights.grad = torch.randn(64, generator=generator)
            if not decide:
                optimizer.step()
                continue
            if i in (0, 3):
                kept, weights.grad = weights.grad, torch.zeros(64)
                step_if(torch.tensor(False), optimizer)
                weights.grad = kept
            step_if(torch.tensor(True), optimizer)
        return weights.detach(), optimizer.state[weights]

    (weights, state), (plain, plain_state) = steps(True), steps(False)
    if kind == "radam":  # whose warm-up counts on the host
        assert weights.isfinite().all()
        return
    assert torch.equal(weights, plain)
    for name, value in plain_state.items():
        assert name == "step" or equal(value, state[name]), name


def test_forget() -> None:
    kept = torch.ones(3)
    forget([kept], torch.tensor(2.0))
    assert kept.sum() == 3
    forget([kept], torch.tensor(NAN))
    assert kept.sum() == 0


def test_the_account() -> None:
    account = Skipped()
    account.look(3, {"td_loss": [1.0, 1.0, 1.0], "grad_norm": [1.0, NAN, 1.0]})
    assert (account.longest, account.in_a_row, account.drain()) == (1, 0, 1.0)
    assert account.series == Bad(2, None)
    account.look(6, {"td_loss": [1.0, NAN, 1.0], "grad_norm": [1.0, NAN, NAN]})
    account.look(8, {"td_loss": [1.0, 1.0], "grad_norm": [INF, 1.0]})
    assert account.longest == 3, "the series began before the last look"
    assert account.series == Bad(5, 5)
    assert account.drain() == 3.0
    account.look(8, {})
    assert account.longest == 0


def test_a_gradient_that_is_applied_late_is_the_fault_of_the_loss_before() -> None:
    account = Skipped()
    account.look(3, {"td_loss": [1.0, NAN, 1.0], "grad_norm": [0.0, 1.0, NAN]})
    assert account.series == Bad(3, 2)


def test_finite() -> None:
    assert finite([1.0, NAN, INF, 2.0]) == [1.0, 2.0]
