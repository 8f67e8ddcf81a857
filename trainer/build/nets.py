"""The Q-network and its optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.nets import ActionOutputs, ImageTorso, NoisyLinear, QNetwork, ValueHead, VectorTorso, minatar, nature
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import cores_per_rank
from trainer.sync import FlatParameters
from trainer.types import State

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Weights:
    """A network as a Stateful: named tensors, loaded in place so that views of a flat buffer stay views."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def state_dict(self) -> State:
        return dict(self.module.state_dict())

    def load_state_dict(self, state: State) -> None:
        self.module.load_state_dict(state)


def threads(config: Config, spec: EnvSpec, launch: Launch) -> int:
    """Return how many CPU threads this rank's torch gets: small networks lose time by sharing."""
    if config.runtime.threads:
        return config.runtime.threads
    return cores_per_rank(launch) if torso_kind(config, spec) == "nature" else 1


def torso_kind(config: Config, spec: EnvSpec) -> str:
    """Return the torso that `auto` stands for."""
    if config.net.torso != "auto":
        return config.net.torso
    if len(spec.obs_shape) != 3:
        return "mlp"
    return "minatar" if spec.obs_shape[1:] == (10, 10) else "nature"


def check_torso(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError if the network's body cannot take the observations."""
    kind = torso_kind(config, spec)
    smallest = {"nature": 36, "minatar": 3}.get(kind, 0)
    if smallest and (len(spec.obs_shape) != 3 or min(spec.obs_shape[1:]) < smallest):
        problem = f"needs images of at least {smallest}x{smallest}, {config.env.id} gives {spec.obs_shape}"
        raise ConfigError("net.torso", kind, problem, "use --net.torso auto or mlp")


def build_net(config: Config, spec: EnvSpec, device: torch.device) -> QNetwork:
    """Make a Q-network; all calls with one config give the same weights, on every rank."""
    kind = torso_kind(config, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.stream_seed(config.seed, "weights"))
        torso = build_torso(config, kind, spec.obs_shape)
        net = QNetwork(torso, build_head(config, torso.features, spec.num_actions))
    return net.to(device=device, dtype=DTYPES[config.runtime.dtype])


def build_torso(config: Config, kind: str, obs_shape: tuple[int, ...]) -> VectorTorso | ImageTorso:
    """Make the body of the network: observations in, features out."""
    bodies: dict[str, Callable[..., VectorTorso | ImageTorso]] = {
        "mlp": VectorTorso,
        "nature": nature,
        "minatar": minatar,
    }
    return bodies[kind](obs_shape, config.net.hidden, _linear(config), config.net.norm == "layer")


def build_head(config: Config, features: int, num_actions: int) -> nn.Module:
    """Make the head of the network: features in, what is said about each action out."""
    outputs = ActionOutputs(
        features,
        num_actions,
        1,
        hidden=config.net.head_hidden,
        dueling=config.net.dueling,
        linear=_linear(config),
        norm=config.net.norm == "layer",
    )
    return ValueHead(outputs)


def _linear(config: Config) -> Callable[[int, int], nn.Module]:
    return functools.partial(NoisyLinear, sigma=config.net.noisy_sigma) if config.net.noisy else nn.Linear


def build_optimizer(config: Config, flat: FlatParameters) -> torch.optim.Optimizer:
    optim = config.optim
    if optim.kind == "adam":
        return torch.optim.Adam([flat.data], lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
    if optim.kind == "radam":
        return torch.optim.RAdam([flat.data], lr=optim.lr, betas=optim.betas, eps=optim.eps)
    return torch.optim.RMSprop(
        [flat.data], lr=optim.lr, alpha=optim.rms_decay, eps=optim.eps, momentum=optim.rms_momentum, centered=True
    )
