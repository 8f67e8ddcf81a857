"""The IMPALA body: shapes of the papers, spectral norms against an SVD, and that acting leaves the estimates alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.build import build_net, check_environment
from trainer.config import Config, ConfigError, EnvConfig, NetConfig
from trainer.envs import EnvSpec
from trainer.nets import impala, map_side
from trainer.nets.impala import Residual, SpectralConv
from trainer.presets import PRESETS
from trainer.sync import FlatParameters

CPU = torch.device("cpu")
ATARI, MINATAR = (4, 84, 84), (4, 10, 10)


def spec(shape: tuple[int, ...]) -> EnvSpec:
    return EnvSpec("toy", shape, torch.uint8, 6, 1, "repeat", True)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_shapes_of_the_paper() -> None:
    """Espeholt et al. 2018, figure 3: sections of 16, 32, 32 channels that halve the image, 15 convolutions."""
    body = impala(ATARI, (256,))
    convs = [m for m in body.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [16] * 5 + [32] * 10
    assert {conv.kernel_size for conv in convs} == {(3, 3)}
    shapes: list[tuple[int, ...]] = []
    for module in body.modules():
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(lambda _m, _x, out: shapes.append(tuple(out.shape[1:])))
    assert body(torch.zeros(2, *ATARI)).shape == (2, 256)
    assert shapes == [(16, 42, 42), (32, 21, 21), (32, 11, 11)]
    dense = [m for m in body.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in dense] == [(32 * 11 * 11, 256)]


def test_shapes_of_beyond_the_rainbow() -> None:
    """Clark et al. 2024: twice as wide, pooled to 6x6, no layer before the streams."""
    body = impala(ATARI, (), width=2, spectral_norm=True, pool=6)
    assert body.features == 64 * 6 * 6 == 2304
    assert body(torch.zeros(1, *ATARI)).shape == (1, 2304)
    assert sum(isinstance(m, SpectralConv) for m in body.modules()) == 12
    assert [m.out_channels for m in body.modules() if isinstance(m, nn.Conv2d)] == [32, 64, 64]


def test_btr_has_as_many_parameters_as_its_paper_says() -> None:
    """2.9 million (Clark et al. 2024, table 3), not counting the widths of the noise."""
    net = build_net(PRESETS["btr"](), spec(ATARI), CPU)
    counted = {name: p.numel() for name, p in net.named_parameters() if "sigma" not in name and p.requires_grad}
    assert 2.85e6 < sum(counted.values()) < 2.95e6


def test_a_residual_block_adds_to_its_input() -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)]
    x = torch.randn(2, 3, 5, 5)
    expected = x + convs[1](convs[0](x.relu()).relu())
    torch.testing.assert_close(Residual(convs, (3, 5, 5), norm=False)(x), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 40), st.integers(3, 40), st.booleans())
def test_any_image_fits(height: int, width: int, norm: bool) -> None:
    body = impala((2, height, width), (), norm=norm)
    assert body.features == 32 * map_side(height) * map_side(width)
    assert body(torch.zeros(1, 2, height, width)).shape == (1, body.features)


@pytest.mark.parametrize("shape", [ATARI, MINATAR])
def test_no_buffers(shape: tuple[int, ...]) -> None:
    """Replicas exchange parameters only."""
    net = build_net(config(), spec(shape), CPU)
    assert not list(net.buffers())


def config(**changes: Any) -> Config:
    net = {"torso": "impala", "hidden": (16,), "spectral_norm": True, "pool": 2} | changes
    return Config(env=EnvConfig(id="MinAtar/Breakout-v1"), net=NetConfig(**net))


def largest_singular_value(conv: SpectralConv) -> Tensor:
    return torch.linalg.svdvals(conv.weight.detach().flatten(1))[0]


def effective(conv: SpectralConv, channels: int) -> Tensor:
    """The matrix that the layer applies to a patch of 3x3, [out, in * 9], read off its outputs."""
    patches = torch.eye(channels * 9, dtype=torch.float64).view(-1, channels, 3, 3)
    with torch.no_grad():
        return (conv(patches)[:, :, 1, 1] - conv.bias).t()


def test_the_estimate_is_the_largest_singular_value() -> None:
    torch.manual_seed(3)
    conv = SpectralConv(4, 6).double()
    for _ in range(500):
        conv(torch.zeros(1, 4, 3, 3, dtype=torch.float64))
    sigma = largest_singular_value(conv)
    applied = effective(conv, 4)
    torch.testing.assert_close(applied, conv.weight.detach().flatten(1) / sigma, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.linalg.matrix_norm(applied, 2), torch.ones((), dtype=torch.float64))
    u = torch.linalg.svd(conv.weight.detach().flatten(1)).U[:, 0]
    assert abs(float(u @ conv.u)) == pytest.approx(1, abs=1e-9)


def test_a_fresh_estimate_is_close_and_never_too_high() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        conv = SpectralConv(16, 16).double()
        norm = torch.linalg.matrix_norm(effective(conv, 16), 2)
        assert 1 - 1e-9 <= float(norm) < 1.1


def test_the_gradient_is_that_of_the_exact_norm() -> None:
    """Miyato et al. 2018, eq. 12: no gradient through the power iteration, and none is missing at its end."""
    torch.manual_seed(0)
    conv = SpectralConv(2, 3).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    for _ in range(2000):
        conv(x)
    conv(x).square().sum().backward()
    found = conv.weight.grad
    weight = conv.weight.detach().clone().requires_grad_()
    exact = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
    torch.nn.functional.conv2d(x, exact, conv.bias.detach(), padding=1).square().sum().backward()
    assert found is not None
    torch.testing.assert_close(found, weight.grad, rtol=1e-6, atol=1e-8)


def estimates(net: nn.Module) -> Tensor:
    return torch.cat([m.u.detach().clone() for m in net.modules() if isinstance(m, SpectralConv)])


def test_only_a_pass_that_is_differentiated_advances_the_estimate() -> None:
    net = build_net(config(), spec(MINATAR), CPU)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # so that there is something to improve
    obs = torch.randint(0, 2, (3, *MINATAR), dtype=torch.uint8)
    before = estimates(net)
    with torch.no_grad():
        first = net(obs).q
        assert torch.equal(net(obs).q, first), "acting is the same again and again"
    assert torch.equal(estimates(net), before)
    net.eval()
    net(obs)
    assert torch.equal(estimates(net), before)
    net.train()
    net(obs)
    assert not torch.equal(estimates(net), before)


def test_two_passes_in_front_of_one_backward_pass() -> None:
    """The second one changes u in place; the graph of the first one must not have kept it."""
    net = build_net(config(), spec(MINATAR), CPU)
    obs = torch.randint(0, 2, (3, *MINATAR), dtype=torch.uint8)
    (net(obs).q.sum() + net(obs).q.sum()).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_estimates_live_in_the_flat_buffer_and_get_no_gradient() -> None:
    net, target = (build_net(config(), spec(MINATAR), CPU) for _ in range(2))
    target.requires_grad_(False)
    flat, flat_target = FlatParameters(net), FlatParameters(target)
    assert len(flat.data) == count(net)
    optimizer = torch.optim.Adam([flat.data], lr=1e-2)
    obs = torch.randint(0, 2, (3, *MINATAR), dtype=torch.uint8)
    for _ in range(3):
        flat.grad.zero_()
        net(obs).q.square().sum().backward()
        held = estimates(net)
        optimizer.step()
        assert torch.equal(estimates(net), held), "the optimizer leaves them alone"
    assert not torch.equal(estimates(net), estimates(target))
    flat_target.data.data.copy_(flat.data.data)
    assert torch.equal(estimates(net), estimates(target)), "a refresh of the target takes them along"
    with torch.no_grad():
        assert torch.equal(net(obs).q, target(obs).q)
    loaded = build_net(config(), spec(MINATAR), CPU)
    loaded.load_state_dict(copy.deepcopy(net.state_dict()))
    assert torch.equal(estimates(loaded), estimates(net)), "and so does a checkpoint"


def test_a_target_between_two_networks_has_a_sensible_norm() -> None:
    """Polyak averaging leaves a u that is not a unit vector."""
    torch.manual_seed(0)
    a, b = SpectralConv(8, 8).double(), SpectralConv(8, 8).double()
    with torch.no_grad():
        for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
            mine.lerp_(theirs, 0.5)
    assert 1 - 1e-9 <= float(torch.linalg.matrix_norm(effective(a, 8), 2)) < 1.5


@pytest.mark.parametrize(
    ("changes", "shape", "words"),
    [
        ({"pool": 3}, MINATAR, "--net.pool 3: the last feature map of MinAtar/Breakout-v1 has sides of 2"),
        ({}, (8,), "--net.torso impala: needs images of at least 3x3"),
        ({}, (1, 9, 2), "--net.torso impala: needs images of at least 3x3"),
        ({"torso": "mlp", "hidden": ()}, (8,), "--net.hidden (): a network without hidden layers"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ConfigError, match="^" + words.replace("(", r"\(").replace(")", r"\)")):
        check_environment(config(**changes), spec(shape))


def test_hidden_layers_may_all_be_the_heads_own() -> None:
    stated = config(torso="mlp", hidden=(), head_hidden=(12,), spectral_norm=False, pool=0)
    check_environment(stated, spec((8,)))
    assert build_net(stated, spec((8,)), CPU)(torch.zeros(2, 8)).q.shape == (2, 6)
