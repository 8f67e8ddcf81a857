"""The ring, the frame stacks, the n-step fold and the sampler against twins that store whole stacks in lists."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from replay_twin import FRAME, FakeEnvs, NaiveReplay, Player
from torch import Tensor

from trainer.replay import Frames, ReplayMemory, Ring, UniformSampler
from trainer.replay.nstep import fold
from trainer.types import Batch, Choice, Timestep

GAMMA = 0.75  # its powers, and rewards in quarters, are exact in binary: the twins agree to the last bit
CPU = torch.device("cpu")


def make(
    lanes: int = 3,
    rows: int = 24,
    *,
    horizon: int = 1,
    stack: int = 1,
    pad: str = "repeat",
    shards: Mapping[int, int] | None = None,
    batch: int = 6,
    updates: int = 1,
    clip: bool = False,
) -> ReplayMemory:
    """A memory; shards maps shard numbers to seeds."""
    obs_shape = (stack, *FRAME) if stack > 1 else FRAME
    frames = Frames(obs_shape, stack, pad)  # type: ignore[arg-type]
    ring = Ring(rows, lanes, frames.frame_shape, torch.float32, horizon=horizon, stack=stack, device=CPU)
    streams = {shard: torch.Generator().manual_seed(seed) for shard, seed in (shards or {0: 0}).items()}
    return ReplayMemory(
        ring,
        frames,
        UniformSampler(ring, streams),
        updates=lambda step: updates,
        batch_size=batch,
        gamma=GAMMA,
        clip_reward=clip,
        dtype=torch.float64,
        device=CPU,
    )


def naive_for(memory: ReplayMemory) -> NaiveReplay:
    ring = memory.ring
    return NaiveReplay(ring.lanes, ring.horizon, GAMMA, ring.rows, ring.stack)


def alive_of(memory: ReplayMemory, lane: int) -> range:
    return range(int(memory.ring.tail[lane]), int(memory.ring.mature[lane]))


def everything(memory: ReplayMemory) -> tuple[list[tuple[int, int]], Batch]:
    """All living transitions as (lane, number), and what `fetch` makes of them."""
    pairs = [(lane, number) for lane in range(memory.ring.lanes) for number in alive_of(memory, lane)]
    lanes = torch.tensor([lane for lane, _ in pairs], dtype=torch.int64)
    numbers = torch.tensor([number for _, number in pairs], dtype=torch.int64)
    return pairs, memory.fetch(memory.ring.locate(numbers, lanes))


def assert_equals_twin(memory: ReplayMemory, naive: NaiveReplay, *, only_bootstrapped: bool = False) -> int:
    for lane in range(memory.ring.lanes):
        assert alive_of(memory, lane) == naive.alive(lane), f"lane {lane}"
    pairs, batch = everything(memory)
    if not pairs:
        return 0
    folds = [naive.fold(lane, number) for lane, number in pairs]
    kept = [naive.kept[lane][number] for lane, number in pairs]
    assert batch.ret.tolist() == [f[0] for f in folds if f]
    assert batch.discount.tolist() == [f[1] for f in folds if f]
    assert batch.action.tolist() == [k.action for k in kept]
    assert torch.equal(batch.obs, torch.stack([k.obs for k in kept]))
    expected = torch.stack([f[2] for f in folds if f])
    matters = batch.discount > 0 if only_bootstrapped else torch.ones_like(batch.discount, dtype=torch.bool)
    assert torch.equal(batch.next_obs[matters], expected[matters])
    return len(pairs)


STACKS = [(1, "repeat"), (4, "repeat"), (4, "zero"), (2, "zero")]


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize(("stack", "pad"), STACKS)
@pytest.mark.parametrize("horizon", [1, 3, 5])
def test_every_living_transition_equals_whole_storage(mode: str, stack: int, pad: str, horizon: int) -> None:
    memory = make(rows=horizon + stack + 14, horizon=horizon, stack=stack, pad=pad)
    naive = naive_for(memory)
    player = Player(FakeEnvs(3, mode, stack, pad, seed=horizon * 10 + stack))
    checked = 0
    for _ in range(110):
        player.play(1, memory, naive)
        checked += assert_equals_twin(memory, naive)
    assert all(cursor > 3 * memory.ring.rows for cursor in naive.cursor), "several wraps"
    lengths = [len(list(g)) for kept in naive.kept for done, g in itertools.groupby(k.done for k in kept) if not done]
    assert checked > 800
    assert min(lengths) < max(horizon, 2)
    assert max(lengths) > horizon


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes_of_ring(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=rng))

    stack, horizon, lanes = pick(1, 6), pick(1, 7), pick(1, 5)
    pad = ("repeat", "zero")[pick(0, 2)]
    memory = make(lanes, horizon + stack + 4 + pick(0, 12), horizon=horizon, stack=stack, pad=pad)
    naive = naive_for(memory)
    mode, ends = ("same_step", "next_step")[pick(0, 2)], (0.02, 0.2, 0.6)[pick(0, 3)]
    player = Player(FakeEnvs(lanes, mode, stack, pad, seed, ends))
    for _ in range(90):
        player.play(1, memory, naive)
        assert_equals_twin(memory, naive)


@pytest.mark.parametrize("ends", [0.0, 0.1, 0.7])
@pytest.mark.parametrize(("stack", "horizon"), [(1, 1), (4, 3)])
def test_capacity_promise(stack: int, horizon: int, ends: float) -> None:
    """`Layout.rows_per_lane` adds n + stack + 4 rows; then only one row per episode is missing from capacity."""
    capacity = 60
    memory = make(2, capacity + horizon + stack + 4, horizon=horizon, stack=stack)
    naive = naive_for(memory)
    player = Player(FakeEnvs(2, "same_step", stack, "repeat", 5, ends))
    player.play(100, memory, naive)
    for _ in range(60):
        player.play(1, memory, naive)
        for lane in range(2):
            held = naive.kept[lane][int(memory.ring.tail[lane]) :]
            closings = 1 + sum(transition.done for transition in held)
            assert len(alive_of(memory, lane)) >= capacity - closings


def test_the_newest_are_alive_at_once() -> None:
    memory, sizes = make(1, 30, horizon=3), []
    before = OPENING
    for after in script({6: "truncated"}, 8):
        memory.add(before, Choice(torch.zeros(1, dtype=torch.int64)), after)
        before = after
        sizes.append(len(alive_of(memory, 0)))
    assert sizes == [0, 0, 1, 2, 3, 6, 6, 6]


def test_rewards_are_clipped_only_where_asked() -> None:
    clipped, plain = make(clip=True), make()
    naive = naive_for(plain)
    Player(FakeEnvs(3, "same_step", 1, "repeat", 3)).play(12, clipped, plain, naive)
    _, a = everything(clipped)
    _, b = everything(plain)
    assert b.ret.abs().max() > 1
    assert torch.equal(a.ret, b.ret.clamp(-1, 1))


# --- the fold ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 2, 3, 5])
@pytest.mark.parametrize("end", ["terminated", "truncated", "none"])
def test_fold_by_hand_at_every_offset(horizon: int, end: str) -> None:
    """Windows of one episode with rewards 1, 2, 4, ... that ends `offset` transitions after the window's start."""
    for offset in range(horizon):
        reward = torch.tensor([[2.0**i for i in range(horizon)]], dtype=torch.float64)
        terminal = torch.zeros(1, horizon, dtype=torch.bool)
        stop = torch.zeros(1, horizon, dtype=torch.bool)
        terminal[0, offset] = end == "terminated"
        stop[0, offset] = end != "none"
        terminal[0, offset + 1 :] = True  # of another episode: must not matter
        if end == "none":
            terminal[:] = False
        length = horizon if end == "none" else offset + 1
        got = fold(reward, terminal, stop, 0.5)
        assert got[0].item() == length  # 0.5^i 2^i = 1 each
        assert got[1].item() == (0.0 if end == "terminated" else 0.5**length)
        assert got[2].item() == length


def script(ends: dict[int, str], steps: int, lanes: int = 1) -> list[Timestep]:
    """One lane, SAME_STEP, rewards 1, 2, 3, ...; `ends` says which step ends an episode, and how."""
    out = []
    no = torch.zeros(lanes, dtype=torch.bool)
    for step in range(1, steps + 1):
        here = torch.full((lanes, *FRAME), float(step))
        how = ends.get(step, "")
        obs = here + 0.5 if how in ("terminated", "truncated") else here
        flags = [no | (how == name) for name in ("terminated", "truncated", "life_lost")]
        out.append(Timestep(obs, torch.full((lanes,), float(step)), *flags, no, here))
    return out


OPENING = Timestep(torch.zeros(1, *FRAME), *[torch.zeros(1)] * 5, torch.zeros(1, *FRAME))


@pytest.mark.parametrize("how", ["terminated", "truncated", "life_lost"])
@pytest.mark.parametrize("at", range(1, 8))
def test_three_step_returns_of_a_written_episode(how: str, at: int) -> None:
    memory = make(1, 30, horizon=3)
    before = OPENING
    for after in script({at: how}, 12):
        memory.add(before, Choice(torch.zeros(1, dtype=torch.int64)), after)
        before = after
    pairs, batch = everything(memory)
    assert len(pairs) == 10, "12 transitions, of which the last 2 wait for their window"
    for (_, number), ret, discount, next_obs in zip(pairs, batch.ret, batch.discount, batch.next_obs, strict=True):
        first = number + 1  # its reward
        last = min(first + 2, at) if first <= at else first + 2
        assert ret.item() == sum(GAMMA**i * r for i, r in enumerate(range(first, last + 1)))
        ended = last == at
        assert discount.item() == (0.0 if ended and how != "truncated" else GAMMA ** (last + 1 - first))
        assert next_obs[0, 0].item() == last, "the true successor, not the next episode's first"


# --- the sampler ------------------------------------------------------------------------------------------------------


def chi_square_is_plausible(counts: Tensor) -> bool:
    expected = counts.sum() / len(counts)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    return abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("horizon", [1, 3])
def test_sampling_is_uniform_within_a_shard_and_equal_over_shards(horizon: int) -> None:
    memory = make(4, 40, horizon=horizon, shards={0: 11, 1: 12}, batch=200, updates=200)
    player = Player(FakeEnvs(4, "next_step", 1, "repeat", 7, ends=0.3))
    player.play(75, memory)  # NEXT_STEP: lanes hold different numbers of transitions
    sizes = [len(alive_of(memory, lane)) for lane in range(4)]
    assert len(set(sizes)) > 1
    index = memory.sampler.index(memory.sampler.draw(200, 200))
    assert index.shape == (200, 200)
    lane = index % memory.ring.lanes
    assert bool((lane[:, :100] < 2).all())
    assert bool((lane[:, 100:] >= 2).all()), "100 from each shard, in the shards' order"
    pairs, batch = everything(memory)
    counts = torch.bincount(index.flatten(), minlength=memory.ring.rows * 4).to(torch.float64)
    assert int(counts[batch.index].sum()) == 40_000, "nothing dead is drawn"
    first = torch.tensor([lane < 2 for lane, _ in pairs])
    assert chi_square_is_plausible(counts[batch.index[first]])
    assert chi_square_is_plausible(counts[batch.index[~first]])


def test_what_a_shard_draws_does_not_depend_on_its_neighbours() -> None:
    whole = make(4, 24, shards={0: 5, 1: 6}, batch=8, updates=3)
    halves = [make(2, 24, shards={s: 5 + s}, batch=4, updates=3) for s in range(2)]
    player = Player(FakeEnvs(4, "same_step", 1, "repeat", 2))
    for _ in range(40):
        before, choice = player.timestep, Choice(torch.arange(4))
        after = player.envs.step()
        whole.add(before, choice, after)
        for half, lanes in zip(halves, (slice(0, 2), slice(2, 4)), strict=True):
            half.add(
                Timestep(*(t[lanes] for t in before)),
                Choice(choice.action[lanes]),
                Timestep(*(t[lanes] for t in after)),
            )
        player.timestep = after
        for joined, *parts in zip(whole.batches(1), *(half.batches(1) for half in halves), strict=True):
            for name in ("obs", "action", "ret", "discount", "next_obs"):
                assert torch.equal(getattr(joined, name), torch.cat([getattr(p, name) for p in parts])), name


def test_batches_are_as_many_as_the_step_says() -> None:
    memory = make(updates=3, batch=5)
    Player(FakeEnvs(3, "same_step", 1, "repeat", 1)).play(10, memory)
    batches = list(memory.batches(1))
    assert [b.obs.shape for b in batches] == [(5, *FRAME)] * 3
    assert all(torch.equal(memory.fetch(b.index).obs, b.obs) for b in batches)
    memory.wait_until(5)
    assert list(memory.batches(4)) == []
    assert len(list(memory.batches(5))) == 3
    memory.updates = lambda step: 0
    assert list(memory.batches(5)) == []


# --- cut --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize(("stack", "pad", "horizon"), [(1, "repeat", 1), (1, "repeat", 3), (4, "zero", 3)])
def test_cut_closes_running_episodes_as_truncated(mode: str, stack: int, pad: str, horizon: int) -> None:
    memory = make(rows=26, horizon=horizon, stack=stack, pad=pad)
    naive = naive_for(memory)
    player = Player(FakeEnvs(3, mode, stack, pad, seed=4))
    player.restart(memory, naive)  # cutting nothing does nothing
    assert_equals_twin(memory, naive)
    for steps in (1, 2, 7, 1, 23, 40, 3):
        for _ in range(steps):
            player.play(1, memory, naive)
            assert_equals_twin(memory, naive, only_bootstrapped=True)
        player.restart(memory, naive)
        assert_equals_twin(memory, naive, only_bootstrapped=True)
        assert all(len(alive_of(memory, lane)) for lane in range(3)), "what waited for its window is alive"


# --- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 5, 21, 75])
@pytest.mark.parametrize(("stack", "horizon"), [(1, 1), (4, 3)])
def test_state_round_trip_is_bitwise(steps: int, stack: int, horizon: int) -> None:
    def fresh() -> ReplayMemory:
        return make(4, 28, horizon=horizon, stack=stack, pad="zero", shards={2: 1, 3: 2}, batch=8, updates=2)

    old, new = fresh(), fresh()
    player = Player(FakeEnvs(4, "next_step", stack, "zero", 9))
    player.play(steps, old)
    if steps:
        list(old.batches(1))  # the streams have moved
    state = copy.deepcopy(old.state_dict())
    assert set(state) == {"2", "3"}
    new.load_state_dict(state)
    for _ in range(60):
        player.play(1, old, new)
        if min(old.ring.mature - old.ring.tail) < 1:
            continue
        for a, b in zip(old.batches(1), new.batches(1), strict=True):
            for name in ("obs", "action", "ret", "discount", "next_obs", "index"):
                assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(old.ring.tail, new.ring.tail)


@pytest.mark.parametrize("steps", [9, 60])
def test_shards_move_between_ranks(steps: int) -> None:
    """Two shards saved by one rank continue the same on two, and the other way round."""
    seeds = {0: 5, 1: 6}
    one = make(4, 24, horizon=3, shards=seeds, batch=8)
    player = Player(FakeEnvs(4, "same_step", 1, "repeat", 3))
    player.play(steps, one)
    two = [make(2, 24, horizon=3, shards={shard: 99}, batch=4) for shard in seeds]
    for memory in two:
        memory.load_state_dict(copy.deepcopy(one.state_dict()))
    back = make(4, 24, horizon=3, shards={0: 98, 1: 97}, batch=8)
    back.load_state_dict({key: value for memory in two for key, value in copy.deepcopy(memory.state_dict()).items()})
    for _ in range(40):
        before, choice, after = player.timestep, Choice(torch.arange(4)), player.envs.step()
        for memory in (one, back):
            memory.add(before, choice, after)
        for memory, lanes in zip(two, (slice(0, 2), slice(2, 4)), strict=True):
            parts = (Timestep(*(t[lanes] for t in step)) for step in (before, after))
            memory.add(next(parts), Choice(choice.action[lanes]), next(parts))
        player.timestep = after
        (joined,), (again,), *halves = (list(m.batches(1)) for m in (one, back, *two))
        for name in ("obs", "action", "ret", "discount", "next_obs"):
            assert torch.equal(getattr(joined, name), getattr(again, name)), name
            assert torch.equal(getattr(joined, name), torch.cat([getattr(h[0], name) for h in halves])), name


def test_an_observation_is_stored_once() -> None:
    shape, stack = (4, 84, 84), 4
    frames = Frames(shape, stack, "repeat")
    assert frames.frame_shape == (84, 84)
    row = Ring.row_bytes(frames.frame_shape, torch.uint8)
    assert row == 84 * 84 + 17
    ring = Ring(20, 2, frames.frame_shape, torch.uint8, horizon=1, stack=stack, device=CPU)
    fields = (ring.frames, ring.action, ring.reward, ring.flags, ring.age, ring.slots)
    blank = 84 * 84  # one frame of zeros for the whole ring
    assert sum(field.numel() * field.element_size() for field in fields) == 20 * 2 * row + blank
