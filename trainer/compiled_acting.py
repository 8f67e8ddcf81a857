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
    """The compiled function, and what the network draws on the way."""

    run: Function
    asked: list[Ask]


class CompiledActor(Actor):
    """Greedy by a network without memory, but for a random action with probability epsilon.

    net: its parameters are views of `flat`; given, tape: what it is told, and what it draws from; refused: is told
    where there is no graph; if it returns, the actor acts operation by operation.
    """

    def __init__(
        self,
        chooser: Greedy,
        explorer: EpsilonGreedy,
        *,
        flat: Flat,
        tape: Tape,
        compiler: Compiler,
        refused: Callable[[Exception], None],
    ) -> None:
        super().__init__(chooser, explorer)
        self.greedy, self.epsilon_greedy = chooser, explorer
        self.flat, self.tape, self.compiler, self.refused = flat, tape, compiler, refused
        self._epsilon = torch.zeros((), dtype=torch.float64, device=chooser.device)
        self._graph: Graph | None = None
        self._tried = False

    @torch.no_grad()
    def act(self, timestep: Timestep, rates: Rates) -> Choice:
        """Choose an action for every environment, [N]."""
        obs = timestep.obs.to(self.greedy.device).contiguous()
        if not self._tried:
            self._graph, self._tried = self._make(obs), True
        if self._graph is None:
            return super().act(timestep, rates)
        run, asked = self._graph
        drawn = self.tape.draw(asked)  # in front of the explorer's, as without a graph
        epsilon, draws = self._epsilon.fill_(rates.epsilon), self.epsilon_greedy.draw()
        return Choice(*run(self.flat.data.data, obs, epsilon, draws, *drawn))

    def _make(self, obs: Tensor) -> Graph | None:
        net, given, explorer = self.greedy.net, self.greedy.given, self.epsilon_greedy

        def pure(weights: Tensor, obs: Tensor, epsilon: Tensor, draws: Tensor, *drawn: Tensor) -> list[Tensor]:
            with self.tape.playing(asked, drawn):
                q = functional_call(net, views(self.flat, weights, ""), (obs, given)).q
            return [explorer.mix(q.argmax(1), draws, epsilon)]

        try:
            with self.tape.noting() as asked:
                net(obs, given)
            draws = torch.zeros(2, len(obs), dtype=torch.float64, device=obs.device)
            example = [self.flat.data.data, obs, self._epsilon, draws, *map(self.tape.blank, asked)]
            return Graph(self.compiler(pure, example), asked)
        except Exception as error:  # whatever a tracer or a compiler of C++ may say
            self.refused(error)
            return None
