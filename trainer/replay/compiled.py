"""A replay memory that stores and chooses with one compiled graph each, instead of dozens of operations.

The graphs are traced from the methods of `ReplayMemory`, over stand-ins for its buffers, which they change in place.
Random numbers are drawn before a graph runs, the same ones as without graphs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.replay.frames import Happened
from trainer.replay.memory import ReplayMemory
from trainer.types import Batch, Compiler, Function, Future

Method = Callable[..., list[Batch] | None]


class Place(NamedTuple):
    """Where the fields of one batch are among the results of a graph, whose last result is None."""

    fields: Callable[[list[Any]], tuple[Any, ...]]
    future: list[int]


class Graph(NamedTuple):
    """A method as a compiled function of the buffers and the method's arguments."""

    run: Function
    places: list[Place]


class CompiledMemory(ReplayMemory):
    """A `ReplayMemory` that runs compiled graphs after `compile`."""

    _compiler: Compiler | None = None

    def compile(self, compiler: Compiler, counts: Iterable[int], refused: Callable[[Exception], None]) -> None:
        """Make the graphs, while the memory is empty.

        counts: how many updates a step may have; refused: called with the error if a graph cannot be made; if it
        returns, that method stays uncompiled.
        """
        self._compiler, self._refused = compiler, refused
        self._buffers = self.buffers()  # the tensors themselves: they are never replaced
        self._graphs: dict[tuple[Method, torch.Size], Graph | None] = {}
        ring, shards = self.ring, len(self._shards)
        frame, action, flag = (
            ring.frames[: ring.lanes],
            ring.action[: ring.lanes].long(),
            ring.flags[: ring.lanes].bool(),
        )
        happened = Happened(frame, action, action.float(), flag, flag, flag, flag, frame)
        self._graph(ReplayMemory.store, [field.clone() for field in happened])
        for count in counts if self._priorities is None else [1]:
            draws = torch.zeros(shards, count, self.batch_size // shards, dtype=torch.float64, device=ring.device)
            self._graph(ReplayMemory.chosen, [draws])

    def store(self, *happened: Tensor) -> None:
        self._run(ReplayMemory.store, happened)

    def chosen(self, draws: Tensor) -> list[Batch]:
        return self._run(ReplayMemory.chosen, [draws])

    def _run(self, method: Method, given: Sequence[Tensor]) -> list[Batch]:
        graph = None if self._compiler is None else self._graph(method, given)
        if graph is None:
            return method(self, *given) or []
        found = [*graph.run(*self._buffers, *[field.contiguous() for field in given]), None]
        return [_batch(found, place) for place in graph.places]

    def _graph(self, method: Method, given: Sequence[Tensor]) -> Graph | None:
        key = method, given[0].shape  # it determines the other shapes
        if key not in self._graphs:
            self._graphs[key] = self._make(method, given)
        return self._graphs[key]

    def _make(self, method: Method, given: Sequence[Tensor]) -> Graph | None:
        batches: list[Batch] = []

        def pure(*tensors: Tensor) -> list[Tensor]:
            buffers, rest = tensors[: len(self._buffers)], tensors[len(self._buffers) :]
            batches[:] = method(self.over(buffers), *rest) or []
            return [field for batch in batches for field in _fields(batch)]

        try:
            assert self._compiler is not None
            return Graph(self._compiler(pure, [*self._buffers, *given]), _places(batches))
        except Exception as error:  # whatever a tracer or the C++ compiler may raise
            self._refused(error)
            return None


def _fields(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch."""
    return [field for field in (*batch[:-1], *(batch.future or ())) if field is not None]


def _places(batches: Iterable[Batch]) -> list[Place]:
    """Return where each field is in a list of the `_fields` of all batches."""
    places, numbers = [], itertools.count()
    for batch in batches:
        fields = [-1 if field is None else next(numbers) for field in batch[:-1]]
        places.append(Place(itemgetter(*fields, -1), [next(numbers) for _ in batch.future or ()]))
    return places


def _batch(found: list[Any], place: Place) -> Batch:
    batch = Batch._make(place.fields(found))
    return batch._replace(future=Future(*[found[number] for number in place.future])) if place.future else batch
