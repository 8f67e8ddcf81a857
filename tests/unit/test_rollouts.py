"""Rollouts against the forward view of Q(lambda), from first principles, and against a list of what happened."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from replay_twin import FRAME, FakeEnvs, NaiveReplay
from torch import Tensor

from trainer.replay import RolloutMemory, q_lambda, rollouts
from trainer.types import Batch, Choice, UpdateOut

CPU = torch.device("cpu")
GAMMA, LANES, STEPS, EPOCHS = 0.9, 4, 12, 3


def forward_view(reward: Any, value: Any, terminal: Any, stop: Any, gamma: float, trace: float) -> Any:
    """The mean of all n-step returns, n-th weighted (1 - trace) trace^(n-1), the longest one with the remaining weight.

    Sutton & Barto 2018, eq. 12.3, with max_a Q as the value (Gallici et al. 2025). One lane, [T] each.
    """
    ret = np.zeros(len(reward))
    for t in range(len(reward)):
        longest = next((k for k in range(t, len(reward)) if stop[k]), len(reward) - 1)
        total, weights = 0.0, 0.0
        for last in range(t, longest + 1):
            n_step = sum(gamma ** (k - t) * reward[k] for k in range(t, last + 1))
            if not terminal[last]:
                n_step += gamma ** (last - t + 1) * value[last]
            weight = (1 - trace) * trace ** (last - t) if last < longest else trace ** (last - t)
            total, weights = total + weight * n_step, weights + weight
        assert weights == pytest.approx(1.0)
        ret[t] = total
    return ret


def problem(seed: int, steps: int, ends: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    reward = 2 * torch.randn(2, steps, generator=g, dtype=torch.float64)
    value = 5 * torch.randn(2, steps, generator=g, dtype=torch.float64)
    terminal = torch.rand(2, steps, generator=g) < ends
    return reward, value, terminal, terminal | (torch.rand(2, steps, generator=g) < ends)


@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 9),
    ends=st.sampled_from([0.0, 0.2, 1.0]),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    trace=st.sampled_from([0.0, 0.65, 0.95, 1.0]),
)
def test_q_lambda_is_the_forward_view(seed: int, steps: int, ends: float, gamma: float, trace: float) -> None:
    parts = problem(seed, steps, ends)
    found = q_lambda(*parts, gamma, trace)
    for lane in range(2):
        expected = forward_view(*(part[lane].numpy() for part in parts), gamma, trace)
        np.testing.assert_allclose(found[lane], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
@pytest.mark.parametrize("at", range(STEPS))
def test_an_end_at_every_offset(at: int, kind: str) -> None:
    """Up to the end nothing depends on what comes after it, and only a cut uses the value of its successor."""
    reward, value, _, _ = problem(at, STEPS, 0.0)
    stop = torch.zeros_like(reward, dtype=torch.bool)
    stop[:, at] = True
    terminal = stop & (kind == "terminated")
    found = q_lambda(reward, value, terminal, stop, GAMMA, 0.8)
    expected = forward_view(reward[0].numpy(), value[0].numpy(), terminal[0].numpy(), stop[0].numpy(), GAMMA, 0.8)
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)
    other = reward.clone(), value.clone()
    for part in other:
        part[:, at + 1 :] += 100
    torch.testing.assert_close(q_lambda(*other, terminal, stop, GAMMA, 0.8)[:, : at + 1], found[:, : at + 1])
    value = value.clone()
    value[:, at] += 1
    moved = q_lambda(reward, value, terminal, stop, GAMMA, 0.8)[:, at] - found[:, at]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.0 if kind == "terminated" else GAMMA))


def test_lambda_zero_is_one_step() -> None:
    reward, value, terminal, stop = problem(1, 20, 0.2)
    torch.testing.assert_close(q_lambda(reward, value, terminal, stop, GAMMA, 0.0), reward + GAMMA * value * ~terminal)


def test_lambda_one_is_monte_carlo_with_a_bootstrap() -> None:
    reward, value, _, _ = problem(2, 5, 0.0)
    never = torch.zeros_like(reward, dtype=torch.bool)
    powers = GAMMA ** torch.arange(5, dtype=torch.float64)
    found = q_lambda(reward, value, never, never, GAMMA, 1.0)
    torch.testing.assert_close(found[:, 0], (reward * powers).sum(1) + GAMMA**5 * value[:, -1])
    assert not torch.allclose(found, q_lambda(reward, value, never, never, GAMMA, 0.5)), "the trace does something"


def value_of(obs: Tensor, task: Tensor | None = None) -> Tensor:
    """Stand for max_a Q; every frame has its own value."""
    return obs.double().flatten(1).sum(1).sin()


def updates(step: int) -> int:
    return EPOCHS * 4 if step > 1 and (step - 1) % STEPS == 0 else 0


def memory(shards: tuple[int, ...] = (0, 1), mode: str = "same_step", trace: float = 0.65, **options: Any) -> Any:
    lanes = LANES // 2 * len(shards)
    stated: dict[str, Any] = {
        "updates": updates,
        "batch_size": lanes * STEPS // 4,
        "epochs": EPOCHS,
        "gamma": GAMMA,
        "trace": trace,
        "clip_reward": False,
        "resets": mode == "next_step",
        "dtype": torch.float64,
        "storage": CPU,
        "device": CPU,
    }
    generators = {shard: torch.Generator().manual_seed(shard) for shard in shards}
    return RolloutMemory(STEPS, lanes, FRAME, torch.float32, generators, value_of, **(stated | options))


class Play:
    """Fake environments, and what was made of them: timesteps for memories of all lanes or of some."""

    def __init__(self, mode: str, seed: int = 0) -> None:
        self.envs = FakeEnvs(LANES, mode, 1, "repeat", seed)
        self.now = self.envs.restart()
        self.step = 0
        self.naive = NaiveReplay(LANES, 1, GAMMA, 1000, 1)

    def go(self, *memories: tuple[Any, slice]) -> list[list[Batch]]:
        """Make one step in the order of the loop: learn, then add."""
        self.step += 1
        learned = [list(each.batches(self.step)) for each, _ in memories]
        action = torch.from_numpy(self.envs.rng.integers(0, 3, LANES))
        after = self.envs.step()
        for each, lanes in memories:
            parts = [type(t)(*(field[lanes] for field in t)) for t in (self.now, after)]
            each.add(parts[0], Choice(action[lanes]), parts[1])
        self.naive.add(self.now, Choice(action), after)
        self.now = after
        return learned


ALL = slice(None)


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_learns_every_transition_epochs_times(mode: str) -> None:
    """Observations, actions and returns are those of a list of what happened; resets are masked, and nothing else."""
    play, ours = Play(mode), memory(mode=mode)
    told = [0] * LANES
    for _ in range(3):
        while not (learned := play.go((ours, ALL))[0]):
            pass
        assert ours.filled == 1, "nothing older than this rollout is kept"
        assert len(learned) == EPOCHS * 4
        index = torch.cat([batch.index for batch in learned])
        assert torch.equal(index.bincount(minlength=LANES * STEPS), torch.full((LANES * STEPS,), EPOCHS))
        by_index = {int(i): (batch, row) for batch in learned for row, i in enumerate(batch.index)}
        for lane in range(LANES):
            rows = [by_index[lane * STEPS + t] for t in range(STEPS)]
            rows = [(batch, row) for batch, row in rows if batch.mask is None or bool(batch.mask[row, 0])]
            expected = play.naive.kept[lane][told[lane] :][: len(rows)]
            told[lane] += len(rows)
            ret = forward_view(
                [part.reward for part in expected],
                [float(value_of(part.next_obs[None])) for part in expected],
                [part.terminal for part in expected],
                [part.stop for part in expected],
                GAMMA,
                0.65,
            )
            for (batch, row), part, target in zip(rows, expected, ret, strict=True):
                assert torch.equal(batch.obs[row], part.obs)
                assert int(batch.action[row]) == part.action
                assert float(batch.ret[row]) == pytest.approx(target, abs=1e-12)
                assert float(batch.discount[row]) == 0
    if mode == "next_step":
        assert sum(told) < 3 * LANES * STEPS, "some rows were resets"
    else:
        assert sum(told) == 3 * LANES * STEPS
        assert learned[0].mask is None


def test_every_batch_draws_equally_from_every_shard() -> None:
    play, ours = Play("same_step"), memory()
    while not (learned := play.go((ours, ALL))[0]):
        pass
    for batch in learned:
        shard = batch.index // (STEPS * LANES // 2)
        assert torch.equal(shard, torch.arange(2).repeat_interleave(len(shard) // 2))
    orders = [torch.cat([batch.index for batch in learned[i : i + 4]]) for i in range(0, 4 * EPOCHS, 4)]
    assert not torch.equal(orders[0], orders[1]), "every epoch has an order of its own"


def test_does_not_depend_on_the_number_of_ranks() -> None:
    """Two shards on one rank, and one on each of two ranks, learn from the same batches in the same order."""
    play, whole = Play("same_step"), memory()
    left, right = memory(shards=(0,)), memory(shards=(1,))
    half = LANES // 2
    found = 0
    for _ in range(2 * STEPS + 1):
        learned, first, second = play.go((whole, ALL), (left, slice(half)), (right, slice(half, None)))
        for batch, a, b in zip(learned, first, second, strict=True):
            found += 1
            for name in ("obs", "action", "ret"):
                joined = torch.cat([getattr(a, name), getattr(b, name)])
                assert torch.equal(getattr(batch, name), joined), name
    assert found == 2 * EPOCHS * 4


@pytest.mark.parametrize("at", [1, 5, STEPS, STEPS + 1, STEPS + 7])
def test_resumes_in_the_middle_of_a_rollout(at: int) -> None:
    """Saved and loaded into memories of other ranks, it yields what the uninterrupted one yields."""
    play, whole = Play("next_step"), memory(mode="next_step")
    for _ in range(at):
        play.go((whole, ALL))
    saved = copy.deepcopy(whole.state_dict())
    assert saved["0"]["obs"].shape[:2] == (LANES // 2, whole.filled), "no more than was written"
    parts = [memory(shards=(shard,), mode="next_step") for shard in (0, 1)]
    for shard, part in enumerate(parts):
        part.load_state_dict({str(shard): saved[str(shard)]})
    half, found = LANES // 2, 0
    for _ in range(2 * STEPS):
        learned, *ranks = play.go((whole, ALL), (parts[0], slice(half)), (parts[1], slice(half, None)))
        for batch, a, b in zip(learned, *ranks, strict=True):
            found += 1
            for name in ("obs", "action", "ret", "mask"):
                assert torch.equal(getattr(batch, name), torch.cat([getattr(a, name), getattr(b, name)])), name
    assert found >= EPOCHS * 4


def test_an_incomplete_rollout_is_dropped() -> None:
    """A run that resumes without its memory starts mid-rollout: nothing is learned before the next one."""
    play, ours = Play("same_step"), memory()
    play.step = 5
    learned = [bool(play.go((ours, ALL))[0]) for _ in range(2 * STEPS)]
    assert [step + 6 for step, some in enumerate(learned) if some] == [2 * STEPS + 1]


def test_cut_ends_the_running_episodes() -> None:
    """Like a truncation: beyond it the return holds the value of the successor alone."""
    play, ours = Play("same_step"), memory()
    play.envs.ends = -1.0
    for _ in range(5):
        play.go((ours, ALL))
    ours.cut()
    while ours.filled < STEPS:
        play.go((ours, ALL))
    ours.reward[:, 5:] += 100
    at = 4
    ret = ours.returns()
    own = ours.reward[:, at].double() + GAMMA * value_of(ours.next_obs[:, at]) * ~ours.terminal[:, at]
    torch.testing.assert_close(ret[:, at], own)


def test_rewards_are_clipped_where_asked() -> None:
    play, ours, raw = Play("same_step"), memory(clip_reward=True), memory()
    for _ in range(STEPS):
        play.go((ours, ALL), (raw, ALL))
    assert raw.reward.abs().max() > 1
    assert torch.equal(ours.reward, raw.reward.clamp(-1, 1))


def test_values_are_of_the_network_as_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed in one go when the rollout is complete, in chunks, without gradients, task by task."""
    monkeypatch.setattr(rollouts, "VALUE_ROWS", 7)
    weight = torch.ones((), requires_grad=True)
    asked: list[tuple[int, Tensor]] = []

    def values(obs: Tensor, task: Tensor) -> Tensor:
        asked.append((len(obs), task))
        return weight * value_of(obs).float()

    play, ours = Play("same_step"), memory(task=torch.tensor([0, 0, 1, 1]))
    ours.values = values
    for _ in range(STEPS):
        play.go((ours, ALL))
    assert not asked
    with torch.no_grad():
        weight.fill_(3)
    learned = play.go((ours, ALL))[0]
    assert [rows for rows, _ in asked] == [7] * 6 + [6]
    assert torch.equal(torch.cat([task for _, task in asked]), torch.arange(2).repeat_interleave(2 * STEPS))
    ret = q_lambda(
        *(ours.reward.double(), 3 * value_of(ours.next_obs.flatten(0, 1)).view(LANES, STEPS)),
        *(ours.terminal, ours.stop, GAMMA, 0.65),
    ).flatten()
    for batch in learned:
        assert not batch.ret.requires_grad
        assert batch.ret.dtype is torch.float64
        assert batch.task is not None
        assert torch.equal(batch.task, batch.index // (2 * STEPS))
    kept = torch.cat([batch.index for batch in learned])
    told = torch.cat([batch.ret for batch in learned])[kept % STEPS > 0]  # the others were overwritten since
    torch.testing.assert_close(told, ret[kept[kept % STEPS > 0]], rtol=1e-6, atol=1e-6)


def test_priorities_are_of_no_interest() -> None:
    play, ours = Play("same_step"), memory()
    play.go((ours, ALL))
    ours.reprioritize(torch.arange(3), UpdateOut(torch.ones(3)))
    ours.wait_until(100)
    assert ours.filled == 1
