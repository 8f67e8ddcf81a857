"""Policy distillation against a twin in NumPy and float64 (Rusu et al. 2016, eq. 3), and a teacher that acts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.losses import distill, dqn, joint, teach
from trainer.policy import Demonstrator
from trainer.types import Batch, Given, LossOut, QOut, Rates, State, Timestep

B, A = 32, 4


class Table(nn.Module):
    """A Q-network whose values are its parameters: row obs[b, 0] of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())

    def forward(self, obs: Tensor, given: Given) -> QOut:
        return QOut(q=self.table[obs[:, 0].long()])


def table(seed: int, scale: float = 2.0) -> Table:
    values = scale * torch.randn(10, A, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values[0] = 1.0  # all actions tie
    values[1, 2] = values[1, 1] = values[1].max() + 1  # two tie for the best
    values[2] *= 1e3  # probabilities of exactly 0
    return Table(values)


def batch(seed: int, task: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    rows = torch.arange(B)[:, None] % 10
    return Batch(
        obs=rows,
        action=torch.randint(0, A, (B,), generator=g),
        ret=torch.randn(B, generator=g, dtype=torch.float64),
        discount=torch.full((B,), 0.99, dtype=torch.float64),
        next_obs=rows.flip(0),
        index=torch.arange(B),
        task=task,
    )


def softmax(values: Any) -> Any:
    return np.exp(values - values.max()) / np.exp(values - values.max()).sum()


def twin(net: Table, teachers: list[Table], batch: Batch, temperature: float) -> Any:
    """KL(softmax(q_T / temperature) || softmax(q_S)), with 0 ln 0 = 0."""
    losses = np.zeros(B)
    for b in range(B):
        row = int(batch.obs[b, 0])
        each = [softmax(t.table.detach().numpy()[row] / temperature) for t in teachers]
        policy = sum(each) / len(each) if batch.task is None else each[int(batch.task[b])]
        student = net.table.detach().numpy()[row]
        logs = student - student.max() - math.log(np.exp(student - student.max()).sum())
        losses[b] = sum(p * (math.log(p) - logs[a]) for a, p in enumerate(policy) if p > 0)
    return losses


def said(net: Table, of: Batch) -> LossOut:
    zeros = torch.zeros(B, dtype=torch.float64)
    return LossOut(zeros, zeros, {}, out=net(of.obs, Given()))


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_the_papers(teachers: int, temperature: float, tasks: bool, seed: int) -> None:
    net, known = table(seed), [table(100 + seed + i, scale=0.05) for i in range(teachers)]
    now = batch(seed, torch.arange(B) % teachers if tasks else None)
    teacher = partial(teach, nets=known, temperature=temperature)
    part = distill(net, net, now, Rates(teaching=0.5), said(net, now), teacher=teacher, weight=3.0)
    assert part.shape == (B,)
    np.testing.assert_allclose(part.numpy(force=True), 1.5 * twin(net, known, now, temperature), rtol=1e-12, atol=1e-12)


def test_the_network_is_asked_where_the_base_loss_did_not() -> None:
    net, now = table(0), batch(0)
    teacher = partial(teach, nets=[table(1)], temperature=0.01)
    base = said(net, now)
    found = [distill(net, net, now, Rates(teaching=1), out, teacher=teacher, weight=1.0)
             for out in (base, base._replace(out=None))]  # fmt: skip
    assert torch.equal(*found)


def test_a_student_with_the_teachers_policy_has_no_loss_and_no_gradient() -> None:
    teacher_net = table(5, scale=0.05)
    net = Table(teacher_net.table.detach() / 0.1 + 7.0)  # softmax does not see the constant
    net.table.data[2] = 0.1 * net.table.data[2]
    teacher_net.table.data[2] = (net.table.data[2] - 7.0) * 0.1
    now = batch(1)
    teacher = partial(teach, nets=[teacher_net], temperature=0.1)
    part = distill(net, net, now, Rates(teaching=1), said(net, now), teacher=teacher, weight=1.0)
    part.sum().backward()
    assert net.table.grad is not None
    assert part.abs().max() < 1e-12
    assert net.table.grad.abs().max() < 1e-12
    assert teacher_net.table.grad is None


def test_what_is_left_of_teaching_scales_the_loss() -> None:
    net, now = table(0), batch(0)
    teacher = partial(teach, nets=[table(1)], temperature=0.01)
    whole, half, none = (
        distill(net, net, now, Rates(teaching=left), said(net, now), teacher=teacher, weight=2.0)
        for left in (1.0, 0.5, 0.0)
    )
    assert torch.equal(whole, 2 * half)
    assert (whole >= 0).all()
    assert whole.sum() > 1
    assert not none.any()


def test_it_adds_to_the_loss_and_leaves_the_priorities() -> None:
    net, target_net, now = table(0), table(9), batch(0)
    base = partial(dqn, double=False, kind="mse")
    part = partial(distill, teacher=partial(teach, nets=[table(1)], temperature=0.01), weight=1.0)
    alone = base(net, target_net, now, Rates(teaching=1))
    both = joint(net, target_net, now, Rates(teaching=1), base=base, parts={"distillation": part})
    assert torch.equal(both.priority, alone.priority)
    torch.testing.assert_close(both.loss, alone.loss + both.metrics["distillation"])
    assert not both.metrics["distillation"].requires_grad


# --- acting -----------------------------------------------------------------------------------------------------------


class Never:
    """An explorer that returns what it was given."""

    def explore(self, greedy: Tensor, timestep: Timestep, rates: Rates) -> Tensor:
        return greedy

    def state_dict(self) -> State:
        return {"0": {}, "1": {}}

    def load_state_dict(self, state: State) -> None:
        assert state == {"0": {}, "1": {}}


CPU = torch.device("cpu")


def timestep(n: int) -> Timestep:
    no = torch.zeros(n, dtype=torch.bool)
    obs = torch.arange(n)[:, None] % 10
    return Timestep(obs, torch.zeros(n), no, no, no, no, obs)


def demonstrator(share: float, n: int, shards: tuple[int, ...] = (0, 1)) -> Demonstrator:
    streams = {shard: torch.Generator().manual_seed(shard) for shard in shards}
    return Demonstrator(Never(), lambda obs, task: torch.eye(A)[torch.full((n,), 3)], share, n, streams, CPU)


@pytest.mark.parametrize(("share", "left", "expected"), [(1, 1, 1.0), (0, 1, 0.0), (1, 0, 0.0), (0.5, 0.5, 0.25)])
def test_the_teacher_acts_in_its_share_of_the_steps(share: float, left: float, expected: float) -> None:
    n, steps = 500, 20
    policy = demonstrator(share, n)
    own = torch.zeros(n, dtype=torch.int64)
    taken = torch.stack([policy.explore(own, timestep(n), Rates(teaching=left)) for _ in range(steps)])
    assert set(taken.unique().tolist()) <= {0, 3}
    rate = (taken == 3).double().mean().item()
    assert rate == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / (n * steps)))


def test_a_shard_sees_the_same_wherever_it_lives_and_goes_on_where_it_stood() -> None:
    def act(policy: Demonstrator, n: int) -> Tensor:
        return policy.explore(torch.zeros(n, dtype=torch.int64), timestep(n), Rates(teaching=1))

    both, second = demonstrator(0.5, 8), demonstrator(0.5, 4, shards=(1,))
    for _ in range(3):
        assert torch.equal(act(both, 8)[4:], act(second, 4))
    saved = {shard: {"explorer": part["explorer"], "generator": part["generator"].clone()}
             for shard, part in both.state_dict().items()}  # fmt: skip
    expected = [act(both, 8) for _ in range(3)]
    fresh = demonstrator(0.5, 8)
    fresh.load_state_dict(saved)
    assert all(torch.equal(act(fresh, 8), action) for action in expected)
