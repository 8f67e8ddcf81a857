"""Games written in PyTorch equal the originals step by step, given the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from device_twin import SAME, Board, Physics
from torch import Tensor

from trainer.envs.device import IDS
from trainer.envs.device.game import below
from trainer.envs.device.games import make_game
from trainer.envs.device.step import columns, make_step

CPU = torch.device("cpu")
STEPS, N = 600, 8
BOARDS = tuple(env_id for env_id in IDS if env_id.startswith("MinAtar/") and env_id.endswith("v0"))


def name_of(env_id: str) -> str:
    return env_id.removeprefix("MinAtar/")[:-3]


def same_boards(game: Any, state: Any, boards: list[Board], where: str, obs: Tensor | None = None) -> None:
    """Compare what is seen, and what is not seen yet, of every board."""
    seen = game.observe(state) if obs is None else obs
    expected = np.stack([board.obs() for board in boards])
    if not np.array_equal(seen.numpy(), expected):
        raise AssertionError(f"{where}: differs in (env, channel, y, x) {np.argwhere(seen.numpy() != expected)[:5]}")
    for ours, theirs in SAME[boards[0].name].items():
        told = [int(getattr(board.game, theirs)) for board in boards]
        assert getattr(state, ours).int().tolist() == told, f"{where}: {ours}"


def acting(name: str, state: Any, g: torch.Generator) -> Tensor:
    """Random actions, among MinAtar's six; mostly those that keep Breakout's ball and bring Freeway's chicken over."""
    action = torch.randint(6, (N,), generator=g)
    if name == "Breakout":
        follow = torch.where(state.ball_x < state.pos, 1, torch.where(state.ball_x > state.pos, 3, 0))
        action = torch.where(torch.rand(N, generator=g) < 0.97, follow, action)
    if name == "Freeway":
        action = torch.where(torch.rand(N, generator=g) < 0.7, 2, action)
    return action


@pytest.mark.parametrize("env_id", BOARDS)
def test_boards(env_id: str) -> None:
    """Whole episodes with sticky actions, a time limit, and resets within the step."""
    game, _ = make_game(env_id, {})
    sticky, name = 0.3, name_of(env_id)
    limit = {"Freeway": 2600, "Breakout": 30}.get(name, 80)
    step = make_step(game, sticky, limit)
    g = torch.Generator().manual_seed(1)
    boards = [Board(env_id) for _ in range(N)]
    draws = torch.rand(N, game.reset_draws, generator=g)
    for board, row in zip(boards, draws.numpy(), strict=True):
        board.reset(row)
    state = game.reset(draws)
    last, elapsed = torch.zeros(2, N, dtype=torch.int32)
    if name == "Freeway":
        state = state._replace(terminate_timer=state.terminate_timer - 2200)
        for board in boards:
            board.game.terminate_timer -= 2200
    names, taken, lengths, seen = torch.arange(6).int(), [0] * N, [0] * N, [0, 0, 0.0]
    for t in range(STEPS):
        action = acting(name, state, g)
        draws = torch.rand(N, columns(game, sticky), generator=g)
        obs, reward, terminated, truncated, final_obs, last, elapsed, *fields = step(
            action, names, draws, last, elapsed, *state
        )
        state = type(state)(*fields)
        finals = []
        for i, (board, row) in enumerate(zip(boards, draws.numpy(), strict=True)):
            taken[i] = int(action[i]) if row[0] >= sticky else taken[i]
            told = board.step(taken[i], row[1 : 1 + game.step_draws])
            lengths[i] += 1
            assert (reward[i].item(), terminated[i].item()) == told, f"step {t} env {i}"
            assert truncated[i].item() == (lengths[i] >= limit), f"step {t} env {i}"
            finals.append(board.obs())
            seen[2] += abs(told[0])
            if told[1] or lengths[i] >= limit:
                seen[0 if told[1] else 1] += 1
                board.reset(row[1 + game.step_draws :])
                lengths[i] = 0
        assert np.array_equal(final_obs.numpy(), np.stack(finals)), f"step {t}: final_obs"
        assert elapsed.tolist() == lengths
        same_boards(game, state, boards, f"step {t}", obs)
    assert seen[0] >= N, "episodes ended"
    assert seen[2] > 0, "something was won"
    assert seen[1] or name == "Freeway", "and were cut"


HARD: dict[str, tuple[dict[str, int], dict[str, int]]] = {  # where a long game leads: fields of ours, of the original
    "Asterix": ({"spawn_speed": 1, "move_speed": 1, "spawn_timer": 0}, {}),
    "Seaquest": ({"spawn_speed": 1, "move_speed": 2, "spawn_timer": 0, "aboard": 5, "ramp_index": 19}, {}),
    "SpaceInvaders": ({"interval": 7}, {}),
    "Breakout": ({}, {}),
}


@pytest.mark.parametrize(
    ("name", "hard", "ramping", "steps"),
    [
        ("Asterix", False, True, STEPS),
        ("Asterix", True, True, 500),
        ("Asterix", False, False, 400),
        ("Breakout", True, True, STEPS),
        ("Seaquest", False, True, 500),
        ("Seaquest", True, True, STEPS),
        ("Seaquest", False, False, 300),
        ("SpaceInvaders", True, True, STEPS),
        ("SpaceInvaders", False, False, 400),
    ],
)
def test_boards_where_nobody_loses(name: str, hard: bool, ramping: bool, steps: int) -> None:
    """Games that go on past their end, so that lists fill up, waves are cleared and difficulty reaches its top."""
    env_id = f"MinAtar/{name}-v0"
    game, _ = make_game(env_id, {"difficulty_ramping": ramping})
    g = torch.Generator().manual_seed(2)
    boards = [Board(env_id, ramping) for _ in range(N)]
    draws = torch.rand(N, game.reset_draws, generator=g)
    for board, row in zip(boards, draws.numpy(), strict=True):
        board.reset(row)
    state = game.reset(draws)
    if hard:
        for ours, value in HARD[name][0].items():
            state = state._replace(**{ours: torch.full_like(getattr(state, ours), value)})
            for board in boards:
                setattr(board.game, SAME[name][ours], value)
        for board in boards:
            if name == "Breakout":
                board.game.brick_map[1:3], board.game.brick_map[3, 3:] = 0, 0
            if name == "SpaceInvaders":
                board.game.alien_map[:3], board.game.alien_map[3, 3:] = 0, 0
        if name == "Breakout":
            bricks = np.stack([board.game.brick_map == 1 for board in boards])
            state = state._replace(bricks=torch.from_numpy(bricks))
        if name == "SpaceInvaders":
            state = state._replace(aliens=torch.from_numpy(np.stack([b.game.alien_map == 1 for b in boards])))
    most = lost = 0
    won = 0.0
    for t in range(steps):
        action = acting(name, state, g)
        draws = torch.rand(N, game.step_draws, generator=g)
        state, reward, terminated = game.step(state, action.int(), draws)
        for i, (board, row) in enumerate(zip(boards, draws.numpy(), strict=True)):
            told = board.step(int(action[i]), row)
            assert (reward[i].item(), terminated[i].item()) == told, f"step {t} env {i}"
            board.game.terminal = False
            lost, won = lost + told[1], won + told[0]
        if name == "Breakout" and bool(terminated.any()):  # a lost ball would fall out of the original's board
            back = torch.where(terminated, 3, state.ball_y)
            state = state._replace(ball_y=back)
            for board, y in zip(boards, back.tolist(), strict=True):
                board.game.ball_y = y
        same_boards(game, state, boards, f"step {t}")
        if name == "Seaquest":
            told_of = [len(board.game.e_fish) + len(board.game.e_subs) for board in boards]
            assert (state.enemies[:, 0] > 0).sum(1).tolist() == told_of
            assert (state.bullets[:, 0] > 0).sum(1).tolist() == [len(board.game.f_bullets) for board in boards]
            assert (state.divers[:, 0] > 0).sum(1).tolist() == [len(board.game.divers) for board in boards]
            most = max(most, *told_of)
    assert lost
    assert won > 0
    if name == "Seaquest" and hard:
        assert most > 12
        assert state.aboard.min() < 0, "behind a full rescue the original counts below 0"
    if name == "SpaceInvaders" and hard:
        assert state.interval.tolist() == [6] * N


def test_seaquest_has_slots_for_as_many_enemies_as_there_can_be() -> None:
    """All of one row and one direction, as fast as they come, and nobody to shoot at them."""
    game, _ = make_game("MinAtar/Seaquest-v0", {})
    board = Board("MinAtar/Seaquest-v0")
    board.reset(np.zeros(0, dtype=np.float32))
    state = game.reset(torch.zeros(1, 0))
    one = torch.ones(1, dtype=torch.int32)
    state = state._replace(spawn_speed=one, spawn_timer=0 * one, move_speed=2 * one)
    board.game.e_spawn_speed, board.game.e_spawn_timer, board.game.move_speed = 1, 0, 2
    most = 0
    for t in range(150):
        draws = torch.tensor([[0.1, 0.2 if t % 2 else 0.5, 0.7, 0.6, 0.3]])
        state, *_ = game.step(state, torch.zeros(1, dtype=torch.int32), draws)
        board.step(0, draws[0].numpy())
        board.game.terminal = False
        same_boards(game, state, [board], f"step {t}")
        most = max(most, len(board.game.e_fish) + len(board.game.e_subs))
    assert most == 29, "and one more within the step"


@pytest.mark.parametrize(
    ("env_id", "kwargs", "limit"),
    [
        ("CartPole-v0", {}, 30),
        ("CartPole-v1", {"sutton_barto_reward": True}, 30),
        ("Acrobot-v1", {}, 300),
        ("MountainCar-v0", {"goal_velocity": 0.01}, 150),
    ],
)
def test_physics(env_id: str, kwargs: dict[str, Any], limit: int) -> None:
    """Each step starts from our state, because rounding errors grow from step to step."""
    game, stated = make_game(env_id, {**kwargs, "max_episode_steps": limit})
    assert stated == limit
    step = make_step(game, game.sticky, limit)
    g = torch.Generator().manual_seed(3)
    twins = [Physics(env_id, kwargs) for _ in range(2)]
    draws = torch.rand(2, game.reset_draws, generator=g)
    state, names = game.reset(draws), torch.tensor(game.actions).int()
    for twin, row, seen in zip(twins, draws.numpy(), game.observe(state), strict=True):
        np.testing.assert_allclose(twin.reset(row), seen, rtol=0, atol=1e-7)
    last, elapsed = torch.zeros(2, 2, dtype=torch.int32)
    action, lengths, endings = torch.zeros(2, dtype=torch.int64), [0, 0], [0, 0]
    for t in range(STEPS):
        if env_id == "MountainCar-v0":  # with the velocity, which gets there
            action = (state.physics[:, 1] > 0).long() * 2
        elif env_id == "CartPole-v0":  # where the pole falls, which keeps it for long
            action = (state.physics[:, 2] + state.physics[:, 3] > 0).long()
        else:
            action = torch.randint(len(names), (2,), generator=g)
        if env_id == "Acrobot-v1" and t % 3:  # with the lower link, which swings it up
            action = (state.physics[:, 3] > 0).long() * 2
        draws = torch.rand(2, columns(game, game.sticky), generator=g)
        before = state.physics.numpy().copy()
        obs, reward, terminated, truncated, final_obs, last, elapsed, *fields = step(
            action, names, draws, last, elapsed, *state
        )
        state = type(state)(*fields)
        for i, twin in enumerate(twins):
            twin.env.state = before[i] if env_id != "MountainCar-v0" else tuple(before[i])
            twin.env.steps_beyond_terminated = None
            seen, won, fell = twin.step(int(action[i]))
            lengths[i] += 1
            np.testing.assert_allclose(final_obs[i], seen, rtol=1e-6, atol=1e-6, err_msg=f"step {t}")
            assert (reward[i].item(), terminated[i].item()) == (won, fell), f"step {t}"
            assert truncated[i].item() == (lengths[i] == limit), f"step {t}"
            if fell or lengths[i] == limit:
                endings[0 if fell else 1] += 1
                lengths[i] = 0
                np.testing.assert_allclose(obs[i], twin.reset(draws[i].numpy()), rtol=0, atol=1e-7)
            else:
                np.testing.assert_allclose(state.physics[i], np.array(twin.env.state), rtol=1e-12, atol=1e-12)
    assert endings[0] > 2 or env_id == "CartPole-v0"
    assert endings[1] > 2 or env_id != "CartPole-v0"


@pytest.mark.parametrize(("env_id", "limit"), [("CartPole-v0", 200), ("CartPole-v1", 500), ("Acrobot-v1", 500)])
def test_time_limits_are_those_of_the_originals(env_id: str, limit: int) -> None:
    assert make_game(env_id, {})[1] == limit
    assert make_game("MountainCar-v0", {})[1] == 200
    assert make_game("MinAtar/Freeway-v1", {})[1] is None


def test_a_number_below_never_reaches_it() -> None:
    most = torch.tensor([1 - 2.0**-24])
    assert [int(below(most, count)) for count in range(1, 11)] == list(range(10))
