"""Replay, n-step, frames and priorities against their naive twins, on histories that hypothesis makes up."""

from __future__ import annotations

import copy
from typing import NamedTuple

import sequence_twin as sequences
import test_prioritized as prioritized
import test_replay as uniform
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from replay_twin import FakeEnvs, NaiveReplay, Player

from trainer.replay.nstep import fold

EXAMPLES = settings(max_examples=120, deadline=None)
GAMMA = uniform.GAMMA


class World(NamedTuple):
    """Environments, the shape of a ring, and what happens: how many steps are played, or cut, or saved and loaded."""

    lanes: int
    more_rows: int  # above the fewest that hold a window
    horizon: int
    stack: int
    pad: str
    mode: str
    ends: float
    seed: int
    events: list[int | str]


EVENTS = st.lists(st.one_of(st.integers(1, 60), st.sampled_from(["cut", "load"])), min_size=2, max_size=8)
WORLDS = st.builds(
    World,
    lanes=st.integers(1, 4),
    more_rows=st.integers(0, 12),
    horizon=st.integers(1, 6),
    stack=st.integers(1, 5),
    pad=st.sampled_from(["repeat", "zero"]),
    mode=st.sampled_from(["same_step", "next_step"]),
    ends=st.sampled_from([0.0, 0.02, 0.2, 0.6, 1.0]),
    seed=st.integers(0, 1000),
    events=EVENTS,
)


@EXAMPLES
@given(WORLDS)
def test_replay_is_its_twin(world: World) -> None:
    """Whatever is played, cut, saved and loaded: the same transitions are alive, folded and stacked the same."""

    def fresh() -> uniform.ReplayMemory:
        rows = world.horizon + world.stack + 4 + world.more_rows
        return uniform.make(world.lanes, rows, horizon=world.horizon, stack=world.stack, pad=world.pad)

    memory = fresh()
    naive = uniform.naive_for(memory)
    player = Player(FakeEnvs(world.lanes, world.mode, world.stack, world.pad, world.seed, world.ends))
    cut = False
    for event in world.events:
        if event == "cut":
            player.restart(memory, naive)
            cut = True
        elif event == "load":
            state, memory = copy.deepcopy(memory.state_dict()), fresh()
            memory.load_state_dict(state)
        else:
            player.play(int(event), memory, naive)
        uniform.assert_equals_twin(memory, naive, only_bootstrapped=cut)


@settings(max_examples=50, deadline=None)
@given(WORLDS, st.lists(st.floats(0, 1e6), min_size=8, max_size=8), st.floats(0, 1))
def test_whoever_is_alive_is_drawn_by_priority(world: World, errors: list[float], alpha: float) -> None:
    """P(i) = p_i / sum(p) / shards over exactly the living, where p = (|TD error| + eps)^alpha."""
    lanes = 2 * world.lanes
    memory = prioritized.make(
        lanes, world.horizon + world.stack + 4 + world.more_rows, horizon=world.horizon, stack=world.stack, alpha=alpha
    )
    naive = NaiveReplay(lanes, world.horizon, GAMMA, memory.ring.rows, world.stack)
    player = Player(FakeEnvs(lanes, world.mode, world.stack, "repeat", world.seed, world.ends))
    highest, told = 1.0, dict[tuple[int, int], float]()
    for event in world.events:
        if event == "cut":
            player.restart(memory, naive)
        elif event == "load":
            state = copy.deepcopy(memory.state_dict())
            memory.load_state_dict(state)
        else:
            player.play(int(event), memory, naive)
        entered = {(lane, k): highest for lane in range(lanes) for k in naive.alive(lane)}
        told = entered | {key: error for key, error in told.items() if key in entered}
        if not told or event == "cut":
            continue
        index = {key: naive.kept[key[0]][key[1]].row % naive.rows * lanes + key[0] for key in told}
        keys = sorted(told)[: len(errors)]
        new = torch.tensor(errors[: len(keys)], dtype=torch.float64)
        memory.reprioritize(torch.tensor([index[key] for key in keys]), prioritized.told(new))
        told |= dict(zip(keys, new.tolist(), strict=True))
        highest = max(highest, float(new.max()))
        for shard in range(2):
            mine = {key: (e + prioritized.EPS) ** alpha for key, e in told.items() if key[0] // world.lanes == shard}
            if not mine:
                continue
            found = memory.sampler.probability(torch.tensor([index[key] for key in mine]))  # type: ignore[attr-defined]
            expected = torch.tensor(list(mine.values()), dtype=torch.float64) / sum(mine.values()) / 2
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@st.composite
def shapes(draw: st.DrawFn) -> sequences.Shape:
    length = draw(st.integers(1, 6))
    return sequences.Shape(
        length,
        draw(st.integers(0, length)),
        draw(st.integers(1, length)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from(["repeat", "zero"])),
    )


@EXAMPLES
@given(shapes(), WORLDS)
@example(  # episodes so short that the oldest sequences leave before their rows do
    sequences.Shape(length=5, burn_in=1, stride=5, horizon=2, stack=1, pad="repeat"),
    World(2, 0, horizon=1, stack=1, pad="repeat", mode="same_step", ends=0.6, seed=124, events=[1, 12]),
)
def test_sequences_are_their_twin(shape: sequences.Shape, world: World) -> None:
    rows = sequences.rows_for(shape, world.more_rows)
    memory = sequences.make(shape, rows, world.lanes, batch=1)
    naive = sequences.NaiveSequences(shape, rows, world.lanes)
    ends = min(world.ends, 0.3)  # episodes of one step each take more rows than the fewest
    player = sequences.Player(FakeEnvs(world.lanes, world.mode, shape.stack, shape.pad, world.seed, ends))
    for event in world.events:
        if event == "cut":
            player.restart(memory, naive)
        elif event != "load":
            player.play(int(event), memory, naive)
        sequences.assert_equals_twin(memory, naive)


WINDOW = st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans(), st.booleans()), min_size=1, max_size=9)


@settings(max_examples=300, deadline=None)
@given(WINDOW, st.floats(0, 1))
def test_fold_is_the_sum_that_the_papers_write(window: list[tuple[float, bool, bool]], gamma: float) -> None:
    ret, scale, length = 0.0, 1.0, 0
    for reward, terminal, stop in window:
        ret, scale, length = ret + scale * reward, scale * gamma, length + 1
        if terminal:
            scale = 0.0
        if terminal or stop:
            break
    rewards, terminals, stops = zip(*window, strict=True)
    reward = torch.tensor([rewards], dtype=torch.float64)
    terminal, stop = torch.tensor([terminals]), torch.tensor([stops])
    got = fold(reward, terminal, stop | terminal, gamma)  # what terminates stops as well: the ring sees to it
    torch.testing.assert_close(got[0].item(), ret, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(got[1].item(), scale, rtol=1e-12, atol=0)
    assert got[2].item() == length
