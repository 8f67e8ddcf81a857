"""Run under torchrun by test_shared: exchanges through shared memory against gloo's, and what may prevent them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch
import torch.distributed as dist
from strategy_world import CPU

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.runtime.spans import Spans
from trainer.sync import Wire, shared
from trainer.sync.shared import SMALL, SharedMemory, share

LONGEST = 5_000  # float64 numbers


def made(timeout: float = 20.0) -> SharedMemory:
    memory = share(8 * LONGEST, timeout)
    assert memory is not None
    return memory


def equal_to_gloo(ranks: Ranks) -> None:
    """Sums, joins, gathers and broadcasts of any length in any order, by ranks that take turns being late."""
    together, own = Random(1), Random(ranks.rank)
    wire, plain = (Wire(ranks.rank, ranks.world_size, Spans(), shared=memory) for memory in (made(), None))
    for _ in range(300):
        kind, dtype = together.choice(("mean", "join", "gather", "broadcast")), together.choice((torch.float32, torch.float64))
        count = together.choice((1, 2, 3, 17, 1000, LONGEST, 3 * LONGEST))  # the last does not fit
        count *= ranks.world_size if kind == "join" else 1
        values = torch.rand(count, dtype=dtype, generator=torch.Generator().manual_seed(own.randrange(2**31)))
        theirs = values.clone()
        if own.random() < 0.05:
            time.sleep(0.002)
        if kind == "gather":
            assert torch.equal(wire.gather(values), plain.gather(theirs))
        elif kind == "broadcast":
            root = together.randrange(ranks.world_size)
            assert torch.equal(wire.broadcast_(values, root), plain.broadcast_(theirs, root))
        elif kind == "join":
            wire.join_(values)
            plain.join_(theirs)
            assert torch.equal(values, theirs)
        else:
            wire.mean_(values)
            plain.mean_(theirs)
            torch.testing.assert_close(values, theirs, rtol=1e-6, atol=0)
            assert all(torch.equal(values, other) for other in ranks.gather(values)), "the same bits on every rank"
    assert wire.sent == pytest.approx(plain.sent), "counted as if it had gone over a wire"


def nobody_overtakes(ranks: Ranks) -> None:
    """The same exchange repeatedly: every rank receives the values of this round."""
    memory, p = made(), ranks.world_size
    values, one = torch.empty(p * (LONGEST // p), dtype=torch.float64), torch.empty(LONGEST, dtype=torch.float64)
    for number in range(1000):
        memory.join_(values.fill_(number))
        assert (values == number).all()
        memory.sum_(one.fill_(number))
        assert (one == p * number).all()
        memory.spread_(one.fill_(number if ranks.rank == number % p else -1), number % p)
        assert (one == number).all()
        memory.join_(values.fill_(-number))
        assert (values == -number).all()


def sums_are_in_the_order_of_ranks(ranks: Ranks) -> None:
    mine = torch.rand(999, generator=torch.Generator().manual_seed(ranks.rank))
    everyones = ranks.gather(mine.clone())
    expected = everyones[0].clone()
    for other in everyones[1:]:
        expected += other
    made().sum_(mine)
    assert torch.equal(mine, expected)


def what_does_not_fit_goes_to_gloo() -> None:
    memory = made()
    assert memory.fits(torch.zeros(LONGEST, dtype=torch.float64))
    assert not memory.fits(torch.zeros(2 * LONGEST, dtype=torch.float64))
    assert not memory.fits(torch.zeros(4, 4).t()[1:])
    assert memory.notes(torch.zeros(SMALL, dtype=torch.uint8))
    assert not memory.notes(torch.zeros(SMALL + 1, dtype=torch.uint8))


def who_never_comes_is_named(ranks: Ranks) -> None:
    memory, last = made(timeout=0.5), ranks.world_size - 1
    if ranks.rank != last:
        began = time.monotonic()
        with pytest.raises(RuntimeError, match=r"rank \d did not join an exchange within 0.5 s"):
            memory.sum_(torch.zeros(3))
        assert 0.5 <= time.monotonic() - began < 5
    dist.barrier()


def without_it_nobody_has_it(ranks: Ranks, folder: Path) -> None:
    """Memory of another machine, none, too little, or a processor that reorders stores: then gloo, on all ranks."""
    last = ranks.world_size - 1
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == last:
            patch.setattr(shared, "FOLDER", folder)
        assert share(1000, 5.0) is None, "no such file there"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "FOLDER", folder / "nowhere")
        assert share(1000, 5.0) is None
    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == last:
            patch.setattr(shared.platform, "machine", lambda: "aarch64")
        assert share(1000, 5.0) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.os, "posix_fallocate", refuse)
        assert share(1000, 5.0) is None
    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == last:
            patch.setattr(shared.os, "pread", lambda *_: b"something else of that name")
        assert share(1000, 5.0) is None


def nothing_is_left(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "FOLDER", folder)
        dist.barrier()
        memory = made()
        assert len(memory._ends) == dist.get_world_size() - 1, "each sees when another ends"
        dist.barrier()  # the name goes after the last exchange, and not all leave that at once
        assert os.listdir(folder) == []
        memory.sum_(torch.zeros(3))


def refuse(*_: object) -> None:
    raise OSError("No space left on device")


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        equal_to_gloo(group)
        nobody_overtakes(group)
        sums_are_in_the_order_of_ranks(group)
        what_does_not_fit_goes_to_gloo()
        who_never_comes_is_named(group)
        without_it_nobody_has_it(group, Path(sys.argv[1]) / "elsewhere")
        nothing_is_left(Path(sys.argv[1]) / "own")
