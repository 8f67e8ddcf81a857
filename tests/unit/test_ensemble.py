"""The ensemble of heads (Osband et al. 2016): head and loss against slow twins, masks, and gradients into the body."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.losses import dqn, ensemble
from trainer.nets import EnsembleHead, QNetwork, VectorTorso
from trainer.types import Batch, Given, QOut, Rates

B, A, E, F = 7, 3, 4, 6


def head(seed: int = 0, **options: Any) -> EnsembleHead:
    torch.manual_seed(seed)
    return EnsembleHead(F, A, E, **options).double()


def relu(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.maximum(x, 0)


def slow_stream(layers: nn.Module, x: np.ndarray[Any, Any], e: int) -> np.ndarray[Any, Any]:
    """One head's layers, one after the other: its slice of each stacked weight, a normalisation, a ReLU between."""
    state = {k: v.numpy() for k, v in layers.state_dict().items()}
    places = sorted({int(k.split(".")[0]) for k in state})
    for place in places:
        weight, bias = state[f"{place}.weight"][e], state[f"{place}.bias"][e]
        if len(weight) == 1 and weight.shape == bias.shape and x.shape[1] == weight.shape[1]:  # scale and offset
            mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
            x = relu((x - mean) / np.sqrt(var + 1e-5) * weight + bias)
        else:
            x = x @ weight + bias
            if place != places[-1] and f"{place + 1}.weight" not in state:
                x = relu(x)
    return x


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 8)])
@pytest.mark.parametrize("norm", [False, True])
def test_head_equals_networks_apart(dueling: bool, hidden: tuple[int, ...], norm: bool) -> None:
    module = head(hidden=hidden, dueling=dueling, norm=norm)
    x = torch.randn(B, F, dtype=torch.float64)
    with torch.no_grad():
        out = module(x, Given())
    assert out.heads is not None
    assert out.heads.shape == (B, A, E)
    for e in range(E):
        q = slow_stream(module.advantage, x.numpy(), e)
        if dueling:
            assert module.value is not None
            q = q - q.mean(1, keepdims=True) + slow_stream(module.value, x.numpy(), e)
        np.testing.assert_allclose(out.heads[:, :, e].numpy(), q, rtol=0, atol=1e-12)
    np.testing.assert_allclose(out.q.numpy(), out.heads.numpy().mean(2), rtol=0, atol=1e-12)


def test_heads_begin_apart() -> None:
    """What they disagree about is what they explore."""
    with torch.no_grad():
        best = head()(torch.randn(50, F, dtype=torch.float64), Given()).heads
    assert best is not None
    assert all(len(row.unique()) > 1 for row in best.argmax(1)[:20])


class Tape:
    def __init__(self, one: bool) -> None:
        self.one = one
        self.drawn: list[Tensor] = []

    def noise(self, rows: int, *shape: int) -> Tensor:
        rows = 1 if self.one else rows
        self.drawn.append(torch.randn(rows, *shape, dtype=torch.float64))
        return self.drawn[-1]

    def uniform(self, rows: int, *shape: int) -> Tensor:
        raise AssertionError("noise is normal")


@pytest.mark.parametrize("one", [False, True])
def test_noise_is_a_weight_matrix_per_row_and_head_or_one_for_all_rows(one: bool) -> None:
    module = head(noisy_sigma=0.5)
    layer = module.advantage[0]
    with torch.no_grad():
        layer.weight_sigma.uniform_(-1, 1)
        layer.bias_sigma.uniform_(-1, 1)
    x = torch.randn(B, F, dtype=torch.float64)
    tape = Tape(one)
    with torch.no_grad():
        found = module(x, Given(draws=tape)).heads
        quiet = module(x, Given()).heads
    assert found is not None
    assert quiet is not None
    f = tape.drawn[0].sign() * tape.drawn[0].abs().sqrt()
    for b in range(B):
        for e in range(E):
            e_in, e_out = f[0 if one else b, e, :F], f[0 if one else b, e, F:]
            weight = layer.weight[e] + layer.weight_sigma[e] * torch.outer(e_in, e_out)
            bias = layer.bias[e, 0] + layer.bias_sigma[e, 0] * e_out
            torch.testing.assert_close(found[b, :, e], (x[b] @ weight + bias).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(quiet, head(noisy_sigma=0.5)(x, Given()).heads.detach())


class Table(nn.Module):
    """A network that is a table: observations are row numbers."""

    def __init__(self, rows: int, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(rows, A, E, generator=g, dtype=torch.float64) * 2)

    def forward(self, obs: Tensor, given: Given = Given()) -> QOut:  # noqa: B008  (frozen)
        heads = self.table[obs]
        return QOut(q=heads.mean(2), heads=heads)


def batch(seed: int = 0, mask: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    discount = 0.97 * (torch.rand(B, generator=g) > 0.3).double()
    ret = torch.randn(B, generator=g, dtype=torch.float64)
    action = torch.randint(0, A, (B,), generator=g)
    return Batch(torch.arange(B), action, ret, discount, torch.arange(B, 2 * B), torch.arange(B), mask=mask)


def twin(
    online: np.ndarray[Any, Any],
    target: np.ndarray[Any, Any],
    rows: Batch,
    double: bool,
    kind: str,
) -> tuple[list[float], list[float]]:
    """Loss and priority of each sample; head by head, as the paper's algorithm 1 with its equation 4."""
    losses, priorities = [], []
    for b in range(B):
        loss, errors = 0.0, []
        for e in range(E):
            if rows.mask is not None and not rows.mask[b, e]:
                continue
            ahead = target[B + b, :, e]
            best = int(np.argmax(online[B + b, :, e] if double else ahead))
            y = rows.ret[b].item() + rows.discount[b].item() * ahead[best]
            delta = y - online[b, rows.action[b].item(), e]
            errors.append(abs(delta))
            if kind == "mse":
                loss += delta**2
            else:
                loss += delta**2 / 2 if abs(delta) <= 1 else abs(delta) - 0.5
        losses.append(loss)
        priorities.append(float(np.mean(errors)) if errors else 0.0)
    return losses, priorities


MASKS = {
    "all": None,
    "some": torch.rand(B, E, generator=torch.Generator().manual_seed(9)) < 0.5,
    "none": torch.zeros(B, E, dtype=torch.bool),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", ["huber", "mse"])
@pytest.mark.parametrize("double", [False, True])
def test_loss_equals_the_twin(double: bool, kind: Literal["huber", "mse"], mask: str) -> None:
    net, target = Table(2 * B, 1), Table(2 * B, 2)
    rows = batch(mask=MASKS[mask])
    out = ensemble(net, target, rows, Rates(), double=double, kind=kind)
    losses, priorities = twin(net.table.detach().numpy(), target.table.detach().numpy(), rows, double, kind)
    np.testing.assert_allclose(out.loss.detach().numpy(), losses, rtol=0, atol=1e-12)
    np.testing.assert_allclose(out.priority.numpy(), priorities, rtol=0, atol=1e-12)
    assert not out.priority.requires_grad
    assert all(value.shape == (B,) and not value.requires_grad for value in out.metrics.values())


@pytest.mark.parametrize("double", [False, True])
def test_heads_that_are_equal_are_one_network(double: bool) -> None:
    net, target = Table(2 * B, 1), Table(2 * B, 2)
    with torch.no_grad():
        for table in (net.table, target.table):
            table.copy_(table[:, :, :1].expand_as(table))
    mine = ensemble(net, target, batch(), Rates(), double=double, kind="huber")
    one = dqn(net, target, batch(), Rates(), double=double, kind="huber")
    torch.testing.assert_close(mine.loss, E * one.loss)
    torch.testing.assert_close(mine.priority, one.priority)


def test_a_masked_head_gets_no_gradient() -> None:
    mask = torch.ones(B, E, dtype=torch.bool)
    mask[:, 2] = False
    mask[3, 0] = False
    net, target = Table(2 * B, 1), Table(2 * B, 2)
    ensemble(net, target, batch(mask=mask), Rates(), double=True, kind="mse").loss.sum().backward()
    touched = net.table.grad[:B].abs().sum(1) > 0  # [B, E]
    assert torch.equal(touched, mask)
    assert not net.table.grad[B:].any(), "none through the target"


def test_the_body_gets_the_mean_of_the_heads_gradients() -> None:
    """Each head's own weights get their whole gradient, the features 1/E of the sum (Osband et al. 2016)."""
    torch.manual_seed(0)
    body = VectorTorso((5,), (F,)).double()
    net = QNetwork(body, head(hidden=(8,)))
    obs = torch.randn(B, 5, dtype=torch.float64)
    net(obs).heads.square().sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    q = net.head.advantage(body(obs).expand(E, B, F))  # past the division
    q.square().sum().backward()
    for name, parameter in net.named_parameters():
        share = E if name.startswith("torso") else 1
        torch.testing.assert_close(found[name], parameter.grad / share, msg=name)


def test_heads_that_see_other_data_stay_apart() -> None:
    """With masks, two heads regress on targets that contradict each other, and both succeed."""
    torch.manual_seed(0)
    net = QNetwork(VectorTorso((2,), (16,)), EnsembleHead(16, 1, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    zero = torch.zeros(2, dtype=torch.int64)
    obs = torch.ones(2, 2)
    rows = Batch(obs, zero, torch.tensor([1.0, -1.0]), torch.zeros(2), obs, zero, mask=torch.eye(2, dtype=torch.bool))
    for _ in range(200):
        optimizer.zero_grad()
        ensemble(net, net, rows, Rates(), double=False, kind="mse").loss.mean().backward()
        optimizer.step()
    heads = net(obs).heads[0, 0].tolist()
    assert heads == pytest.approx([1.0, -1.0], abs=0.05)
