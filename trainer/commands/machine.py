"""What this machine has and lacks for training: one independent check per line, so that no gap hides another."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from trainer.runtime import machine
from trainer.runtime.machine import human

CORE = ("torch", "numpy", "gymnasium", "tyro", "rich", "safetensors")
EXTRAS = {
    "atari": ("ale_py",),
    "minatar": ("minatar",),
    "box2d": ("Box2D", "pygame"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "video": ("PIL", "pygame"),
    "plot": ("matplotlib",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
}
"""Extra of the distribution -> modules that it installs."""
ENVS = (
    ("CartPole-v1", "native", 64, None),
    ("MinAtar/Breakout-v1", "minatar", 64, "minatar"),
    ("ALE/Pong-v5", "ale", 8, "ale_py"),  # slow to start
)
"""Environment, backend, number of environments, module required."""
_STEPPING = 1.0  # s
_FILE, _SYNCS = 64 << 20, 10  # bytes written for the disk's speed; small files for its latency
_MEETING = 25.0  # s
_LEAST_MEMORY, _LEAST_DISK, _LEAST_SHM = 2e9, 2e9, 256e6  # bytes
_LEAST_FILES = 1024
_SLOW_DISK, _SLOW_SYNC = 20e6, 0.1  # bytes/s, s
_GPUS = Path("/proc/driver/nvidia/gpus")


class Check(NamedTuple):
    """One line: `bad` means that training cannot work."""

    name: str
    state: Literal["ok", "warning", "bad"]
    told: str
    remedy: str = ""


def checks(folder: Path) -> Iterator[Check]:
    """Check this machine part by part; folder: where runs would be written."""
    yield from _guarded("packages", _packages)
    torch = find_spec("torch") is not None
    yield from _guarded("processors", _cores)
    yield from _guarded("memory", _memory)
    yield from _guarded("shared memory", _shm)
    yield from _guarded("open files", _open_files)
    yield from _guarded("disk", lambda: _disk(folder))
    yield from _guarded("compiler", _compiler)
    yield from _guarded("extras", _extras)
    if torch:
        yield from _guarded("devices", _devices)
        yield from _guarded("two ranks", _ranks)
        for env_id, backend, count, needs in ENVS:
            if needs is None or find_spec(needs) is not None:
                yield from _guarded(env_id, partial(_env, env_id, backend, count), optional=needs is not None)


def _guarded(name: str, check: Callable[[], list[Check]], *, optional: bool = False) -> list[Check]:
    """Return the lines of a check; a check that raises also becomes a line."""
    try:
        return check()
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return [Check(name, "warning" if optional else "bad", f"could not be checked: {words}")]


def _packages() -> list[Check]:
    found, missing = [], []
    for name in CORE:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    told = f"Python {platform.python_version()}, {', '.join(found)}"
    if missing:
        return [Check("packages", "bad", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")]
    return [Check("packages", "ok", told)]


def _cores() -> list[Check]:
    usable, all_of_them = machine.usable_cores(), os.cpu_count() or 1
    told = f"{usable:g} of {all_of_them} cores usable, load {os.getloadavg()[0]:.1f}"
    if usable < 2:
        remedy = "ask for more (--cpus-per-task, docker run --cpus): environments and learning share this one"
        return [Check("processors", "warning", told, remedy)]
    if os.getloadavg()[0] > 1.5 * usable:
        return [Check("processors", "warning", told, "other work keeps them busy: measurements below read too slow")]
    return [Check("processors", "ok", told)]


def _memory() -> list[Check]:
    free, total, limited = machine.memory()
    told = f"{human(free)} of {human(total)} free{', limited by the control group' if limited else ''}"
    if free < _LEAST_MEMORY:
        return [
            Check("memory", "warning", told, "stop other jobs, or lower --replay.capacity; a rank itself takes 0.5 GB")
        ]
    return [Check("memory", "ok", told)]


def _shm() -> list[Check]:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return [
            Check("shared memory", "warning", "no /dev/shm", "ranks on CPUs then communicate over sockets (slower)")
        ]
    usage = shutil.disk_usage(shm)
    told = f"{human(usage.free)} of {human(usage.total)} free in /dev/shm"
    if usage.free < _LEAST_SHM:
        return [Check("shared memory", "warning", told, "make it larger (docker run --shm-size=1g), or empty it")]
    return [Check("shared memory", "ok", told)]


def _open_files() -> list[Check]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{soft} allowed (at most {hard})"
    if soft < _LEAST_FILES:
        return [Check("open files", "warning", told, f"ulimit -n {min(hard, 4096)}: many environments need many pipes")]
    return [Check("open files", "ok", told)]


def _disk(folder: Path) -> list[Check]:
    """Write as a checkpoint does: one large file and small ones, each synced."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return [Check("disk", "bad", f"cannot write to {place}", "choose another folder with --log.dir")]
    free = shutil.disk_usage(place).free
    if free < 2 * _FILE:
        return [Check("disk", "bad", f"{human(free)} free in {place}", "make room, or choose another --log.dir")]
    with tempfile.TemporaryDirectory(prefix=".lockstep-doctor-", dir=place) as scratch:
        large = _write(Path(scratch) / "large", os.urandom(1 << 20), _FILE >> 20)
        small = median(_write(Path(scratch) / f"small-{i}", b"x" * 4096, 1) for i in range(_SYNCS))
    told = f"{human(_FILE / large)}/s written and synced, {1e3 * small:.1f} ms for a small file, {human(free)} free"
    told += f" in {place}"
    if free < _LEAST_DISK:
        return [Check("disk", "warning", told, "make room: checkpoints hold the replay memory as well")]
    if _FILE / large < _SLOW_DISK or small > _SLOW_SYNC:
        return [
            Check(
                "disk", "warning", told, "a slow disk delays checkpoints: raise --checkpoint.every, or use a local disk"
            )
        ]
    return [Check("disk", "ok", told)]


def _write(path: Path, block: bytes, count: int) -> float:
    """Return how long it takes to write and sync `count` blocks [s]."""
    began = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(count):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def _compiler() -> list[Check]:
    compiler, header = machine.cpp_compiler(), Path(sysconfig.get_paths()["include"]) / "Python.h"
    if compiler is None or not header.is_file():
        lacks = "no C++ compiler" if compiler is None else f"{compiler}, but no {header}"
        remedy = "apt install g++ python3-dev, or leave --runtime.compile at False"
        return [Check("compiler", "warning", f"{lacks}: --runtime.compile cannot work", remedy)]
    return [Check("compiler", "ok", f"{compiler}, for --runtime.compile")]


def _extras() -> list[Check]:
    missing = [name for name, modules in EXTRAS.items() if any(find_spec(module) is None for module in modules)]
    there = [name for name in EXTRAS if name not in missing]
    told = f"{', '.join(there) or 'none'} installed"
    if missing:
        told += f"; {', '.join(missing)} not"
        return [Check("extras", "warning", told, f"if wanted: pip install 'lockstep[{','.join(missing)}]'")]
    return [Check("extras", "ok", told)]


def _devices() -> list[Check]:
    import torch

    count = torch.cuda.device_count()
    if not count:
        told = f"no GPU that torch {torch.__version__} can use: ranks train on CPUs, over gloo"
        if _GPUS.is_dir() and any(_GPUS.iterdir()):
            remedy = "the driver has GPUs: install torch with CUDA, and check CUDA_VISIBLE_DEVICES"
            return [Check("devices", "warning", told, remedy)]
        return [Check("devices", "ok", told)]
    lines = []
    for i in range(count):
        free, total = torch.cuda.mem_get_info(i)
        told = f"{torch.cuda.get_device_name(i)}, {human(free)} of {human(total)} free, CUDA {torch.version.cuda}"
        busy = free < total / 2
        lines.append(Check(f"GPU {i}", "warning" if busy else "ok", told, "in use by another process" if busy else ""))
    return lines


def _ranks() -> list[Check]:
    """Let two processes exchange data as ranks do."""
    import torch

    from trainer.sync.probe import Way, backends, meet

    known = backends()
    if "gloo" not in known:
        return [Check("gloo", "bad", "this torch lacks it, and ranks need it to agree", "install torch from PyPI")]
    ways: list[Way] = ["gloo", "shared memory"]
    if "nccl" in known and torch.cuda.device_count() >= 2:
        ways.append("nccl")
    lines = []
    for way, met in meet(ways, _MEETING).items():
        label = f"{way} {known['nccl']}" if way == "nccl" else way
        name = f"2 ranks, {label}"
        if met.problem:
            state: Literal["warning", "bad"] = "warning" if way == "shared memory" else "bad"
            lines.append(Check(name, state, met.problem, _MEETING_REMEDIES[way]))
            continue
        told = f"{1e6 * met.latency:.0f} us for a small all-reduce, {human(met.bandwidth)}/s for one of 4 MB"
        lines.append(Check(name, "ok", told))
    if "nccl" in known and torch.cuda.device_count() == 1:
        lines.append(Check("nccl", "ok", f"{known['nccl']}; only one GPU, so it cannot be tested here"))
    if "nccl" not in known and torch.cuda.device_count():
        lines.append(
            Check("nccl", "warning", "this torch lacks it: GPUs would communicate over gloo", "install torch with CUDA")
        )
    return lines


_MEETING_REMEDIES = {
    "gloo": "does the host name resolve (getent hosts $(hostname))? GLOO_SOCKET_IFNAME=lo tries loopback",
    "shared memory": "ranks then communicate over sockets, which is slower; see /dev/shm above",
    "nccl": "NCCL_DEBUG=INFO gives details; NCCL_P2P_DISABLE=1 where GPUs cannot reach each other",
}


def _env(env_id: str, backend: str, count: int) -> list[Check]:
    """Step environments with random actions for a second."""
    import torch

    from trainer.envs import make_backend

    envs = make_backend(backend, env_id, count, list(range(count)))
    try:
        envs.reset()
        generator = torch.Generator().manual_seed(0)
        actions = [torch.randint(envs.num_actions, (count,), generator=generator) for _ in range(16)]
        steps, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < _STEPPING:
            envs.send(actions[steps % 16])
            envs.recv()
            steps += 1
    finally:
        envs.close()
    return [
        Check(env_id, "ok", f"{steps * count / passed:,.0f} env steps/s, {count} at a time, one process, no learning")
    ]
