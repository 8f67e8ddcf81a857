"""An environment that fails restarts alone: its episode is cut, the others never notice, too many end the run."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from trainer.envs import EnvError, Restarts, make_backend
from trainer.envs.base import Backend
from trainer.types import Timestep

pytestmark = pytest.mark.timeout(40)
ENVS = 3
VICTIM = 1  # by its seed
IN_PROCESS = ("raise", "nan", "inf", "reward", "shape", "own buffer")


class Flaky(gym.Env[Any, int]):
    """Counts its steps from a number given by the seed; env VICTIM fails once, in its fourth step."""

    observation_space = gym.spaces.Box(-1e9, 1e9, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: str, always: bool = False) -> None:
        self.fault, self.always, self.steps, self.count, self.victim = fault, always, 0, 0.0, False
        self.obs = np.zeros(2, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.victim = seed == VICTIM or (self.always and seed > ENVS)
            self.count = float(seed % 1000) * 100
        self.steps = 0
        return self._see(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.count += 1
        if self.victim and self.steps == 4:
            return self._fail()
        return self._see(), 1.0, False, False, {}

    def _fail(self) -> Any:
        if self.fault == "raise":
            raise RuntimeError("the walls came down")
        if self.fault == "segv":
            faulthandler.disable()  # intended, and would be reported at length
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.fault == "hang":
            time.sleep(60)
        if self.fault == "reward":
            return self._see(), np.nan, False, False, {}
        if self.fault == "shape":
            return np.zeros(3, dtype=np.float32), 1.0, False, False, {}
        if self.fault == "own buffer":
            self.obs[:] = np.nan
            return self.obs, 1.0, False, False, {}
        return np.full(2, np.nan if self.fault == "nan" else np.inf, dtype=np.float32), 1.0, False, False, {}

    def _see(self) -> Any:
        self.obs[:] = self.count, self.steps
        return self.obs if self.fault == "own buffer" else self.obs.copy()


gym.register("test/Flaky-v0", entry_point=Flaky)


def make(kind: str, fault: str, autoreset: str, limit: int = 5, always: bool = False) -> tuple[Backend, Restarts]:
    restarts = Restarts(limit)
    kwargs = {"fault": fault, "always": always}
    options: Any = {"autoreset": autoreset, "kwargs": kwargs, "restarts": restarts, "timeout": 1.0}
    return make_backend(kind, "test/Flaky-v0", ENVS, list(range(ENVS)), **options), restarts


def play(backend: Backend, steps: int) -> list[Timestep]:
    played = [backend.reset()]
    for _ in range(steps):
        backend.send(torch.zeros(ENVS, dtype=torch.int64))
        played.append(backend.recv())
    return played


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize(
    ("kind", "fault"),
    [*(("sync", f) for f in IN_PROCESS), ("async", "raise"), ("async", "shape"), ("async", "segv"), ("async", "hang")],
)
def test_one_begins_anew_and_the_others_go_on(kind: str, fault: str, autoreset: str) -> None:
    backend, restarts = make(kind, fault, autoreset)
    try:
        played = play(backend, 9)
    finally:
        backend.close()
    assert restarts.count == 1
    truncated = torch.stack([t.truncated for t in played])
    assert truncated.nonzero().tolist() == [[4, VICTIM]], "cut in the step that failed, and nobody else"
    assert all(t.obs.isfinite().all() and t.final_obs.isfinite().all() and t.reward.isfinite().all() for t in played)
    broken = played[4]
    assert not broken.terminated.any()
    assert broken.reward[VICTIM] == 0
    if fault != "own buffer":
        assert broken.final_obs[VICTIM].tolist() == played[3].obs[VICTIM].tolist(), "the last good one"
    others = [0, 2]
    for i, t in enumerate(played):
        assert t.obs[others, 1].tolist() == [i, i], "the others never noticed"
    first = 4 if autoreset == "same_step" else 5
    seen = [t.obs[VICTIM] for t in played[first:]]
    assert [int(o[1]) for o in seen] == list(range(len(seen))), "a new episode"
    assert seen[0][0] != VICTIM * 100, "with a seed of its own"
    reset = torch.stack([t.reset for t in played])
    assert reset[5, VICTIM].item() == (autoreset == "next_step")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_too_many_end_with_the_first_cause(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    backend, restarts = make(kind, "raise", "same_step", limit=2, always=True)
    with pytest.raises(EnvError, match="the walls came down"):
        play(backend, 40)
    backend.close()
    assert restarts.count == 3
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lockstep: ")]
    assert len(told) == 2
    assert "RuntimeError: the walls came down; it was restarted" in told[0]
    assert "(2 of 2 allowed)" in told[1]


def test_what_is_finite_but_large_is_no_failure() -> None:
    class Large(Flaky):
        def _see(self) -> Any:
            return np.full(2, 3e38, dtype=np.float32)

    gym.register("test/Large-v0", entry_point=Large)
    backend = make_backend("sync", "test/Large-v0", 1, [0], kwargs={"fault": ""})
    backend.reset()
    backend.send(torch.zeros(1, dtype=torch.int64))
    assert backend.recv().obs.isfinite().all()
