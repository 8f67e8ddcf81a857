"""TensorBoard events, one for each row, with a scalar per metric over env steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.types import State


class TensorBoardSink:
    """Opens its event file at the first row: only then is it known where a resumed run continues.

    A failed write closes it, so that the next row tries another one; errors are left to the caller.
    """

    def __init__(self, log_dir: Path, config: Mapping[str, Any]) -> None:
        self._log_dir = log_dir
        self._config = config
        self._writer: Any = None  # SummaryWriter, which has no annotations
        self._last = -1  # env steps of the last row

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Write the finite values; a gap says more than a NaN, on which TensorBoard's axes fail.

        All in one event: `add_scalar` writes one each, which takes seven times as long.
        """
        try:
            writer = self._writer or self._open()
            writer.file_writer.add_summary(_summary(values), env_steps)
        except Exception:  # perhaps of an earlier row: a thread writes
            with suppress(Exception):
                self.close()
            raise
        self._last = int(env_steps)

    def close(self) -> None:
        """Flush the events and stop the writer's thread."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def state_dict(self) -> State:
        """Return the env steps of the last row."""
        return {"last": self._last}

    def load_state_dict(self, state: State) -> None:
        """Continue after the checkpoint's last row; events of earlier files past it are purged by TensorBoard."""
        self.close()
        self._last = int(state["last"])

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # From -1 in a fresh run: this hides whatever an earlier run left in this folder.
        self._writer = SummaryWriter(str(self._log_dir), purge_step=self._last + 1)
        text = json.dumps(self._config, indent=2, default=str)
        self._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()), self._last + 1)
        return self._writer


def _summary(values: Mapping[str, float]) -> Any:
    """Return the scalars as TensorBoard's message, which has no annotations."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items() if math.isfinite(v)])
