"""Checkpoints that are damaged, malicious, or of another format.

The damage and the payloads are those of the unit tests, which say in detail what each must lead to.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
from checkpoint_memory import save_all
from launching import run, started
from test_checkpoint_corruptions import check
from test_checkpoint_hostile import rewrite
from test_checkpoint_payloads import CONFIGS, STORED, pickled

from benchmarks.chaos.row import Draw, Outcome, Row, outcome
from trainer.checkpoint.manifest import VERSION

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"
PAYLOADS = (*STORED, *CONFIGS)
DEADLINE = 60.0  # s


@cache
def _origin() -> tempfile.TemporaryDirectory[str]:
    """Two checkpoints that share files; deleted with this process."""
    folder = tempfile.TemporaryDirectory(prefix="chaos-origin-")
    save_all(Path(folder.name), range(1, 7))
    return folder


def corrupted(folder: Path, draw: Draw) -> Outcome:
    """A few random corruptions of one or both of two checkpoints; `check` compares what is loaded, if anything is."""
    try:
        check(1_000 + draw.number, Path(_origin().name), folder / "run")
    except pytest.fail.Exception as error:
        return Outcome(f"corruption {1_000 + draw.number}: {error}")
    return Outcome()


def payload(folder: Path, draw: Draw) -> Outcome:
    """Resume a real run with one of the payloads in its folder."""
    name = PAYLOADS[draw.number % len(PAYLOADS)]
    run_dir = folder / "run"
    shutil.copytree(FIXTURES / f"format-{VERSION}", run_dir)
    (stored,) = (run_dir / "checkpoints").iterdir()
    (folder / "outside").write_text("secret")
    (folder / "pickle").write_bytes(pickled(stored))
    if name in STORED:
        STORED[name](stored)
    else:
        (run_dir / "config.json").write_bytes(CONFIGS[name](folder / "canary"))
    with started(["train", "--resume", str(run_dir)], folder, deadline=DEADLINE) as program:
        program.wait().expect_nothing_left()
    told = [line for line in program.lines if line.startswith("lockstep: ")]
    checks = {
        "the payload did not run": not (folder / "canary").exists(),
        "nothing outside was touched": (folder / "outside").read_text() == "secret",
        "the run did not begin": program.code in (1, 2) and "resumed at" not in program.output,
        "the last of what is told is one line, no traceback": bool(told) and "Traceback" not in program.output,
    }
    found = outcome(checks)
    return Outcome(found.why and f"{name}: {found.why}\n{program.output[-2000:]}")


def other_format(folder: Path, draw: Draw) -> Outcome:
    """A run of every format so far resumes to its end; one of the next format is refused."""
    version = VERSION + 1 - draw.number % (VERSION + 1)
    run_dir = folder / "run"
    shutil.copytree(FIXTURES / f"format-{min(version, VERSION)}", run_dir)
    if version <= VERSION:
        said = run(["train", "--resume", str(run_dir)], folder, deadline=DEADLINE).output
        results = json.loads((run_dir / "results.json").read_text())
        return outcome({f"format {version} loads": "resumed at 600" in said and results["updates"] == 87})
    (stored,) = (run_dir / "checkpoints").iterdir()
    rewrite(stored, lambda fields: fields | {"version": version})
    said = run(["train", "--resume", str(run_dir)], folder, deadline=DEADLINE, expect=2).output
    words = f"format version {version}, but this program knows {VERSION}"
    return outcome({"refused in a line with both versions": words in said and "Traceback" not in said})


ROWS = [
    Row(
        "corrupted",
        "checkpoint truncated, bit flipped, a rank's file missing, generations mixed",
        "falls back to the one before with a warning; none good: an error, never silently from scratch",
        "0 silent loads",
        corrupted,
        trials=200,
        short=10,
    ),
    Row(
        "payload",
        "malicious checkpoint or config",
        "tensors and JSON only; one line says what is wrong",
        f"0 of {len(PAYLOADS)} payloads run",
        payload,
        trials=len(PAYLOADS),
        short=2,
    ),
    Row(
        "format",
        "checkpoint of an older / newer format",
        "loads / clear refusal that names both versions",
        "a fixture kept per format version",
        other_format,
        trials=VERSION + 1,
    ),
]
