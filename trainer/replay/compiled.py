"""A replay memory that stores and draws with one compiled graph each, instead of dozens of operations.

The graphs are traced from the methods of `ReplayMemory`, over stand-ins for its buffers, which they change in place;
what is drawn is written to a place of its own. Random numbers are drawn before a graph runs, the same ones as without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.replay.frames import Happened
from trainer.replay.memory import ReplayMemory, apart
from trainer.types import Batch, Compiler, Function, StandingBatch


class Drawing(NamedTuple):
    """A compiled draw of some batches: the function, and the batches that it fills."""

    run: Function
    fields: list[Tensor]  # of all batches together
    batches: list[Batch]


class CompiledMemory(ReplayMemory):
    """A `ReplayMemory` that runs compiled graphs after `compile`. Batches are overwritten by the next of their draw."""

    _compiler: Compiler | None = None

    def compile(self, compiler: Compiler, counts: Iterable[int], refused: Callable[[Exception], None]) -> None:
        """Make the graphs, while the memory is empty.

        counts: how many updates a step may have; refused: called with the error if a graph cannot be made; if it
        returns, that method stays uncompiled.
        """
        self._compiler, self._refused = compiler, refused
        self._buffers = self.buffers()  # the tensors themselves: they are never replaced
        self._store = self._storing()
        self._drawings: dict[int, Drawing | None] = {}
        for count in counts if self._priorities is None else [1]:
            self._drawing(count)

    def store(self, *happened: Tensor) -> None:
        if self._compiler is None or self._store is None:
            return super().store(*happened)
        self._store(*self._buffers, *[field.contiguous() for field in happened])

    def chosen(self, draws: Tensor) -> list[Batch]:
        if self._compiler is None or (drawing := self._drawing(draws.shape[1])) is None:
            return super().chosen(draws)
        drawing.run(*self._buffers, draws.contiguous(), *drawing.fields)
        return drawing.batches

    def _drawing(self, count: int) -> Drawing | None:
        """Return the compiled draw of that many batches, made at its first use; None if there is none."""
        if count not in self._drawings:
            self._drawings[count] = self._make_drawing(count)
        return self._drawings[count]

    def _storing(self) -> Function | None:
        def store(buffers: Sequence[Tensor], happened: Sequence[Tensor]) -> None:
            ReplayMemory.store(self.over(buffers), *happened)

        ring = self.ring
        frame, action = ring.frames[: ring.lanes], ring.action[: ring.lanes].long()
        flag = ring.flags[: ring.lanes].bool()
        happened = Happened(frame, action, action.float(), flag, flag, flag, flag, frame)
        return self._graph(store, [field.clone() for field in happened])

    def _make_drawing(self, count: int) -> Drawing | None:
        def draw(buffers: Sequence[Tensor], rest: Sequence[Tensor]) -> None:
            draws, *fields = rest
            for place, field in zip(fields, _fields(self.over(buffers).together(draws)), strict=True):
                place.copy_(field)

        shards, here = len(self._shards), self.ring.device
        draws = torch.zeros(shards, count, self.batch_size // shards, dtype=torch.float64, device=here)
        example = self.transitions(torch.zeros(count * self.batch_size, dtype=torch.int64, device=here))
        whole = example.map(lambda field: torch.empty(field.shape, dtype=field.dtype, device=here))
        run = self._graph(draw, [draws, *_fields(whole)])
        return run and Drawing(run, _fields(whole), [StandingBatch(*batch) for batch in apart(whole, count)])

    def _graph(
        self, work: Callable[[Sequence[Tensor], Sequence[Tensor]], None], given: Sequence[Tensor]
    ) -> Function | None:
        """Return `work` on the buffers and what is given as a graph, which changes some of them and returns nothing."""

        def pure(*tensors: Tensor) -> list[Tensor]:
            work(tensors[: len(self._buffers)], tensors[len(self._buffers) :])
            return []

        try:
            assert self._compiler is not None
            return self._compiler(pure, [*self._buffers, *given])
        except Exception as error:  # whatever a tracer or the C++ compiler may raise
            self._refused(error)
            return None


def _fields(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch."""
    return [field for field in (*batch[:-1], *(batch.future or ())) if field is not None]
