"""A memory with graphs against the same one without; test_compiled.py checks that they agree in every member."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from test_replay import make

from trainer.build.inductor import compile_function
from trainer.replay import CompiledMemory, ReplayMemory
from trainer.types import Batch, Choice, StandingBatch, Timestep

LANES, ROWS = 3, 40


def compiled(like: ReplayMemory) -> CompiledMemory:
    """Return the same empty memory, of the other kind."""
    memory = CompiledMemory.__new__(CompiledMemory)
    vars(memory).update(vars(like))
    return memory


def timestep(generator: torch.Generator, shape: tuple[int, ...]) -> Timestep:
    """Return one whose observations are not contiguous."""
    obs = torch.rand(*reversed(shape), LANES, generator=generator).permute(*reversed(range(len(shape) + 1)))
    assert not obs.is_contiguous()
    done = torch.rand(LANES, generator=generator) < 0.2
    no = torch.zeros(LANES, dtype=torch.bool)
    return Timestep(obs, torch.rand(LANES, generator=generator), done, no, no, no, obs)


@pytest.mark.timeout(120)
def test_takes_observations_that_do_not_lie_in_order() -> None:
    """Like those of an environment that returns an array with its axes exchanged."""
    plain, other = (make(LANES, ROWS, horizon=1) for _ in range(2))
    graphs = compiled(other)
    graphs.compile(partial(compile_function, tried=False), [], pytest.fail)
    generator = torch.Generator().manual_seed(0)
    before = timestep(generator, plain.frames.frame_shape)
    for _ in range(2 * ROWS):
        after = timestep(generator, plain.frames.frame_shape)
        for memory in (plain, graphs):
            memory.add(before, Choice(torch.ones(LANES, dtype=torch.int64)), after)
        before = after
    for mine, theirs in zip(graphs.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_stays_as_it_is_where_there_is_no_graph() -> None:
    graphs, told = compiled(make(LANES, ROWS, horizon=1)), []

    def cannot(function: object, example: object) -> None:
        raise RuntimeError("no")

    graphs.compile(cannot, [1], told.append)  # type: ignore[arg-type]
    assert len(told) == 2, "storing and drawing"
    generator = torch.Generator().manual_seed(0)
    steps = [timestep(generator, graphs.frames.frame_shape) for _ in range(5)]
    for before, after in pairwise(steps):
        graphs.add(before, Choice(torch.ones(LANES, dtype=torch.int64)), after)
    assert int(graphs.ring.head.sum()) == 4 * LANES
    assert len(told) == 2, "and nothing more is said of it"


@pytest.mark.timeout(120)
def test_batches_stand_where_they_are_and_are_drawn_anew() -> None:
    graphs = compiled(make(LANES, ROWS, horizon=1))
    graphs.compile(partial(compile_function, tried=False), [2], pytest.fail)
    generator = torch.Generator().manual_seed(0)
    steps = [timestep(generator, graphs.frames.frame_shape) for _ in range(9)]
    for before, after in pairwise(steps):
        graphs.add(before, Choice(torch.ones(LANES, dtype=torch.int64)), after)
    shape = len(graphs.sampler.generators), 2, graphs.batch_size // len(graphs.sampler.generators)
    first, last = torch.zeros(shape, dtype=torch.float64), torch.full(shape, 0.999, dtype=torch.float64)
    batches = list(graphs.drawn(first))
    indices = [batch.index.clone() for batch in batches]
    again = graphs.drawn(last)
    assert all(one is two for one, two in zip(batches, again, strict=True))
    assert all(isinstance(batch, StandingBatch) for batch in again)
    assert not any(torch.equal(batch.index, index) for batch, index in zip(again, indices, strict=True))
    assert type(again[0]._replace(ret=again[0].ret + 1)) is Batch, "else it would be taken for the one that stands"
    assert type(again[0].map(torch.clone)) is Batch
