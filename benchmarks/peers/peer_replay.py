"""cpprb and TorchRL answering the benchmarks' requests. Runs in their own environment: nothing of ours is imported.

    peer_replay.py build      compiles TorchRL's tree, unless that of its wheel loads

Requests: {"what": "versions"}; {"what": "prioritized" or "uniform", "who": N, "case": {...}, "calls": N}. Answers hold
seconds of this process's CPU time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

ALPHA, BETA = 0.6, 0.4
CHUNK = 10_000
MEMORIES: dict[tuple[str, str], Any] = {}


def build() -> None:
    """Compile the C++ sources in TorchRL's wheel, as its setup does, against the installed torch."""
    with contextlib.suppress(ImportError):
        importlib.import_module("torchrl._torchrl")
        return
    from torch.utils.cpp_extension import load

    home = Path(sysconfig.get_path("purelib")) / "torchrl"
    sources = [str(home / "csrc" / name) for name in ("pybind.cpp", "utils.cpp")]
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where ninja is
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-O3", "-DNDEBUG", "-std=c++20"]
        load("_torchrl", sources, extra_cflags=flags, build_directory=folder, is_python_module=False)
        shutil.copy(Path(folder) / "_torchrl.so", home / f"_torchrl{sysconfig.get_config_var('EXT_SUFFIX')}")


def versions() -> dict[str, Any]:
    return {name: metadata.version(name) for name in ("cpprb", "torchrl", "tensordict", "torch", "numpy")}


class UniformCpprb:
    def __init__(self, case: dict[str, Any], rng: np.random.Generator) -> None:
        import cpprb

        self.memory = cpprb.ReplayBuffer(case["capacity"], fields(case))
        self.batch, self.step = case["batch"], content(case, case["envs"], np.asarray)
        many = content(case, CHUNK, np.asarray)
        for _ in range(0, case["capacity"], CHUNK):
            self.memory.add(**many)

    def add(self, i: int) -> None:
        self.memory.add(**self.step)

    def sample(self, i: int) -> None:
        self.memory.sample(self.batch)


class UniformTorchRL:
    def __init__(self, case: dict[str, Any], rng: np.random.Generator) -> None:
        from tensordict import TensorDict
        from torchrl.data import LazyTensorStorage, ReplayBuffer

        self.memory = ReplayBuffer(storage=LazyTensorStorage(case["capacity"]), batch_size=case["batch"])
        self.step = TensorDict(content(case, case["envs"], torch.as_tensor), [case["envs"]])
        many = TensorDict(content(case, CHUNK, torch.as_tensor), [CHUNK])
        for _ in range(0, case["capacity"], CHUNK):
            self.memory.extend(many)

    def add(self, i: int) -> None:
        self.memory.extend(self.step)

    def sample(self, i: int) -> None:
        self.memory.sample()


class Cpprb:
    def __init__(self, case: dict[str, Any], rng: np.random.Generator) -> None:
        import cpprb

        self.memory = cpprb.PrioritizedReplayBuffer(case["capacity"], fields(case), alpha=ALPHA)
        self.batch, self.step = case["batch"], content(case, case["envs"], np.asarray)
        many = content(case, CHUNK, np.asarray)
        for _ in range(0, case["capacity"], CHUNK):
            self.memory.add(**many, priorities=rng.random(CHUNK))
        self.errors = [rng.random(self.batch, dtype=np.float32) for _ in range(16)]

    def add(self, i: int) -> None:
        self.memory.add(**self.step)

    def cycle(self, i: int) -> None:
        drawn = self.memory.sample(self.batch, beta=BETA)
        self.memory.update_priorities(drawn["indexes"], self.errors[i % 16])


class TorchRL:
    def __init__(self, case: dict[str, Any], rng: np.random.Generator) -> None:
        from tensordict import TensorDict
        from torchrl.data import LazyTensorStorage, PrioritizedReplayBuffer

        storage = LazyTensorStorage(case["capacity"])
        self.memory = PrioritizedReplayBuffer(alpha=ALPHA, beta=BETA, storage=storage, batch_size=case["batch"])
        self.step = TensorDict(content(case, case["envs"], torch.as_tensor), [case["envs"]])
        many = TensorDict(content(case, CHUNK, torch.as_tensor), [CHUNK])
        for _ in range(0, case["capacity"], CHUNK):
            self.memory.extend(many)
        errors = torch.as_tensor(rng.random(case["capacity"], dtype=np.float32))
        self.memory.update_priority(torch.arange(case["capacity"]), errors)
        self.errors = [torch.as_tensor(rng.random(case["batch"], dtype=np.float32)) for _ in range(16)]

    def add(self, i: int) -> None:
        self.memory.extend(self.step)

    def cycle(self, i: int) -> None:
        _, told = self.memory.sample(return_info=True)
        self.memory.update_priority(told["index"], self.errors[i % 16])


NAMES = {"cpprb": Cpprb, "torchrl": TorchRL}
UNIFORM = {"cpprb": UniformCpprb, "torchrl": UniformTorchRL}


def fields(case: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a transition for cpprb; both observations, as is its default."""
    obs = {"shape": tuple(case["obs_shape"]), "dtype": np.dtype(case["dtype"])}
    return {"obs": obs, "next_obs": obs, "action": {"dtype": np.int64}, "reward": {}, "done": {}}


def content(case: dict[str, Any], count: int, of: Any) -> dict[str, Any]:
    """Return `count` transitions."""
    obs = np.ones((count, *case["obs_shape"]), dtype=case["dtype"])
    reward, done = np.ones(count, dtype=np.float32), np.zeros(count, dtype=bool)
    values = {"obs": obs, "next_obs": obs, "action": np.zeros(count, dtype=np.int64), "reward": reward, "done": done}
    return {name: of(value) for name, value in values.items()}


def prioritized(who: str, case: dict[str, Any], calls: int) -> dict[str, float]:
    """Add `calls` steps of all environments, then draw as many batches and give them new priorities."""
    return timed(NAMES[who], who, case, calls, "cycle")


def uniform(who: str, case: dict[str, Any], calls: int) -> dict[str, float]:
    """Add `calls` steps of all environments, then draw as many batches."""
    return timed(UNIFORM[who], who, case, calls, "sample")


def timed(kind: Any, who: str, case: dict[str, Any], calls: int, *more: str) -> dict[str, float]:
    """Measure `add` and more on a full memory, which is kept as long as the case: frames stored twice are large."""
    key = who, case["name"]
    if key not in MEMORIES:
        for other in [other for other in MEMORIES if other[1] != case["name"]]:
            del MEMORIES[other]
        MEMORIES[key] = kind(case, np.random.default_rng(0))
    memory = MEMORIES[key]
    took = {}
    for part in ("add", *more):
        work = getattr(memory, part)
        began = time.process_time()
        for i in range(calls):
            work(i)
        took[part] = time.process_time() - began
    return took


ANSWERS = {"versions": versions, "prioritized": prioritized, "uniform": uniform}


def main() -> None:
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            answer = ANSWERS[request.pop("what")](**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["build"]:
        build()
    else:
        main()
