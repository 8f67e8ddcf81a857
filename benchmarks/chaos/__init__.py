"""Faults injected into real runs, and what became of them: one file for each group of rows of the table.

Needs a checkout: runs are started as the tests start them, by `tests/dist/launching.py`, and what is done to
checkpoints, disks and configs is what the tests of those do.
"""

import sys
from pathlib import Path

for _folder in ("dist", "unit", "resume"):
    sys.path.append(str(Path(__file__).parents[2] / "tests" / _folder))
