"""For all tests: one thread for torch, here and in what tests start, and the helpers of two folders for everyone."""

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which is later; small tensors lose by sharing
sys.path.insert(0, str(Path(__file__).parent / "dist"))
sys.path.insert(0, str(Path(__file__).parent / "members"))

import pytest


@pytest.fixture(autouse=True)
def _own_number_format():  # type: ignore[no-untyped-def]
    """A run flushes denormals in its process; the next test in this one wants them back."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)
