"""Freed memory that stays in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trainer.build.run
from trainer.commands.trial import open_run
from trainer.presets import PRESETS

PROGRAM = """
import resource, sys
from trainer.runtime.heap import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)

def work():
    blocks = [bytearray(8 * 2**20) for _ in range(3)]

for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*argument: str, **environ: str) -> tuple[str, int]:
    """Return what keep_freed_memory returned, and how many pages the kernel had to clear for ten rounds of 24 MB."""
    told = [sys.executable, "-c", PROGRAM, *argument]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    kept, count = subprocess.run(
        told, env={**plain, **environ}, text=True, check=True, stdout=-1, timeout=60
    ).stdout.split()
    return kept, int(count)


def test_no_page_is_cleared_twice() -> None:
    assert faults("no")[1] > 1_000
    kept, count = faults("keep")
    assert kept == "True"
    assert count < 100


def test_a_run_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(trainer.build.run, "keep_freed_memory", lambda: asked.append(True))
    with open_run(PRESETS["debug"](), tmp_path):
        assert asked


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072", "False"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072", "False"),
        ("MALLOC_ARENA_MAX", "2", "True"),
    ],
)
def test_what_the_user_states_of_it_stays(name: str, value: str, kept: str) -> None:
    assert faults("keep", **{name: value})[0] == kept
