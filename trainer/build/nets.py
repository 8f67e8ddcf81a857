"""The Q-network and its optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.nets import (
    ActionOutputs,
    CategoricalHead,
    EnsembleHead,
    ForeseeingTorso,
    ImageTorso,
    ImplicitQuantileHead,
    NoisyLinear,
    QNetwork,
    QuantileHead,
    RecurrentQNetwork,
    TaskHead,
    ValueHead,
    VectorTorso,
    impala,
    map_side,
    minatar,
    nature,
    use_bfloat16,
)
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import cores_per_rank
from trainer.types import State

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""dtype of weights, targets and returns, by `runtime.dtype`."""


Net = TypeVar("Net", bound=nn.Module)


class Weights:
    """A network as a Stateful: named tensors, loaded in place so that views of a flat buffer stay views."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def state_dict(self) -> State:
        return dict(self.module.state_dict())

    def load_state_dict(self, state: State) -> None:
        self.module.load_state_dict(state)


def threads(config: Config, spec: EnvSpec, launch: Launch) -> int:
    """Return the number of CPU threads for this rank's torch: sharing makes small networks slower."""
    if config.runtime.threads:
        return config.runtime.threads
    return cores_per_rank(launch) if torso_kind(config, spec) in ("nature", "impala") else 1


def torso_kind(config: Config, spec: EnvSpec) -> str:
    """Return the torso, with `auto` resolved."""
    if config.net.torso != "auto":
        return config.net.torso
    if len(spec.obs_shape) != 3:
        return "mlp"
    return "minatar" if spec.obs_shape[1:] == (10, 10) else "nature"


def check_torso(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError if the network's body cannot take the observations."""
    kind = torso_kind(config, spec)
    sides = {"nature": 36, "minatar": 3, "impala": 3}
    smallest, image = sides.get(kind, 0), len(spec.obs_shape) == 3
    if smallest and (not image or min(spec.obs_shape[1:]) < smallest):
        problem = f"needs images of at least {smallest}x{smallest}, {config.env.name} gives {spec.obs_shape}"
        fit = [name for name, side in sides.items() if image and min(spec.obs_shape[1:]) >= side]
        raise ConfigError("net.torso", kind, problem, f"use --net.torso {' or '.join([*fit, 'mlp'])}")
    if kind == "impala" and config.net.pool > (side := map_side(min(spec.obs_shape[1:]))):
        problem = f"the last feature map of {config.env.name} has sides of {side}"
        raise ConfigError("net.pool", config.net.pool, problem, f"use {side} or less, or 0 for none")
    if kind == "mlp" and not config.net.hidden + config.net.head_hidden:
        problem = "a network without hidden layers is linear in the observation"
        raise ConfigError("net.hidden", "()", problem, "give widths, e.g. --net.hidden 64 64, or --net.head_hidden")


def build_net(config: Config, spec: EnvSpec, device: torch.device) -> QNetwork | RecurrentQNetwork:
    """Make a Q-network; the same config gives the same weights, on every rank."""
    kind = torso_kind(config, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.stream_seed(config.seed, "weights"))
        torso: VectorTorso | ImageTorso | ForeseeingTorso = build_torso(config, kind, spec.obs_shape)
        if config.pixels.spr > 0:
            assert isinstance(torso, ImageTorso), "check_environment refuses others"
            torso = ForeseeingTorso(torso, spec.obs_shape, spec.num_actions)
        width = config.net.lstm
        head = build_head(config, width or torso.features, spec.num_actions)
        if config.env.tasks:
            head = TaskHead([one.num_actions for one in spec.tasks], torso.features, head)
        net: QNetwork | RecurrentQNetwork = QNetwork(torso, head)
        if width:
            net = RecurrentQNetwork(torso, torso.features, head, num_actions=spec.num_actions, width=width)
    return in_precision(net.to(device), config)


def in_precision(net: Net, config: Config) -> Net:
    """Make a network compute in the precision of the run."""
    use_bfloat16(net, config.runtime.dtype == "bfloat16")
    return net.to(DTYPES[config.runtime.dtype])


def build_torso(config: Config, kind: str, obs_shape: tuple[int, ...]) -> VectorTorso | ImageTorso:
    """Make the body of the network: observations in, features out."""
    bodies: dict[str, Callable[..., VectorTorso | ImageTorso]] = {
        "mlp": VectorTorso,
        "nature": nature,
        "minatar": minatar,
        "impala": functools.partial(
            impala, width=config.net.width, spectral_norm=config.net.spectral_norm, pool=config.net.pool
        ),
    }
    return bodies[kind](obs_shape, config.net.hidden, _linear(config), config.net.norm == "layer")


def build_head(config: Config, features: int, num_actions: int) -> nn.Module:
    """Make the head of the network: features in, outputs per action out."""
    net = config.net
    if net.ensemble > 1:
        return EnsembleHead(
            features,
            num_actions,
            net.ensemble,
            hidden=net.head_hidden,
            dueling=net.dueling,
            noisy_sigma=net.noisy_sigma if net.noisy else None,
            norm=net.norm == "layer",
        )
    outputs = ActionOutputs(
        features,
        num_actions,
        {"c51": net.atoms, "qr": net.quantiles}.get(net.head, 1),
        hidden=net.head_hidden,
        dueling=net.dueling,
        linear=_linear(config),
        norm=net.norm == "layer",
    )
    if net.head == "c51":
        assert net.v_min is not None
        assert net.v_max is not None
        return CategoricalHead(outputs, net.v_min, net.v_max)
    if net.head == "qr":
        return QuantileHead(outputs)
    if net.head == "iqn":
        acting, risk = net.acting_fractions, config.policy.risk
        return ImplicitQuantileHead(features, outputs, cosines=net.cosines, acting=acting, risk=risk)
    return ValueHead(outputs)


def _linear(config: Config) -> Callable[[int, int], nn.Module]:
    return functools.partial(NoisyLinear, sigma=config.net.noisy_sigma) if config.net.noisy else nn.Linear
