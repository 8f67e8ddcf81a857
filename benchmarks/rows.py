"""Rows of measurements, each with its hardware, versions, commit and command, in results/NAME.jsonl.

No host names and no absolute paths are written.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "MinAtar")


def environment() -> dict[str, Any]:
    """Return what a number depends on besides its own settings, as JSON values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def write_rows(name: str, rows: list[dict[str, Any]], folder: Path | None = None) -> Path:
    """Append rows, each with `environment`, to {name}.jsonl in a folder, by default results/; return its path."""
    common = environment()
    path = (folder or HERE / "results") / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({**common, **row}) + "\n")
    return path


def _command() -> str:
    """Return `python -m module arguments`, with absolute paths reduced to their last part."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name}" if spec is not None else Path(sys.argv[0]).name
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return " ".join(["python", program, *arguments])


def _commit() -> str:
    """Return the commit, with a plus sign where tracked files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
