"""Reading a ring while it is written: what comes out is the ring of the moment, whatever happens meanwhile."""

from __future__ import annotations

import copy
import random
import threading
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_twin import FakeEnvs, Player
from test_replay import make

from trainer.replay import ReplayMemory, segments
from trainer.replay.segments import Segments
from trainer.types import Blocks, State

FIELDS = {"rows": ("frames", "action", "reward", "flags", "age"), "numbers": ("slots",)}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BLOCK_BYTES", 4 * 41 * 2)  # of 24-byte frames with 17 more, two lanes: 4 rows


def leaves(state: State) -> list[tuple[State, str]]:
    """The blocks in the state of a memory: (where, under which name)."""
    return [(part["ring"], group) for part in state.values() for group in FIELDS]


def claimed(memory: ReplayMemory, before: State | None = None) -> tuple[State, list[tuple[Segments, int]]]:
    """A snapshot whose changed blocks are wanted, and what has to be taken of it."""
    state, wanted = memory.snapshot(), []
    for shard, part in state.items():
        for group in FIELDS:
            found: Segments = part["ring"][group]
            since = before[shard]["ring"][group] if before is not None else None
            wanted += [(found, block) for block in found.want(since)]
    return state, wanted


def plain(state: State) -> dict[str, Any]:
    """The rows of `state_dict`, by shard and field."""
    return {f"{s}/{n}": part["ring"][n] for s, part in state.items() for names in FIELDS.values() for n in names}


class Stored:
    """What a checkpoint would hold: the blocks that were taken, the others as they were in the one before."""

    def __init__(self, state: State, before: Stored | None = None) -> None:
        self.state = state
        self.blocks: dict[tuple[str, str, int], dict[str, torch.Tensor]] = {}
        if before is not None:
            self.blocks |= before.blocks
        self.names = {id(part["ring"][group]): (s, group) for s, part in state.items() for group in FIELDS}

    def put(self, found: Segments, block: int) -> None:
        taken = found.take(block)
        self.blocks[(*self.names[id(found)], block)] = {name: value.clone() for name, value in taken.items()}

    def rows(self) -> dict[str, Any]:
        joined = {}
        for shard, part in self.state.items():
            for group, names in FIELDS.items():
                count = part["ring"][group].count
                for name in names:
                    joined[f"{shard}/{name}"] = torch.cat([self.blocks[shard, group, i][name] for i in range(count)])
        return joined


def assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_segments_are_blocks() -> None:
    state = make(4, 24, shards={0: 0, 1: 1}).snapshot()
    assert all(isinstance(ring[group], Blocks) for ring, group in leaves(state))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_chain_of_snapshots_is_what_the_ring_was(data: st.DataObject) -> None:
    """Blocks are taken between steps, in any order; those that are not wanted are those of the snapshot before."""
    stack, mode = data.draw(st.sampled_from([1, 3])), data.draw(st.sampled_from(["same_step", "next_step"]))
    memory = make(4, data.draw(st.sampled_from([14, 27, 40])), stack=stack, pad="zero", shards={3: 0, 5: 1})
    ends = data.draw(st.sampled_from([0.02, 0.12, 0.6]))
    player = Player(FakeEnvs(4, mode, stack, "zero", data.draw(st.integers(0, 99)), ends))
    shuffle = random.Random(data.draw(st.integers(0, 99)))
    player.play(data.draw(st.integers(0, 60)), memory)
    stored: Stored | None = None
    for _ in range(3):
        expected = plain(copy.deepcopy(memory.state_dict()))
        state, wanted = claimed(memory, None if stored is None else stored.state)
        stored = Stored(state, stored)
        shuffle.shuffle(wanted)
        while wanted:
            for found, block in wanted[: (now := shuffle.randrange(4))]:
                stored.put(found, block)
            del wanted[:now]
            if shuffle.random() < 0.1:
                player.restart(memory)
            else:
                player.play(1, memory)
        assert_equal(expected, stored.rows())
        for ring, group in leaves(state):
            ring[group].release()
        player.play(data.draw(st.sampled_from([0, 1, 5, 70])), memory)


def test_little_is_wanted_where_little_was_written() -> None:
    memory = make(4, 400, shards={3: 0, 5: 1})
    player = Player(FakeEnvs(4, "next_step", 1, "zero", 1))
    player.play(500, memory)
    before, wanted = claimed(memory)
    every = sum(ring[group].count for ring, group in leaves(before))
    assert len(wanted) == every == 2 * (100 + 10)
    assert wanted[0][1] == int(memory.ring.written[0] - 1) % 400 // 4 > 0, "those first that are overwritten next"
    for ring, group in leaves(before):
        ring[group].release()
    player.play(8, memory)
    _, wanted = claimed(memory, before)
    assert 2 * 4 <= len(wanted) <= 2 * (4 + 2), "8 rows, one in front and one behind, in blocks of 4; and the numbers"


def test_a_snapshot_that_nobody_wants_costs_nothing() -> None:
    memory = make(2, 24)
    player = Player(FakeEnvs(2, "same_step", 1, "zero", 1))
    player.play(30, memory)
    memory.snapshot()
    player.play(1, memory)
    assert not memory.ring._read


def test_memory_is_bounded_and_the_ring_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk much slower than the ring: what was set aside stays within two blocks, and what is stored is right."""
    monkeypatch.setattr(segments, "ROOM_BYTES", segments.BLOCK_BYTES)
    memory = make(2, 200)
    player = Player(FakeEnvs(2, "same_step", 1, "zero", 1))
    player.play(300, memory)
    expected = plain(copy.deepcopy(memory.state_dict()))
    state, wanted = claimed(memory)
    stored, most = Stored(state), [0]

    def write() -> None:
        for found, block in wanted:
            time.sleep(0.002)
            most.append(memory.ring.room.taken)
            stored.put(found, block)

    thread = threading.Thread(target=write, daemon=True)
    began = time.perf_counter()
    thread.start()
    player.play(300, memory)
    took = time.perf_counter() - began
    thread.join(20)
    assert not thread.is_alive()
    assert_equal(expected, stored.rows())
    assert 0 < max(most) <= 2 * segments.BLOCK_BYTES
    assert took > 0.05, "it waited"


def test_a_release_lets_the_ring_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROOM_BYTES", segments.BLOCK_BYTES)
    memory = make(2, 200)
    player = Player(FakeEnvs(2, "same_step", 1, "zero", 1))
    player.play(300, memory)
    state, _ = claimed(memory)
    (ring, _), *_ = leaves(state)
    timer = threading.Timer(0.2, lambda: [ring[group].release() for group in FIELDS])
    timer.start()
    player.play(300, memory)
    timer.join(10)
    assert not memory.ring._read


@pytest.mark.parametrize("steps", [0, 5, 75])
def test_what_is_stored_in_blocks_is_loaded(steps: int) -> None:
    old, new = (make(4, 28, stack=3, pad="zero", shards={2: 1, 3: 2}) for _ in range(2))
    player = Player(FakeEnvs(4, "next_step", 3, "zero", 9))
    player.play(steps, old)
    state, _ = claimed(old)
    for ring, group in leaves(state):
        ring[group] = [ring[group].take(block) for block in range(ring[group].count)]
    new.load_state_dict(state)
    assert_equal(plain(old.state_dict()), plain(new.state_dict()))
    assert torch.equal(old.ring.written, new.ring.written)
