"""An update as one compiled graph: targets, loss and backward pass, from flat weights to a flat gradient, or beyond.

Where ranks exchange gradients, it ends there; a rank alone clips and steps in the same graph. The graph is traced once
per batch shape, as a pure function of tensors: the weights of both networks, the rates, the random numbers that the
loss asks for, and the batch. No Python runs between its operations, and the random numbers are drawn before it runs,
the same ones as without a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainer.learner import Found, means, measured, names, spoiled, tame, weighted
from trainer.tape import Ask, Tape
from trainer.types import Batch, Compiler, Function, Loss, LossOut, Rates, Sequences, StandingBatch, Sync


class Flat(Protocol):
    """The parameters of a network in one buffer, and their gradients in another."""

    data: nn.Parameter
    names: list[tuple[str, int, int]]  # name, begin, end
    shapes: list[torch.Size]

    @property
    def grad(self) -> Tensor: ...


class Ending(Protocol):
    """What a graph does with the gradient that it has found."""

    steps: bool  # the weights
    example: list[Tensor]  # tensors like those of `given`, to trace with

    def given(self) -> list[Tensor] | None:
        """Return the tensors that the next graph to run needs and may change; None if it cannot end like this."""

    def finish(self, weights: Tensor, gradients: list[Tensor], *given: Tensor) -> list[Tensor]:
        """Use the gradients of all parameters, as a pure function; return the norm, if it steps, else nothing."""


class LeftInPlace:
    """An ending that leaves the gradient in its flat buffer."""

    steps = False

    def __init__(self, flat: Flat) -> None:
        # a gradient for each parameter saves a concatenation; code for a GPU wants arguments aligned
        self._apart = flat.data.device.type == "cpu"
        self._places = list(views(flat, flat.grad, "").values()) if self._apart else [flat.grad]
        # shown as views of one buffer, they would be made one again
        self.example = [torch.zeros_like(place) for place in self._places]

    def given(self) -> list[Tensor]:
        return self._places

    def finish(self, weights: Tensor, gradients: list[Tensor], *given: Tensor) -> list[Tensor]:
        found = gradients if self._apart else [torch.cat([part.flatten() for part in gradients])]
        for place, gradient in zip(given, found, strict=True):
            place.copy_(gradient)
        return []


class Graph(NamedTuple):
    """The compiled function for batches of one shape, and what describes its arguments and results."""

    run: Function
    asked: list[Ask]
    names: tuple[str, ...]  # of the means
    weighed: bool  # whether sample weights depend on the batches of all ranks


class Prepared(NamedTuple):
    """What is called for a batch, and with which of its tensors."""

    graph: Graph
    given: list[Tensor]
    batch: Batch | Sequences


class CompiledGradient:
    """A `learner.Differentiate` of compiled graphs, one per batch shape, made when its first batch comes or before.

    net, target_net: the raw networks, whose parameters are views of `online` and `target`; ending: of each graph; tape:
    what `loss` draws from; refused: called with the error if compilation fails; if it returns, batches of that shape
    are declined.
    """

    def __init__(
        self,
        net: nn.Module,
        target_net: nn.Module,
        loss: Loss,
        sync: Sync,
        *,
        online: Flat,
        target: Flat,
        ending: Ending,
        tape: Tape,
        compiler: Compiler,
        refused: Callable[[Exception], None],
    ) -> None:
        self.net, self.target_net, self.loss, self.sync = net, target_net, loss, sync
        self.online, self.target, self.ending, self.tape = online, target, ending, tape
        self.compiler, self.refused = compiler, refused
        trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
        # changed by the forward pass itself, not by gradients: power iteration
        self._moved = [(name, begin, end) for name, begin, end in online.names if name not in trained]
        self._rates = torch.zeros(3, dtype=torch.float64, device=online.data.device)
        self._epsilon, self._beta, self._teaching = self._rates.unbind()
        self._at: Rates | None = None  # whose values these are
        self._buffers = [online.data.data, target.data.data, self._rates]
        self._graphs: dict[Any, Graph | None] = {}
        self._standing: dict[int, Prepared] = {}  # by identity, which lasts as long as the batch is kept here

    def __call__(self, batch: Batch | Sequences, rates: Rates) -> Found | None:
        """Find the gradient of the weighted loss, and end with it. A collective."""
        if rates != self._at:
            self._at = rates
            self._epsilon.fill_(rates.epsilon)  # does not wait for the device
            self._beta.fill_(rates.beta)
            self._teaching.fill_(rates.teaching)
        prepared = self._standing.get(id(batch)) or self._prepare(batch)
        ending = self.ending.given()
        if prepared is None or ending is None:
            return None
        graph, given, _ = prepared
        out = graph.run(*self._buffers, *ending, *self.tape.draw(graph.asked), *given)
        return self._found(graph, out, rates.beta)

    def prepare(self, batch: Batch | Sequences) -> Graph | None:
        """Return the graph for batches like this one (values do not matter); None if there is none."""
        return self._graph(batch, tensors(batch))

    def _prepare(self, batch: Batch | Sequences) -> Prepared | None:
        fields = tensors(batch)
        if (graph := self._graph(batch, fields)) is None:
            return None
        prepared = Prepared(graph, [field for field in fields if field is not None], batch)
        if isinstance(batch, StandingBatch):
            self._standing[id(batch)] = prepared
        return prepared

    def _graph(self, batch: Batch | Sequences, fields: Sequence[Tensor | None]) -> Graph | None:
        shape = batch.obs.size(0), tuple([field if field is None else field.stride() for field in fields])
        if shape not in self._graphs:
            self._graphs[shape] = self._make(batch)
        return self._graphs[shape]

    def _found(self, graph: Graph, out: Sequence[Tensor], beta: float) -> Found:
        """Unpack the results of a graph; if sample weights depend on all ranks, exchange with them."""
        told, priority, *moved = out
        norm = moved.pop(0) if self.ending.steps else None
        mine = moved.pop() if graph.weighed else None
        for (_, begin, end), value in zip(self._moved, moved, strict=True):
            self.online.data.data[begin:end].copy_(value)
        if mine is None:
            return Found(graph.names, told, priority, None, norm)
        everyone = self.sync.gather(mine)
        if len(everyone) > 1:
            self.online.grad.mul_(correction(mine, everyone, beta))
        return Found(graph.names, told, priority, everyone[:, 1].amax(), norm)

    def _make(self, batch: Batch | Sequences) -> Graph | None:
        try:
            with self.tape.noting() as asked, torch.no_grad():
                out = self.loss(self.net, self.target_net, batch, Rates())
            weighed = batch.probability is not None or out.terms is not None
            function = self._pure(batch, asked, weighed)
            # distinct for the tracer if a batch holds one tensor twice: in a rollout's, next_obs is obs
            given = [field.detach() for field in tensors(batch) if field is not None]
            buffers = [buffer.clone() for buffer in self._buffers]  # a trial may step
            drawn = map(self.tape.blank, asked)
            run = self.compiler(function, [*buffers, *self.ending.example, *drawn, *given])
        except Exception as error:  # whatever a tracer or a C++ compiler may raise
            self.refused(error)
            return None
        return Graph(run, asked, names(out), weighed)

    def _pure(self, batch: Batch | Sequences, asked: Sequence[Ask], weighed: bool) -> Function:
        """Return the update for batches like this one as a pure function of tensors."""
        whole, count = _Whole(self.net, self.target_net, self.loss), len(self.ending.example)

        def update(weights: Tensor, target_weights: Tensor, rates: Tensor, *rest: Tensor) -> list[Tensor]:
            ending, drawn, given = rest[:count], rest[count:][: len(asked)], iter(rest[count + len(asked) :])
            filled = batch.map(lambda field: next(given))
            epsilon, beta, teaching = rates.unbind()
            told: Any = (0.0, epsilon, beta, teaching)
            parameters = views(self.online, weights.detach(), "net.")
            leaves = [part.requires_grad_() for part in parameters.values()]
            moved = {f"net.{name}": parameters[f"net.{name}"].detach().clone() for name, _, _ in self._moved}
            parameters |= moved | views(self.target, target_weights, "target_net.")
            with torch.enable_grad(), self.tape.playing(asked, drawn):
                out: LossOut = tame(functional_call(whole, parameters, (filled, Rates(*told))))
            loss, exchanged = out.loss, []
            each = torch.full_like(loss, 1 / loss.numel(), requires_grad=False)
            if weighed:
                mine = measured(filled.probability, out)
                each = weighted(loss.detach(), filled.probability, beta, mine[0], mine[2].clamp(min=1))
                exchanged = [mine]
            # like grad(loss, leaves, weights), which would make torch import sympy at every start
            total = torch.dot(loss, spoiled(each, loss))
            found = torch.autograd.grad(total, leaves, materialize_grads=True)
            norm = self.ending.finish(weights, list(found), *ending)
            return [means(out), out.priority, *norm, *(value.flatten() for value in moved.values()), *exchanged]

        return update


class _Whole(nn.Module):
    """Both networks and the loss as one module, so that `functional_call` can replace all parameters."""

    def __init__(self, net: nn.Module, target_net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.target_net, self.loss = net, target_net, loss

    def forward(self, batch: Batch | Sequences, rates: Rates) -> LossOut:
        return self.loss(self.net, self.target_net, batch, rates)


def tensors(batch: Batch | Sequences) -> list[Tensor | None]:
    """Return the fields of a batch, in the order of its `map`."""
    fields: Any = batch
    if isinstance(batch, Batch) and batch.future is not None:
        return [*fields[:-1], *batch.future]
    return list(fields)


def views(flat: Flat, weights: Tensor, prefix: str) -> dict[str, Tensor]:
    """Return the parameters as views of a flat buffer, differentiably and in one operation."""
    parts = torch.split(weights, [end - begin for _, begin, end in flat.names])
    pairs = zip(flat.names, flat.shapes, parts, strict=True)
    return {prefix + name: part.view(shape) for (name, _, _), shape, part in pairs}


def correction(mine: Tensor, everyone: Tensor, beta: float) -> Tensor:
    """Return the factor, [], from a gradient weighted by this rank's least P(i) and terms to one weighted by all's.

    mine: [3] as `learner.measured` has it; everyone: [ranks, 3].
    """
    share = everyone[:, 2].sum().clamp(min=1) / len(everyone)
    return (everyone[:, 0].amin() / mine[0]) ** beta * (mine[2].clamp(min=1) / share)
