"""For all tests: one thread for torch, here and in what tests start, and the helpers of tests/dist for everyone."""

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which is later; small tensors lose by sharing
sys.path.insert(0, str(Path(__file__).parent / "dist"))
