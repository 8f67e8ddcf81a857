"""Replicas spread over several ranks by layers: each rank's part of the network, and the whole in a checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from trainer.build.nets import Weights, build_net
from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.nets import QNetwork, RecurrentQNetwork, StageNetwork, layers
from trainer.runtime.ranks import Ranks
from trainer.runtime.spans import Spans
from trainer.sync import Handoff, Meeting, Wire, meet
from trainer.types import State

CPU = torch.device("cpu")
Network = QNetwork | RecurrentQNetwork | StageNetwork


def meet_stages(config: Config, ranks: Ranks, spans: Spans) -> Meeting | None:
    """Return the groups of this rank; None if every rank has a replica of its own. A collective."""
    if config.sync.stages == 1:
        return None
    return meet(Wire(ranks.rank, ranks.world_size, spans), config.sync.stages, config.runtime.timeout)


def build_share(config: Config, spec: EnvSpec, device: torch.device, meeting: Meeting | None) -> Network:
    """Make this rank's share of the network; only while it is made is the whole on the host."""
    if meeting is None:
        return build_net(config, spec, device)
    whole = build_net(config, spec, CPU)
    assert isinstance(whole, QNetwork), "refused before"
    example = torch.zeros(1, *spec.obs_shape, dtype=spec.obs_dtype)
    return StageNetwork(whole, meeting.handoff, example, config.sync.microbatches).to(device)


def check_stages(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError if the network has fewer layers than stages."""
    stages = config.sync.stages
    if stages > 1:
        net = build_net(config, spec, CPU)
        assert isinstance(net, QNetwork), "refused before"
        if stages > (most := len(layers(net))):
            problem = f"the network has {most} layer(s), the head counted as one"
            raise ConfigError("sync.stages", stages, problem, f"use {most} or fewer, or a deeper network")


def weights_of(net: nn.Module, meeting: Meeting | None) -> Weights:
    """Return the network as a Stateful, in the same format however many ranks it is spread over."""
    return Weights(net) if meeting is None else JoinedWeights(net, meeting.handoff)


class JoinedWeights(Weights):
    """One stage of a network, whose state is that of the whole network."""

    def __init__(self, module: nn.Module, handoff: Handoff) -> None:
        super().__init__(module)
        self.handoff = handoff

    def state_dict(self) -> State:
        """Return the whole network on stage 0, nothing on the others. A collective."""
        mine = self.module.state_dict()
        shapes = self.handoff.wire.gather_objects([(name, value.shape) for name, value in mine.items()])
        whole = self.handoff.join(torch.cat([value.flatten() for value in mine.values()]))
        if whole is None:
            return {}
        named = [pair for theirs in shapes for pair in theirs]
        parts = torch.split(whole, [shape.numel() for _, shape in named])
        return {name: part.view(shape).clone() for (name, shape), part in zip(named, parts, strict=True)}

    def load_state_dict(self, state: State) -> None:
        """Load this stage's part of the whole."""
        self.module.load_state_dict({name: state[name] for name in self.module.state_dict()})
