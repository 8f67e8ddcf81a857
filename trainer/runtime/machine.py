"""What a process may use of its machine, as the kernel and its control groups say. Needs no torch."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_GROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60  # bytes; version 1 writes a huge number where there is no limit


class Memory(NamedTuple):
    """Memory that this process may use [bytes]."""

    free: int
    total: int
    limited: bool  # by a control group, and not by the machine


def usable_cores() -> float:
    """Return how many cores this process may keep busy: those it may run on, or its share of their time if less."""
    cores = float(len(os.sched_getaffinity(0)))
    for folder in _groups("cpu"):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and quota[0] not in ("max", "-1"):
            cores = min(cores, int(quota[0]) / int(quota[1]))
    return cores


def memory() -> Memory:
    """Return the memory that this process and others under its limits may still take."""
    kinds = dict(line.split(":", 1) for line in _text(Path("/proc/meminfo")).splitlines() if ":" in line)
    free, total = (int(kinds.get(name, "0 kB").split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    found = Memory(free, total, False)
    for folder in _groups("memory"):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < min(found.total, _UNLIMITED):
            cache = _fields(folder / "memory.stat").get("inactive_file", 0)  # reclaimed when memory is needed
            found = Memory(min(found.free, limit - used + cache), limit, True)
    return found


def oom_kills() -> int | None:
    """Return how many processes of our control groups the kernel has OOM-killed; None: it does not say.

    Where the groups do not count, the machine's count is used.
    """
    folders = list(_groups("memory"))
    with_children = [_fields(folder / "memory.events").get("oom_kill") for folder in folders]  # version 2
    alone = [_fields(folder / "memory.oom_control").get("oom_kill") for folder in folders]  # version 1
    if counts := [count for count in with_children if count is not None]:
        return counts[-1]
    if counts := [count for count in alone if count is not None]:
        return sum(counts)
    return _fields(Path("/proc/vmstat")).get("oom_kill")


def resident() -> int:
    """Return the memory that this process holds [bytes]."""
    return int((_words(Path("/proc/self/statm")) or ["0", "0"])[1]) * os.sysconf("SC_PAGE_SIZE")


def began(pid: int) -> str | None:
    """Return when a process began, in ticks, which with its pid identifies it; None: there is none."""
    state = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return state[19] if len(state) > 19 and state[0] != "Z" else None


def cpp_compiler() -> str | None:
    """Return the C++ compiler that torch would use, if there is one."""
    return shutil.which(os.environ.get("CXX") or "g++")


def human(count: float) -> str:
    """Return a number of bytes with a suitable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if math.isfinite(count) else "any amount"


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of our control groups, the innermost first, as versions 2 and 1 have them."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = _GROUPS / names if names else _GROUPS
        inner = root / path.strip("/")
        for folder in (inner, *inner.parents):
            if folder.is_dir() and folder.is_relative_to(root):
                yield folder


def _number(*paths: Path) -> int | None:
    for path in paths:
        words = _words(path)
        if words and words[0].isdigit():
            return int(words[0])
    return None


def _fields(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
