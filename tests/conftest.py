"""For all tests: one torch thread, here and in subprocesses, the helpers of two folders, and a lone rank."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"  # read later, when torch is imported; small tensors only lose by threads
sys.path.insert(0, str(Path(__file__).parent / "dist"))
sys.path.insert(0, str(Path(__file__).parent / "members"))

import pytest

if TYPE_CHECKING:
    from trainer.runtime.ranks import Ranks


@pytest.fixture(autouse=True)
def _own_number_format():  # type: ignore[no-untyped-def]
    """A run flushes denormals in its process; restore them for the next test."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def alone() -> Iterator[Ranks]:
    """The process group of one rank."""
    import torch  # here: most tests that start a subprocess do not need it

    from trainer.runtime.launched import Launch
    from trainer.runtime.ranks import process_group

    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def library(alone: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and demonstrations to learn from."""
    from teachers import make_library

    return make_library(tmp_path_factory.mktemp("library"), alone)
