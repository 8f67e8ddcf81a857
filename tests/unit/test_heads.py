"""Heads: their outputs against loops over actions and outputs; fractions, risk, noise and draws."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.nets import ActionOutputs, CategoricalHead, ImplicitQuantileHead, NoisyLinear, QuantileHead
from trainer.types import Given

F, A, B = 7, 3, 5


class Tape:
    """Draws that remember how often they were asked."""

    def __init__(self, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.uniforms: list[Tensor] = []
        self.normals: list[Tensor] = []

    def uniform(self, rows: int, *shape: int) -> Tensor:
        self.uniforms.append(torch.rand(rows, *shape, generator=self.random, dtype=torch.float64))
        return self.uniforms[-1]

    def noise(self, rows: int, *shape: int) -> Tensor:
        self.normals.append(torch.randn(rows, *shape, generator=self.random, dtype=torch.float64))
        return self.normals[-1]


def features(seed: int = 0) -> Tensor:
    return torch.randn(B, F, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(kind: str, outputs: int = 4, risk: float = 1.0, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    each = ActionOutputs(F, A, 1 if kind == "iqn" else outputs, **options)
    if kind == "c51":
        return CategoricalHead(each, -1.0, 2.0).double()
    if kind == "qr":
        return QuantileHead(each).double()
    return ImplicitQuantileHead(F, each, cosines=6, acting=4, risk=risk).double()


def affine(layer: nn.Module, x: Any) -> Any:
    return layer.weight.numpy(force=True) @ x + layer.bias.numpy(force=True)  # type: ignore[union-attr,operator]


def outputs_of(each: ActionOutputs, x: Any) -> Any:
    """[A, K] of one row: Wang et al. 2016, eq. 9, for each output on its own."""
    count = each.outputs
    advantage = affine(each.advantage[-1], x)
    said = np.array([[advantage[a * count + k] for k in range(count)] for a in range(A)])
    if each.value is not None:
        value = affine(each.value[-1], x)
        mean = [sum(said[a][k] for a in range(A)) / A for k in range(count)]
        said = np.array([[value[k] + said[a][k] - mean[k] for k in range(count)] for a in range(A)])
    return said


@pytest.mark.parametrize("dueling", [False, True])
def test_c51_says_a_distribution_and_its_mean(dueling: bool) -> None:
    head = make("c51", dueling=dueling)
    x = features()
    out = head(x, Given())
    assert out.logits.shape == (B, A, 4)
    for b, a in itertools.product(range(B), range(A)):
        raw = outputs_of(head.outputs, x[b].numpy())[a]
        mass = np.exp(raw) / np.exp(raw).sum()
        np.testing.assert_allclose(out.logits[b, a].exp().numpy(force=True), mass, atol=1e-12)
        np.testing.assert_allclose(out.q[b, a].item(), sum(mass * np.array([-1.0, 0.0, 1.0, 2.0])), atol=1e-12)


@pytest.mark.parametrize("dueling", [False, True])
def test_qr_says_quantiles_at_the_middles_and_their_mean(dueling: bool) -> None:
    head = make("qr", dueling=dueling)
    x = features()
    out = head(x, Given())
    for b in range(B):
        said = outputs_of(head.outputs, x[b].numpy())
        np.testing.assert_allclose(out.quantiles[b].numpy(force=True), said, atol=1e-12)
        np.testing.assert_allclose(out.q[b].numpy(force=True), said.mean(1), atol=1e-12)
        assert out.fractions[b].tolist() == [1 / 8, 3 / 8, 5 / 8, 7 / 8]  # 2018a, lemma 2


def implicit(head: Any, x: Any, fraction: float) -> Any:
    """One quantile of each action, [A]: Dabney et al. 2018b, eq. 4."""
    embedded = affine(head.embed, np.array([math.cos(math.pi * i * fraction) for i in range(6)]))
    return outputs_of(head.outputs, x * np.maximum(embedded, 0))[:, 0]


@pytest.mark.parametrize("dueling", [False, True])
def test_iqn_says_the_quantiles_it_is_asked_for(dueling: bool) -> None:
    head, x, tape = make("iqn", dueling=dueling), features(), Tape()
    out = head(x, Given(draws=tape, fractions=9))
    assert out.quantiles.shape == (B, A, 9)
    assert len(tape.uniforms) == 1
    assert torch.equal(out.fractions, tape.uniforms[0])
    for b, k in itertools.product(range(B), range(9)):
        said = implicit(head, x[b].numpy(), out.fractions[b, k].item())
        np.testing.assert_allclose(out.quantiles[b, :, k].numpy(force=True), said, atol=1e-12)
    torch.testing.assert_close(out.q, out.quantiles.mean(2))


def test_iqn_without_draws_is_deterministic_and_evenly_spaced() -> None:
    head, x = make("iqn"), features()
    out = head(x, Given())
    assert out.fractions[0].tolist() == [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    assert torch.equal(out.q, head(x, Given()).q)
    assert not torch.equal(head(x, Given(draws=Tape(0))).q, head(x, Given(draws=Tape(1))).q)


@pytest.mark.parametrize("drawn", [False, True])
def test_risk_bends_acting_but_not_learning(drawn: bool) -> None:
    head, x = make("iqn", risk=0.25), features()
    acting = head(x, Given(draws=Tape() if drawn else None))
    assert acting.fractions.shape == (B, 4)
    assert acting.fractions.max() < 0.25
    learning = head(x, Given(draws=Tape() if drawn else None, fractions=64))
    assert learning.fractions.max() > 0.9
    assert not torch.allclose(learning.q, learning.quantiles.mean(2))  # q stays the value used for acting
    if not drawn:
        torch.testing.assert_close(learning.q, acting.q)


class Gamble(nn.Module):
    """Two actions: a sure 0, or from -2 to 4 in equal parts. The mean of the worst quarter is 0 or -1.25."""

    outputs = 1

    def forward(self, x: Tensor, draws: object = None) -> Tensor:
        fraction = x[..., :1]  # [B, K, 1]
        return torch.stack((0 * fraction, -2 + 6 * fraction), 2)


@pytest.mark.parametrize(("risk", "best"), [(1.0, 1), (0.7, 1), (0.6, 0), (0.25, 0)])
def test_risk_changes_the_chosen_action(risk: float, best: int) -> None:
    """CVaR of the gamble is 3 risk - 2: worth it above two thirds."""
    gamble: Any = Gamble()
    head = ImplicitQuantileHead(1, gamble, cosines=2, acting=32, risk=risk)
    head._quantiles = lambda x, fractions, given: gamble(fractions[..., None]).squeeze(3).transpose(1, 2)  # type: ignore[method-assign]
    out = head(torch.zeros(1, 1), Given())
    assert out.q.argmax(1).tolist() == [best]
    np.testing.assert_allclose(out.q[0].tolist(), [0, 3 * risk - 2], atol=1e-6)


@pytest.mark.parametrize("kind", ["c51", "qr", "iqn"])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_every_mixture_works_and_every_parameter_learns(
    kind: str, noisy: bool, hidden: tuple[int, ...], dueling: bool, norm: bool
) -> None:
    linear = functools.partial(NoisyLinear, sigma=0.5) if noisy else nn.Linear
    head = make(kind, linear=linear, hidden=hidden, dueling=dueling, norm=norm)
    out = head(features(), Given(draws=Tape() if noisy or kind == "iqn" else None, fractions=6))
    assert out.q.shape == (B, A)
    said = out.logits if kind == "c51" else out.quantiles
    said.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())
    assert not list(head.buffers())  # replicas exchange parameters alone


def test_a_row_has_one_noise_for_all_of_its_fractions() -> None:
    """Were each fraction noisy on its own, averaging over them would take the exploration away."""
    head: Any = make("iqn", linear=NoisyLinear, dueling=True, hidden=(8,))
    nn.init.zeros_(head.embed.weight)
    nn.init.ones_(head.embed.bias)  # the fraction does not matter: all quantiles are equal but for noise
    tape = Tape()
    out = head(features(), Given(draws=tape, fractions=6))
    assert out.quantiles.std(2).max() < 1e-12
    assert all(noise.numel() == B * noise.shape[-1] for noise in tape.normals)
    rows = head(features()[:1].expand(B, -1), Given(draws=tape, fractions=6))
    assert rows.q.std(0).min() > 1e-3  # while rows differ


def test_heads_stay_in_their_precision() -> None:
    for kind in ("c51", "qr", "iqn"):
        out = make(kind).float()(features().float(), Given())
        assert {x.dtype for x in out if x is not None} == {torch.float32}


@pytest.mark.parametrize("kind", ["c51", "qr", "iqn"])
def test_a_traced_head_takes_any_number_of_rows(kind: str) -> None:
    """What ONNX export goes through: no size of the example may be frozen into the computation."""
    head = make(kind, dueling=True, hidden=(8,), risk=0.5)
    rows = torch.export.Dim("rows")
    program = torch.export.export(Acting(head), (features(),), dynamic_shapes=({0: rows},)).module()
    for count in (1, 2, B):
        x = features(1)[:count]
        torch.testing.assert_close(program(x), head(x, Given()).q)


class Acting(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        q: Tensor = self.head(x, Given()).q
        return q
