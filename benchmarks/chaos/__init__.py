"""Faults injected into real runs, and what became of them: one file for each group of rows of the table.

Needs a checkout: runs are started by the tests' `tests/dist/launching.py`, and faults in checkpoints, disks and configs
are those of their tests.
"""

import sys
from pathlib import Path

for _folder in ("dist", "unit", "resume"):
    sys.path.append(str(Path(__file__).parents[2] / "tests" / _folder))
