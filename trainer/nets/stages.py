"""A Q-network cut by layers: each rank of a replica holds some of them, and all receive the whole network's output."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from trainer.nets.layers import NoisyLinear
from trainer.nets.qnet import QNetwork, scaled
from trainer.nets.torsos import ImageTorso, VectorTorso
from trainer.types import Given, QOut


class Neighbours(Protocol):
    """The ranks that hold the other layers."""

    stage: int
    stages: int

    def arrive(self, empty: Tensor) -> Tensor: ...

    def leave(self, x: Tensor) -> Tensor: ...

    def tell(self, out: Tensor, tokens: Sequence[Tensor]) -> Tensor: ...


class StageNetwork(nn.Module):
    """The layers of one stage of `net`, which loses all others. Calling it is a collective within its replica.

    Parameters keep their names; layers are in the order of the stages. begin: how many parameters the earlier stages
    hold. microbatches: rows pass through the stages in this many parts, so that the stages compute concurrently.
    """

    def __init__(self, net: QNetwork, neighbours: Neighbours, example: Tensor, microbatches: int = 1) -> None:
        """Keep the layers of stage `neighbours.stage`; example: an observation, [1, *]."""
        super().__init__()
        self.neighbours, self.microbatches = neighbours, microbatches
        groups = layers(net)
        stage, shares = neighbours.stage, cut([_numel(group) for group in groups], neighbours.stages)
        x, shapes = net.scale(example), []
        with torch.no_grad():
            for group in groups[:-1]:
                for module in group:
                    x = module(x)
                shapes.append(x.shape[1:])
            out: QOut = net.head(_through(groups[-1][:-1], x), Given())
        self._says = [(name, value.shape[1:]) for name, value in out._asdict().items() if value is not None]
        mine = shares[stage]
        self._takes = shapes[mine.start - 1] if stage else None
        self.begin = sum(_numel(group) for group in groups[: mine.start])
        self.torso, self.head = net.torso, net.head  # for the names
        self._body = [module for i in mine for module in groups[i] if module is not net.head]
        for i, group in enumerate(groups):
            if i not in mine:
                _forget(group)

    def forward(self, obs: Tensor, given: Given = Given()) -> QOut:  # noqa: B008  (frozen)
        """Map obs [B, *] to QOut, the same on every rank of the replica; all but stage 0 use only its length."""
        near, like = self.neighbours, next(self.parameters())
        said: list[Tensor] = []
        tokens: list[Tensor] = []
        parts = obs.tensor_split(min(self.microbatches, len(obs))) if self.microbatches > 1 else (obs,)
        for part in parts:
            if self._takes is None:
                x = scaled(part, like.dtype)
            else:
                x = near.arrive(like.new_empty(len(part), *self._takes))
            x = _through(self._body, x)
            if near.stage < near.stages - 1:
                tokens.append(near.leave(x))
            else:
                out: QOut = self.head(x, given)
                said.append(torch.cat([getattr(out, name).flatten(1) for name, _ in self._says], 1))
        width = sum(shape.numel() for _, shape in self._says)
        whole = torch.cat(said) if said else like.new_empty(len(obs), width)
        told = torch.split(near.tell(whole, tokens), [shape.numel() for _, shape in self._says], dim=1)
        return QOut(**{name: x.view(-1, *shape) for (name, shape), x in zip(self._says, told, strict=True)})

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def layers(net: QNetwork) -> list[list[nn.Module]]:
    """Return the groups a network can be cut into: a layer, its norm and what has no parameters; the head is last."""
    assert isinstance(net.torso, VectorTorso | ImageTorso), "config should have refused it"
    groups: list[list[nn.Module]] = [[]]
    for module in [*net.torso.chain(), net.head]:
        assert not isinstance(module, NoisyLinear), "config should have refused it"
        if _numel([module]) and _numel(groups[-1]) and not isinstance(module, nn.LayerNorm):
            groups.append([])
        groups[-1].append(module)
    return groups


def cut(sizes: Sequence[int], stages: int) -> list[range]:
    """Return `stages` contiguous, non-empty shares of the layers whose largest is as small as possible."""

    @functools.cache
    def best(begin: int, left: int) -> tuple[int, tuple[int, ...]]:
        """Return (size of the largest share, where shares begin) for the layers from `begin` on."""
        if left == 1:
            return sum(sizes[begin:]), (begin,)
        options = []
        for end in range(begin + 1, len(sizes) - left + 2):
            largest, begins = best(end, left - 1)
            options.append((max(sum(sizes[begin:end]), largest), (begin, *begins)))
        return min(options)

    assert stages <= len(sizes), "config should have refused it"
    return [range(*ends) for ends in pairwise((*best(0, stages)[1], len(sizes)))]


def _through(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def _numel(group: Sequence[nn.Module]) -> int:
    return sum(p.numel() for module in group for p in module.parameters())


def _forget(group: Sequence[nn.Module]) -> None:
    """Free the parameters of a group; their names are gone as well."""
    for module in (inner for outer in group for inner in outer.modules()):
        for name in [name for name, _ in module.named_parameters(recurse=False)]:
            setattr(module, name, None)
