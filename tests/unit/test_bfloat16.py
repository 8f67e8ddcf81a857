"""Products in bfloat16: where they are used, and where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from running import build, close, go
from torch import Tensor

from trainer.build import build_net
from trainer.config import Config, ConfigError, NetConfig, RuntimeConfig, SyncConfig
from trainer.envs import EnvSpec
from trainer.nets import QNetwork, use_bfloat16
from trainer.runtime.ranks import Ranks
from trainer.types import Given
from trainer.validate import validate

SPEC = EnvSpec("toy", (4, 36, 36), torch.uint8, 3, 1, "repeat", True)
OBS = torch.randint(0, 256, (16, *SPEC.obs_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
RESOLUTION = 2**-8
"""Largest half distance between neighbours in bfloat16, relative to them."""


def network(**net: object) -> QNetwork:
    config = Config(net=NetConfig(**net), runtime=RuntimeConfig(dtype="bfloat16"))  # type: ignore[arg-type]
    made = build_net(config, SPEC, torch.device("cpu"))
    assert isinstance(made, QNetwork)
    return made


def gradient(net: QNetwork) -> Tensor:
    net.zero_grad()
    net(OBS).q.square().mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None])


SHAPES = {
    "nature": {"torso": "nature", "hidden": (64,)},
    "impala": {"torso": "impala", "hidden": (32,), "spectral_norm": True, "pool": 2},
    "mlp": {"torso": "mlp", "hidden": (64, 64)},
    "streams": {"torso": "nature", "hidden": (), "head_hidden": (32,), "dueling": True},
    "c51": {"torso": "nature", "hidden": (32,), "head": "c51", "v_min": -1.0, "v_max": 1.0},
    "iqn": {"torso": "nature", "hidden": (32,), "head": "iqn"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_differs_by_what_bfloat16_resolves(name: str) -> None:
    """Values and gradient are close to those of float32, not equal, and stored in float32, as are the weights."""
    net = network(**SHAPES[name])
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    found, moved = net(OBS).q, gradient(net)
    use_bfloat16(net, False)
    expected, direction = net(OBS).q, gradient(net)
    assert found.dtype is moved.dtype is torch.float32
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 4 * RESOLUTION * expected.abs().max()
    assert F.cosine_similarity(moved, direction, dim=0) > 0.99


def test_output_layer_is_of_float32() -> None:
    """Action values that are closer than bfloat16 resolves stay apart."""
    net = network(torso="nature", hidden=(64,))
    features = net.torso(net.scale(OBS))
    assert torch.equal(features, features.bfloat16().float()), "the torso itself is of bfloat16"
    layer = net.head.outputs.advantage[-1]
    assert torch.equal(net(OBS).q, F.linear(features, layer.weight, layer.bias))


def test_layers_of_the_streams_are_of_bfloat16_and_their_outputs_are_not() -> None:
    net = network(torso="nature", hidden=(), head_hidden=(32,))
    seen: list[Tensor] = []
    stream = net.head.outputs.advantage
    stream[1].register_forward_hook(lambda module, given, out: seen.append(out))
    stream[2].register_forward_hook(lambda module, given, out: seen.append(out))
    net.head(net.torso(net.scale(OBS)), Given())
    assert [out.dtype for out in seen] == [torch.bfloat16, torch.float32]


def test_stages_refuse_it() -> None:
    config = Config(runtime=RuntimeConfig(dtype="bfloat16"), sync=SyncConfig(stages=2))
    with pytest.raises(ConfigError, match=r"^--runtime.dtype bfloat16: stages pass on float32 or float64; "):
        validate(config, 2)


@pytest.mark.slow  # it compiles
@pytest.mark.timeout(300)
def test_compiled(alone: Ranks, tmp_path: Path) -> None:
    """A graph finds the same gradient as without one, up to bfloat16 rounding."""
    images = ("--env.kwargs", '{"image": true}', "--net.torso", "minatar", "--net.hidden", "64")
    run = go(build(("debug", *images, "--runtime.dtype", "bfloat16", "--runtime.compile", "True"), tmp_path, alone), 70)
    learner, flat, find = run.learner, run.sync.flat, run.learner.compiled
    seen: list[float] = []

    def both(batch: object, rates: object) -> object:
        learner._differentiate(batch, rates)
        eager = flat.grad.clone()
        found = find(batch, rates)
        seen.append(float(F.cosine_similarity(flat.grad, eager, dim=0)))
        return found

    learner.compiled = both
    go(run, 20)
    close(run)
    assert len(seen) > 10
    assert min(seen) > 0.99
