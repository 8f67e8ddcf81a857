"""Noisy layers (Fortunato et al. 2018): against a slow twin with a weight matrix per row; and that they explore."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.nets import ActionOutputs, NoisyLinear, QNetwork, ValueHead, VectorTorso
from trainer.policy import Actor, EpsilonGreedy, Greedy
from trainer.streams import Common, Streams
from trainer.types import Given, Rates, Timestep

CPU = torch.device("cpu")


class Tape:
    """Draws that are recorded; one: all rows have the same noise."""

    def __init__(self, dtype: torch.dtype = torch.float64, one: bool = False) -> None:
        self.generator, self.dtype, self.one = torch.Generator().manual_seed(5), dtype, one
        self.drawn: list[Tensor] = []

    def noise(self, rows: int, *shape: int) -> Tensor:
        rows = 1 if self.one else rows
        self.drawn.append(torch.randn(rows, *shape, generator=self.generator, dtype=self.dtype))
        return self.drawn[-1]

    def uniform(self, rows: int, *shape: int) -> Tensor:
        raise AssertionError("noise is normal")


def twin(layer: NoisyLinear, x: Tensor, normal: Tensor) -> np.ndarray[Any, Any]:
    """Equations 9 to 11 of the paper, one row and one weight after the other."""
    mu_w, sigma_w = layer.weight.detach().numpy(), layer.weight_sigma.detach().numpy()
    mu_b, sigma_b = layer.bias.detach().numpy(), layer.bias_sigma.detach().numpy()
    q, p = mu_w.shape
    out = np.zeros((len(x), q))
    for row in range(len(x)):
        f = [math.copysign(math.sqrt(abs(e)), e) for e in normal[row if len(normal) > 1 else 0].tolist()]
        e_in, e_out = f[:p], f[p:]
        for j in range(q):
            out[row, j] = mu_b[j] + sigma_b[j] * e_out[j]
            for i in range(p):
                out[row, j] += (mu_w[j, i] + sigma_w[j, i] * e_in[i] * e_out[j]) * x[row, i].item()
    return out


def layer_and_input(rows: int = 6) -> tuple[NoisyLinear, Tensor]:
    torch.manual_seed(0)
    layer = NoisyLinear(7, 4).double()
    with torch.no_grad():
        layer.weight_sigma.uniform_(-1, 1)  # so that a transposed or shared sigma would show
        layer.bias_sigma.uniform_(-1, 1)
    return layer, torch.randn(rows, 7, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("one", [False, True])
def test_equals_a_weight_matrix_per_row_or_one_for_all(one: bool) -> None:
    layer, x = layer_and_input()
    tape = Tape(one=one)
    got = layer(x, tape).detach().numpy()
    np.testing.assert_allclose(got, twin(layer, x, tape.drawn[0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("one", [False, True])
def test_gradients_equal_those_of_the_formed_matrices(one: bool) -> None:
    layer, x = layer_and_input()
    tape = Tape(one=one)
    upstream = torch.randn(6, 4, dtype=torch.float64)
    inputs = [x, layer.weight, layer.bias, layer.weight_sigma, layer.bias_sigma]
    got = torch.autograd.grad(layer(x, tape), inputs, upstream)
    f = tape.drawn[0].sign() * tape.drawn[0].abs().sqrt()
    e_in, e_out = f[:, :7], f[:, 7:]
    weights = layer.weight + layer.weight_sigma * e_out[:, :, None] * e_in[:, None]  # [B, out, in]
    biases = layer.bias + layer.bias_sigma * e_out
    expected = torch.autograd.grad((weights @ x[:, :, None]).squeeze(2) + biases, inputs, upstream)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("fan_in", "sigma"), [(3136, 0.5), (16, 0.1), (9, 0.0)])
def test_initialisation_is_that_of_section_3_2(fan_in: int, sigma: float) -> None:
    layer = NoisyLinear(fan_in, 64, sigma)
    bound = 1 / math.sqrt(fan_in)
    for mean in (layer.weight.detach(), layer.bias.detach()):
        assert float(mean.abs().max()) <= bound
        assert float(mean.max()) > 0.8 * bound
        assert float(mean.min()) < -0.8 * bound
    for deviation in (layer.weight_sigma, layer.bias_sigma):
        assert torch.equal(deviation, torch.full_like(deviation, sigma * bound))


def test_without_draws_it_is_the_mean_and_deterministic() -> None:
    layer, x = layer_and_input()
    assert torch.equal(layer(x), layer(x))
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_every_row_has_noise_of_its_own_and_every_pass_another() -> None:
    layer, x = layer_and_input()
    same = x[:1].expand(6, -1)
    tape = Tape()
    first, second = layer(same, tape), layer(same, tape)
    rows = torch.cat((first, second)).tolist()
    assert len({tuple(row) for row in rows}) == 12


def test_rows_with_more_dimensions_share_it_too() -> None:
    layer, x = layer_and_input()
    got = layer(x.unflatten(0, (2, 3)), Tape(one=True))
    torch.testing.assert_close(got.flatten(0, 1), layer(x, Tape(one=True)), rtol=0, atol=1e-14)


def learning(ranks: int) -> list[Streams]:
    """What the ranks of a run draw from in learning: the stream that all have, and those of two shards each."""
    return [
        Streams(
            {s: torch.Generator().manual_seed(s) for s in range(2 * rank, 2 * rank + 2)},
            CPU,
            torch.float64,
            Common(torch.Generator().manual_seed(9)),
        )
        for rank in range(ranks)
    ]


def test_in_learning_all_rows_of_all_ranks_have_one_noise_and_every_pass_another() -> None:
    layer, x = layer_and_input()
    same = x[:1].expand(6, -1)
    passes = [(layer(same, streams), layer(same, streams)) for streams in learning(ranks=2)]
    for out in (*passes[0], *passes[1]):
        torch.testing.assert_close(out, out[:1].expand(6, -1), rtol=0, atol=1e-14)
    torch.testing.assert_close(passes[0], passes[1], rtol=0, atol=0)
    assert not torch.allclose(*passes[0])


def test_the_common_stream_goes_on_where_it_was_stored() -> None:
    one, other = learning(ranks=2)
    assert one.common is not None
    assert other.common is not None
    one.noise(6, 3)
    other.common.load_state_dict(one.common.state_dict())
    assert torch.equal(one.noise(6, 3), other.noise(6, 3))


def test_rows_of_a_shard_do_not_depend_on_the_shards_beside_it() -> None:
    layer, x = layer_and_input(8)

    def streams(shards: range) -> Streams:
        return Streams({s: torch.Generator().manual_seed(s) for s in shards}, CPU, torch.float64)

    both = layer(x, streams(range(2)))
    torch.testing.assert_close(both[4:], layer(x[4:], streams(range(1, 2))), rtol=0, atol=1e-14)


def actions(noisy: bool, steps: int = 200) -> Tensor:
    """What a fresh network does with one observation, epsilon 0."""
    torch.manual_seed(0)

    def linear(fan_in: int, fan_out: int) -> nn.Module:
        return NoisyLinear(fan_in, fan_out) if noisy else nn.Linear(fan_in, fan_out)

    net = QNetwork(VectorTorso((5,), (16,), linear), ValueHead(ActionOutputs(16, 4, 1, linear=linear)))
    generators = {0: torch.Generator().manual_seed(1)}
    given = Given(draws=Streams(generators, CPU, torch.float32))
    actor = Actor(Greedy(net, CPU, given), EpsilonGreedy(3, 4, generators, CPU))
    no = torch.zeros(3, dtype=torch.bool)
    obs = torch.ones(3, 5)
    timestep = Timestep(obs, torch.zeros(3), no, no, no, no, obs)
    return torch.stack([actor.act(timestep, Rates(epsilon=0.0)).action for _ in range(steps)])


def test_explores_with_epsilon_zero_and_the_plain_network_never_does() -> None:
    taken = actions(noisy=True)
    assert (taken.flatten().bincount(minlength=4) > 10).all(), "every action, again and again"
    assert (taken != taken[:, :1]).any(), "environments explore apart"
    assert len(actions(noisy=False).unique()) == 1


def test_what_it_learns_may_end_its_noise() -> None:
    """The gradient reaches sigma: where noise costs, it shrinks."""
    torch.manual_seed(0)
    layer = NoisyLinear(4, 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    tape = Tape(torch.float32)
    x = torch.randn(64, 4)
    before = layer.weight_sigma.abs().mean().item()
    for _ in range(200):
        loss = layer(x, tape).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert layer.weight_sigma.abs().mean().item() < 0.3 * before
