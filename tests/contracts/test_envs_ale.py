"""ALE's vector env against the emulator itself, stepped frame by frame, with the preprocessing written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from envs_oracle import actions, check_form
from numpy.typing import NDArray

from trainer.envs import make_backend

ale_py = pytest.importorskip("ale_py")
SKIP, STACK = 4, 4
SEEDS = [7, 2**33 + 8]


def area(rows: int, out: int) -> torch.Tensor:
    """The matrix that averages `rows` pixels into `out`, by overlap."""
    low = np.arange(out)[:, None] * rows / out
    pixel = np.arange(rows)[None]
    overlap = np.minimum(low + rows / out, pixel + 1) - np.maximum(low, pixel)
    return torch.from_numpy(np.clip(overlap, 0, None) * out / rows)


ROWS, COLUMNS = area(210, 84), area(160, 84)


class Emulator:
    """One game: 4 frames a step, maximum over the last two, area-averaged to 84x84, four of them stacked on zeros.

    ALE does not fetch the screen of the frame that ends an episode: its last picture is the maximum of the one before
    and the third frame.
    """

    def __init__(self, seed: int, sticky: float, max_frames: int) -> None:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setInt("random_seed", seed % 2**31)
        self.ale.setInt("frame_skip", 1)
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.loadROM(ale_py.roms.get_rom_path("breakout"))
        self.legal = self.ale.getMinimalActionSet()
        self.max_frames = max_frames
        self.frames: list[NDArray[np.float64]] = []
        self.pooled = self.last = np.zeros((210, 160), dtype=np.uint8)

    def reset(self) -> NDArray[np.float64]:
        self.ale.reset_game()
        self.pooled, self.last = self.ale.getScreenGrayscale(), np.zeros((210, 160), dtype=np.uint8)
        self.frames = [np.zeros((84, 84))] * (STACK - 1) + [self.small(self.pooled)]
        return np.stack(self.frames)

    @staticmethod
    def small(screen: NDArray[np.uint8]) -> NDArray[np.float64]:
        return (ROWS @ torch.from_numpy(screen).double() @ COLUMNS.T).numpy()

    def step(self, action: int) -> dict[str, Any]:
        lives = self.ale.lives()
        reward, frame = 0.0, 0
        over = truncated = False
        while frame < SKIP and not over:
            reward += self.ale.act(self.legal[action])
            over = self.ale.game_over()
            truncated = not over and self.ale.getEpisodeFrameNumber() >= self.max_frames
            if not (over or truncated):
                if frame == SKIP - 2:
                    self.last = self.ale.getScreenGrayscale()
                elif frame == SKIP - 1:
                    self.pooled = self.ale.getScreenGrayscale()
            frame += 1
        self.pooled = np.maximum(self.pooled, self.last)
        self.frames = [*self.frames[1:], self.small(self.pooled)]
        return {
            "obs": np.stack(self.frames),
            "reward": reward,
            "terminated": over,
            "truncated": truncated,
            "life_lost": self.ale.lives() < lives and not over and not truncated,
        }


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrix products only lose by threads, most where other processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("autoreset", "life_loss"), [("same_step", True), ("next_step", True), ("same_step", False)])
def test_transitions(autoreset: str, life_loss: bool) -> None:
    sticky, limit = 0.25, 170
    backend = make_backend(
        "auto",
        "ALE/Breakout-v5",
        2,
        SEEDS,
        autoreset=autoreset,
        life_loss=life_loss,
        threads=2,
        sticky=sticky,
        kwargs={"max_episode_steps": limit},
    )
    assert (backend.stack, backend.stack_pad, backend.saves_state) == (4, "zero", False)
    games = [Emulator(seed, sticky, limit * SKIP) for seed in SEEDS]
    timestep = backend.reset()
    for i, game in enumerate(games):
        assert_frames(timestep.obs[i], game.reset())
    ended = [False, False]
    seen = {"terminated": 0, "truncated": 0, "life_lost": 0, "reset": 0, "reward": 0}
    for action in actions(backend, 560, seed=1):
        before = timestep.obs.clone()
        backend.send(action)
        following = backend.recv()
        check_form(backend, following)
        assert torch.equal(before, timestep.obs)
        for i, game in enumerate(games):
            row = {name: getattr(following, name)[i].item() for name in seen}
            for name, value in row.items():
                seen[name] += bool(value)
            if autoreset == "next_step" and ended[i]:
                assert row == {"terminated": False, "truncated": False, "life_lost": False, "reset": True, "reward": 0}
                assert_frames(following.obs[i], game.reset())
                ended[i] = False
                continue
            said = game.step(int(action[i]))
            assert row["reset"] is False
            assert row["reward"] == said["reward"]
            assert (row["terminated"], row["truncated"]) == (said["terminated"], said["truncated"])
            assert row["life_lost"] == (said["life_lost"] and life_loss)
            assert_frames(following.final_obs[i], said["obs"])
            ended[i] = said["terminated"] or said["truncated"]
            if autoreset == "same_step" and ended[i]:
                assert_frames(following.obs[i], game.reset())
        timestep = following
    assert seen["terminated"]
    assert seen["truncated"]
    assert seen["reward"]
    assert bool(seen["life_lost"]) == life_loss
    backend.close()


def assert_frames(obs: torch.Tensor, expected: NDArray[np.float64]) -> None:
    assert np.abs(obs.numpy() - expected).max() <= 1.0  # rounding


@pytest.mark.parametrize(("noop_max", "fire_reset"), [(0, False), (0, True), (20, False), (20, True)])
def test_an_episode_begins_with_one_frame(noop_max: int, fire_reset: bool) -> None:
    """Frame-deduplicated replay relies on this to rebuild stacks."""
    backend = make_backend("ale", "ALE/Breakout-v5", 2, [1, 2], noop_max=noop_max, fire_reset=fire_reset, threads=1)
    timestep = backend.reset()
    for _ in range(2):
        assert not timestep.obs[:, :-1].any()
        assert timestep.obs[:, -1].any()
        timestep = backend.reset()


def test_action_sets() -> None:
    for full, count in ((False, 4), (True, 18)):
        assert make_backend("ale", "ALE/Breakout-v5", 1, [0], full_action_space=full).num_actions == count
