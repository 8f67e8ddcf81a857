"""Acting as one compiled graph: from observations and weights to actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from trainer.compiled import Flat, views
from trainer.policy import Actor, EpsilonGreedy, Greedy
from trainer.tape import Ask, Tape
from trainer.types import Choice, Compiler, Function, Rates, Timestep


class Graph(NamedTuple):
    """The compiled function, and the random numbers that the network draws."""

    run: Function
    asked: list[Ask]


class CompiledActor(Actor):
    """Epsilon-greedy actions of a network without memory.

    flat: the buffer of the network's parameters; tape: what it draws from; obs: [N, *] example observations;
    refused: called with the error if compilation fails; if it returns, the actor acts operation by operation.
    """

    def __init__(
        self,
        chooser: Greedy,
        explorer: EpsilonGreedy,
        *,
        flat: Flat,
        tape: Tape,
        obs: Tensor,
        compiler: Compiler,
        refused: Callable[[Exception], None],
    ) -> None:
        super().__init__(chooser, explorer)
        self.greedy, self.epsilon_greedy = chooser, explorer
        self.flat, self.tape = flat, tape
        self._weights = flat.data.data
        self._elsewhere = obs.device != chooser.device  # than where the environments are
        self._epsilon, self._at = torch.zeros((), dtype=torch.float64, device=chooser.device), 0.0
        try:
            self._graph: Graph | None = self._make(obs.to(chooser.device).contiguous(), compiler)
        except Exception as error:  # whatever a tracer or a C++ compiler may raise
            self._graph = None
            refused(error)

    def act(self, timestep: Timestep, rates: Rates) -> Choice:
        """Choose an action for every environment, [N]."""
        if self._graph is None:
            return super().act(timestep, rates)
        run, asked = self._graph
        obs = timestep.obs.to(self.greedy.device) if self._elsewhere else timestep.obs
        drawn = self.tape.draw(asked)  # before the explorer's, as without a graph
        if rates.epsilon != self._at:
            self._at = rates.epsilon
            self._epsilon.fill_(self._at)
        return Choice(*run(self._weights, obs.contiguous(), self._epsilon, self.epsilon_greedy.draw(), *drawn))

    @torch.no_grad()
    def _make(self, obs: Tensor, compiler: Compiler) -> Graph:
        net, given, explorer = self.greedy.net, self.greedy.given, self.epsilon_greedy

        def pure(weights: Tensor, obs: Tensor, epsilon: Tensor, draws: Tensor, *drawn: Tensor) -> list[Tensor]:
            with self.tape.playing(asked, drawn):
                q = functional_call(net, views(self.flat, weights, ""), (obs, given)).q
            return [explorer.mix(q.argmax(1), draws, epsilon)]

        with self.tape.noting() as asked:
            net(obs, given)
        draws = torch.zeros(2, len(obs), dtype=torch.float64, device=obs.device)
        example = [self._weights, obs, self._epsilon, draws, *map(self.tape.blank, asked)]
        return Graph(compiler(pure, example), asked)
