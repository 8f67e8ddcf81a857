"""A user's mistake gives one line with the remedy; an environment's mistake surfaces and never hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from trainer.envs import EnvError, env_spec, make_backend

pytestmark = pytest.mark.timeout(40)
ACTION = torch.zeros(2, dtype=torch.int64)


class Faulty(gym.Env[Any, int]):
    """Fails in its third step, as `fault` says."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: str) -> None:
        self.fault, self.steps = fault, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        class Local(Exception):  # noqa: N818 (does not pickle, and wants two arguments)
            def __init__(self, a: int, b: int) -> None:
                super().__init__(f"{a} {b} are to blame")

        self.steps += 1
        if self.steps == 3 and self.fault == "raise":
            raise Local(1, 2)
        if self.steps == 3 and self.fault == "die":
            os._exit(7)
        return np.zeros(2, dtype=np.float32), 0.0, False, False, {}


gym.register("test/Faulty-v0", entry_point=Faulty)
gym.register("test/Dict-v0", entry_point=lambda: gym.Env())


def step_until_error(kind: str, fault: str) -> str:
    backend = make_backend(kind, "test/Faulty-v0", 2, [0, 1], kwargs={"fault": fault})
    backend.reset()
    for _ in range(2):
        backend.send(ACTION)
        backend.recv()
    backend.send(ACTION)
    with pytest.raises(EnvError) as error:
        backend.recv()
    backend.close()
    return str(error.value)


@pytest.mark.filterwarnings("ignore:.*ERROR")  # Gymnasium says it as well
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_exception_surfaces_with_its_traceback(kind: str) -> None:
    message = step_until_error(kind, "raise")
    assert "1 2 are to blame" in message
    assert "test_envs_errors.py" in message


def test_a_dead_worker_surfaces() -> None:
    assert "with exit code 7" in step_until_error("async", "die")


def test_workers_ignore_the_trainers_signals_and_die_with_it() -> None:
    script = """
        import os, signal, time, torch
        import gymnasium as gym
        from gymnasium.envs.classic_control import CartPoleEnv
        from trainer.envs import make_backend

        class Slow(CartPoleEnv):
            def step(self, action):
                time.sleep(60 * action)
                return super().step(action)

        gym.register("test/Slow-v0", entry_point=Slow)
        backend = make_backend("async", "test/Slow-v0", 2, [0, 1])
        backend.reset()
        pids = [process.pid for process in backend._env.processes]
        for pid in pids:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(pid, number)
        for _ in range(5):
            backend.send(torch.zeros(2, dtype=torch.int64))
            backend.recv()
        backend.send(torch.ones(2, dtype=torch.int64))  # a worker that waits for its pipe would see it close
        print(*pids, flush=True)
        signal.pause()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "workers outlived the trainer"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "del backend; import gc; gc.collect()"])
def test_a_trainer_that_forgets_to_close_ends(ending: str) -> None:
    """Its workers ignore SIGTERM, with which Gymnasium and multiprocessing would end them before waiting for them."""
    script = f"""
import torch
from trainer.envs import make_backend
backend = make_backend("async", "CartPole-v1", 2, [0, 1])
backend.reset()
backend.send(torch.zeros(2, dtype=torch.int64))
{ending}
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=30, capture_output=True, text=True, check=False)
    assert done.returncode == (3 if "3" in ending else 0), done.stderr


@pytest.mark.parametrize(
    ("kind", "env_id", "options", "said"),
    [
        ("auto", "CartPol-v1", {}, "did you mean CartPole-v1"),
        ("auto", "CartPole", {}, "did you mean CartPole-v1"),
        ("auto", "ALE/Brekout-v5", {}, "did you mean ALE/Breakout-v5"),
        ("auto", "MinAtar/Breakot-v1", {}, "did you mean MinAtar/Breakout-v1"),
        ("auto", "toy/catch", {}, "did you mean toy/Catch"),
        ("auto", "Pendulum-v1", {}, "needs Discrete actions"),
        ("async", "Pendulum-v1", {}, "needs Discrete actions"),
        ("auto", "Blackjack-v1", {}, "observes Tuple"),
        ("auto", "nopackage:My-v0", {}, "No module named 'nopackage'"),
        ("auto", "CartPole-v1", {"kwargs": {"foo": 1}}, "foo"),
        ("sync", "CartPole-v1", {"kwargs": {"foo": 1}}, "foo"),
        ("auto", "toy/Catch", {"kwargs": {"foo": 1}}, "it takes max_episode_steps"),
        ("auto", "MinAtar/Breakout-v1", {"kwargs": {"foo": 1}}, "it takes max_episode_steps"),
        ("auto", "ALE/Pong-v5", {"kwargs": {"grayscale": False}}, "it takes max_episode_steps"),
        ("auto", "CartPole-v1", {"kwargs": {"max_episode_steps": 0}}, "1 or more"),
        ("native", "Acrobot-v1", {}, "use the sync or async backend"),
        ("native", "CartPole-v1", {"autoreset": "same_step"}, "the native backend does next_step"),
        ("minatar", "MinAtar/Breakout-v1", {"autoreset": "next_step"}, "the minatar backend does same_step"),
        ("sync", "ALE/Pong-v5", {}, "runs on the ale backend"),
        ("torch", "ALE/Pong-v5", {}, "the torch backend cannot step ALE/Pong-v5, only CartPole-v0, CartPole-v1"),
        ("torch", "MinAtar/Breakot-v1", {}, "MinAtar/Breakout-v1"),
        ("torch", "CartPole-v1", {"autoreset": "next_step"}, "the torch backend does same_step"),
        ("torch", "CartPole-v1", {"kwargs": {"foo": 1}}, "it takes max_episode_steps, sutton_barto_reward"),
        ("torch", "CartPole-v1", {"kwargs": {"sutton_barto_reward": 1}}, "must be true or false"),
        ("torch", "MountainCar-v0", {"kwargs": {"goal_velocity": "x"}}, "goal_velocity x: must be a number"),
        ("torch", "MinAtar/Asterix-v1", {"kwargs": {"difficulty_ramping": 2}}, "must be true or false"),
        ("torch", "MinAtar/Asterix-v1", {"kwargs": {"max_episode_steps": -1}}, "1 or more"),
        ("ale", "CartPole-v1", {}, "the ale backend cannot step"),
    ],
)
def test_one_line(kind: str, env_id: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        env_spec(kind, env_id, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "env_id", "extra"),
    [
        ("ale_py", "ALE/Pong-v5", "lockstep[atari]"),
        ("minatar", "MinAtar/Breakout-v1", "lockstep[minatar]"),
        ("Box2D", "LunarLander-v3", "lockstep[box2d]"),
    ],
)
def test_a_missing_extra_is_named(module: str, env_id: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == module or name.startswith("gymnasium.envs.box2d"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install '{extra}'".replace("[", r"\[")):
        env_spec("auto", env_id)


def test_minatar_stays_silent_and_light() -> None:
    script = (
        "from trainer.envs import env_spec; env_spec('auto', 'MinAtar/Breakout-v1'); import sys; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert not {"matplotlib", "seaborn"} & set(done.stdout.split())
