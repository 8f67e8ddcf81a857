"""metrics.jsonl: one JSON object per row; after a resume it holds every row exactly once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from trainer.types import State


class JsonlSink:
    """Appends rows at its own offset, so that a row that was cut short is overwritten by the next one.

    A failed write costs that row, never the run: it is reported once and the next row tries again.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._file: FileIO | None = None
        self._offset = 0  # bytes of the file that are whole rows of this run
        self._rows = 0
        self._is_ours = False  # whether this run wrote what the file holds
        self._warned = False

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Write {"global_step": env_steps, **values} and flush it; NaN and infinities become null."""
        row = {"global_step": int(env_steps)} | {name: _finite(value) for name, value in values.items()}
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            self._write(line)
        except (OSError, ValueError) as error:  # ValueError: the file was closed
            self._drop_file(cut=True)
            if not self._warned:
                self._warned = True
                self._warn(f"Cannot write {self._path}: {error}. Training continues; every row tries again.")

    def close(self) -> None:
        """Close the file; a later row would open it again."""
        self._drop_file()

    def state_dict(self) -> State:
        """Return how much of the file belongs to the run so far."""
        return {"offset": self._offset, "rows": self._rows}

    def load_state_dict(self, state: State) -> None:
        """Remove the rows written after the checkpoint; a file that lacks some is kept as it is."""
        self._drop_file()
        self._is_ours = True
        self._offset, self._rows = int(state["offset"]), int(state["rows"])
        have = self._path.stat().st_size if self._path.exists() else 0
        if have < self._offset:
            kept = self._path.read_bytes() if have else b""
            self._offset, self._rows = kept.rfind(b"\n") + 1, kept.count(b"\n")
            self._warn(f"{self._path} is shorter than at the checkpoint: kept its {self._rows} rows, the rest is lost.")
        if have:
            self._open()

    def _write(self, line: bytes) -> None:
        file = self._file or self._open()
        if file.write(line) != len(line):
            raise OSError("the row was cut short (is the disk full?)")
        self._offset += len(line)
        self._rows += 1

    def _open(self) -> FileIO:
        """Open the file at the end of its last whole row; what another run left in this folder is moved aside."""
        if not self._is_ours and self._path.exists() and self._path.stat().st_size:
            aside = _free_name(self._path)
            self._path.rename(aside)
            self._warn(f"{self._path} holds an earlier run, which is now {aside.name}.")
        self._path.touch()
        self._is_ours = True
        self._file = FileIO(self._path, "r+")  # unbuffered: the OS has a row before training goes on
        self._file.truncate(self._offset)
        self._file.seek(self._offset)
        return self._file

    def _drop_file(self, *, cut: bool = False) -> None:
        """Close the file; cut: first remove a partially written row."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError, ValueError):  # every whole row was written already
                if cut:
                    file.truncate(self._offset)
                file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file; skip lines that are not whole JSON objects (a run is still writing)."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return free
