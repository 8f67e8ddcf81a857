"""Faults injected into real runs, and what became of them: one file for each group of rows of the table.

Needs a checkout: runs are started as the tests start them, by `tests/dist/launching.py`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "dist"))
