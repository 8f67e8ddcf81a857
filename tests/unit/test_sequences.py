"""Sequence replay against a twin that keeps whole episodes in lists, and against the network that acted."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from host_reads import NoHostReads
from replay_twin import FRAME, FakeEnvs
from sequence_twin import (
    CPU,
    A,
    NaiveSequences,
    Player,
    Shape,
    alive,
    assert_equals_twin,
    make,
    rows_for,
    weights,
)
from torch import Tensor

from trainer.nets import ActionOutputs, RecurrentQNetwork, ValueHead, VectorTorso
from trainer.policy import RecurrentGreedy
from trainer.replay import SequenceMemory
from trainer.types import Choice, Given, Timestep, UpdateOut

SHAPES = [
    Shape(),
    Shape(length=5, burn_in=0, stride=2, horizon=1),
    Shape(length=3, burn_in=3, stride=3, horizon=4, stack=4, pad="zero"),
    Shape(length=4, burn_in=1, stride=1, horizon=3, stack=2),
    Shape(length=1, burn_in=0, stride=1, horizon=1),
    Shape(length=6, burn_in=5, stride=2, horizon=1, stack=4),
]


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ends", [0.04, 0.15])
def test_every_sequence_equals_whole_storage(shape: Shape, mode: str, ends: float) -> None:
    rows = rows_for(shape, more=6)
    memory, naive = make(shape, rows), NaiveSequences(shape, rows, 3)
    player, learning = Player(FakeEnvs(3, mode, shape.stack, shape.pad, 7, ends)), []
    for _ in range(12):
        player.play(8, memory, naive)
        learning += assert_equals_twin(memory, naive)
    player.restart(memory, naive)
    for _ in range(6):
        player.play(1, memory, naive)
        learning += assert_equals_twin(memory, naive)
    assert all(cursor > 2 * rows for cursor in naive.replay.cursor), "several wraps"
    assert {1, shape.length} <= set(learning), "whole ones, and some of one step"


@pytest.mark.parametrize("seed", range(8))
def test_random_shapes(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=rng))

    length = pick(1, 7)
    shape = Shape(
        length, pick(0, length + 1), pick(1, length + 1), pick(1, 5), pick(1, 5), ("repeat", "zero")[seed % 2]
    )
    rows, lanes = rows_for(shape, pick(0, 12)), pick(1, 4)
    memory, naive = make(shape, rows, lanes, batch=1), NaiveSequences(shape, rows, lanes)
    ends = (0.01, 0.1, 0.3)[pick(0, 3)]
    player = Player(FakeEnvs(lanes, ("same_step", "next_step")[pick(0, 2)], shape.stack, shape.pad, seed, ends))
    for _ in range(16):
        player.play(pick(1, 9), memory, naive)
        assert_equals_twin(memory, naive)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_smallest_ring_always_has_something_to_draw(shape: Shape) -> None:
    """With the capacity that `validate` asks for, from the step on at which it lets learning start."""
    for ends in (0.0, 0.05, 0.6):
        memory = make(shape, rows_for(shape), 2)
        player = Player(FakeEnvs(2, "next_step", shape.stack, shape.pad, 3, ends))
        player.play(shape.length + shape.horizon, memory)
        for _ in range(60):
            assert all(len(alive(memory, lane)) for lane in range(2))
            player.play(1, memory)


def test_very_short_episodes_push_the_oldest_out() -> None:
    """A lane keeps 2 rows / stride sequences: the newest ones are left, and they are right."""
    shape = Shape(length=9, burn_in=2, stride=8, horizon=1)
    rows = rows_for(shape, more=30)
    memory, naive = make(shape, rows, 2), NaiveSequences(shape, rows, 2)
    player = Player(FakeEnvs(2, "same_step", 1, "repeat", 5, 0.7))
    for _ in range(12):
        player.play(15, memory, naive)
        assert_equals_twin(memory, naive)
    for lane in range(2):
        assert len(alive(memory, lane)) == naive.most
        assert naive.safe(lane, naive.entered(lane)[-naive.most - 1]), "the rows of one that was pushed out are there"


def test_rewards_are_clipped_only_where_asked() -> None:
    clipped, plain = make(Shape(), 40, clip=True), make(Shape(), 40)
    Player(FakeEnvs(3, "same_step", 1, "repeat", 3)).play(30, clipped, plain)
    a, b = clipped.fetch(alive(clipped, 0)), plain.fetch(alive(plain, 0))
    assert b.last_reward.abs().max() > 1
    assert torch.equal(a.last_reward, b.last_reward.clamp(-1, 1))


# --- the stored state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize("burn_in", [0, 3])
def test_unrolling_from_the_stored_state_gives_the_values_that_acted(mode: str, burn_in: int) -> None:
    """With unchanged weights, across wraps, episode ends and lost lives: nothing of acting is lost on the way."""
    torch.manual_seed(0)
    torso = VectorTorso((4, *FRAME), (7,))
    net = RecurrentQNetwork(torso, 7, ValueHead(ActionOutputs(6, A, 1)), num_actions=A, width=6).double()
    shape, lanes = Shape(5, burn_in, 4, 2, 4, "zero"), 3
    memory = make(shape, rows_for(shape, more=20), lanes, width=6)
    policy = RecurrentGreedy(net, lanes, 6, [0], CPU, torch.float64, clip_reward=False)
    envs, acted = FakeEnvs(lanes, mode, 4, "zero", 11, 0.06), [list[Tensor]() for _ in range(lanes)]
    timestep = envs.restart()
    for step in range(120):
        scaled = timestep._replace(obs=timestep.obs / 100)
        with torch.no_grad():
            choice = policy.choose(scaled)
            told = Given(
                state=choice.state,
                last_action=policy.action.masked_fill(opens := scaled.reset | scaled.terminated | scaled.truncated, 0),
                last_reward=scaled.reward.masked_fill(opens, 0),
            )
            q = net(scaled.obs, told).q
        taken = (choice.action + step) % A
        policy.took(taken)
        after = envs.step()
        memory.add(scaled, choice._replace(action=taken), after._replace(final_obs=after.final_obs / 100))
        for lane in range(lanes):
            if not after.reset[lane]:
                acted[lane].append(q[lane])
        timestep = after
    for lane in range(lanes):
        slots = alive(memory, lane)
        batch = memory.fetch(slots)
        for b, slot in enumerate(slots):
            begin = 0 if batch.warm[b] else burn_in
            columns = slice(begin, begin + int(memory.book.span[slot]))
            told = Given(
                state=batch.state[b : b + 1],
                last_action=batch.last_action[b : b + 1, columns],
                last_reward=batch.last_reward[b : b + 1, columns],
            )
            with torch.no_grad():
                found = net(batch.obs[b : b + 1, columns], told).q[0]
            first = int(memory.book.number[slot])
            torch.testing.assert_close(found, torch.stack(acted[lane][first : first + len(found)]), rtol=0, atol=1e-12)
        assert len(slots) > 3


# --- priorities -------------------------------------------------------------------------------------------------------


def filled(lanes: int = 4, **options: object) -> SequenceMemory:
    memory = make(Shape(), 40, lanes, **options)  # type: ignore[arg-type]
    Player(FakeEnvs(lanes, "same_step", 1, "repeat", 3)).play(60, memory)
    return memory


def test_sequences_are_drawn_in_proportion_to_their_priorities() -> None:
    memory = filled(shards=(0, 1), batch=200)
    slots = weights(memory).nonzero().flatten()
    priority = torch.rand(len(slots), generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.01
    memory.reprioritize(slots, UpdateOut(priority, priority.amax()))
    weight = (priority + 1e-6) ** 0.9
    half = slots < weights(memory).numel() // 2
    expected = torch.where(half, weight / weight[half].sum(), weight / weight[~half].sum()) / 2
    counts = torch.zeros(weights(memory).numel())
    for _ in range(100):
        index, probability = memory.sample()
        assert (index[:100] < weights(memory).numel() // 2).all()
        assert (index[100:] >= weights(memory).numel() // 2).all()
        place = torch.searchsorted(slots, index)
        assert torch.equal(slots[place], index), "only what is alive"
        torch.testing.assert_close(probability, expected[place])
        counts += torch.bincount(index, minlength=len(counts))
    torch.testing.assert_close(counts[slots].double() / 20_000, expected, rtol=0, atol=2e-3)


def test_alpha_zero_is_uniform_within_a_shard() -> None:
    memory = filled(alpha=0.0)
    slots = weights(memory).nonzero().flatten()
    memory.reprioritize(slots, UpdateOut(torch.rand(len(slots)), torch.ones(())))
    assert torch.equal(weights(memory)[slots], torch.ones(len(slots), dtype=torch.float64))


def test_new_sequences_enter_at_the_highest_priority_of_all_ranks() -> None:
    memory = filled()
    before = memory.book.entered.clone()
    memory.reprioritize(alive(memory, 0)[:2], UpdateOut(torch.tensor([0.5, 0.0]), torch.tensor(7.0)))
    memory.reprioritize(alive(memory, 0)[2:3], UpdateOut(torch.tensor([2.0]), torch.tensor(3.0)))
    assert (weights(memory)[alive(memory, 0)] > 0).all(), "no TD error is no reason never to be drawn again"
    player = Player(FakeEnvs(4, "same_step", 1, "repeat", 9, 0.3))
    player.restart(memory)
    player.play(10, memory)
    for lane in range(4):
        new = alive(memory, lane)[int(before[lane]) - int(memory.book.entered[lane]) :]
        assert len(new)
        torch.testing.assert_close(
            weights(memory)[new], torch.full((len(new),), (7 + 1e-6) ** 0.9, dtype=torch.float64)
        )


def test_draws_and_probabilities_do_not_depend_on_the_number_of_ranks() -> None:
    whole = make(Shape(), 40, 4, shards=(0, 1), batch=8)
    parts = [make(Shape(), 40, 2, shards=(shard,), of=2, batch=4) for shard in (0, 1)]
    player = Player(FakeEnvs(4, "same_step", 1, "repeat", 3))
    played: list[tuple[Timestep, Choice, Timestep]] = []
    player.play(60, whole, _Tape(played))  # type: ignore[arg-type]
    for i, part in enumerate(parts):
        rows = slice(2 * i, 2 * i + 2)
        for before, choice, after in played:
            mine = Choice(*(field[rows] for field in choice if field is not None))
            part.add(Timestep(*(f[rows] for f in before)), mine, Timestep(*(f[rows] for f in after)))
    for _ in range(3):
        index, probability = whole.sample()
        found = whole.fetch(index)
        for i, part in enumerate(parts):
            index_, probability_ = part.sample()
            assert torch.equal(probability_, probability[4 * i : 4 * i + 4])
            mine = part.fetch(index_)
            for name in ("obs", "ret", "state", "learns", "warm"):
                assert torch.equal(getattr(mine, name), getattr(found, name)[4 * i : 4 * i + 4])


class _Tape:
    def __init__(self, played: list[tuple[Timestep, Choice, Timestep]]) -> None:
        self.played = played

    def add(self, *step: object) -> None:
        self.played.append(step)  # type: ignore[arg-type]


def test_nothing_waits_for_the_device() -> None:
    memory = make(Shape(), 40, 4, shards=(0, 1), batch=4)
    player = Player(FakeEnvs(4, "next_step", 1, "repeat", 3))
    player.play(20, memory)
    steps: list[tuple[Timestep, Choice, Timestep]] = []
    player.play(5, _Tape(steps))  # type: ignore[arg-type]
    with NoHostReads():
        for step in steps:
            (batch,) = memory.batches(1)
            memory.reprioritize(batch.index, UpdateOut(batch.ret.abs().amax(1), batch.ret.abs().amax()))
            memory.add(*step)
        memory.cut()


@pytest.mark.parametrize("moment", [3, 17, 60, 61])
def test_state_goes_on_in_a_fresh_memory(moment: int) -> None:
    """In the middle of episodes, with sequences in progress, before and after the wrap; shards one by one."""
    one, other = (make(Shape(stride=2), 30, 4, shards=(0, 1), batch=4) for _ in range(2))
    player = Player(FakeEnvs(4, "next_step", 1, "repeat", 3))
    player.play(moment, one)
    for shard, part in one.state_dict().items():
        other.load_state_dict(copy.deepcopy({**other.state_dict(), shard: part}))
    for _ in range(25):
        player.play(2, one, other)
        (a,), (b,) = one.batches(1), other.batches(1)
        for x, y in itertools.zip_longest(a, b):
            assert torch.equal(x, y)
        priority = torch.rand(4, generator=player.random)
        one.reprioritize(a.index, UpdateOut(priority, priority.amax()))
        other.reprioritize(b.index, UpdateOut(priority, priority.amax()))
