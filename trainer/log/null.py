"""The logger of every rank but 0: does nothing, so that no caller has to ask which rank it is."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.types import State


class NullLogger:
    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Drop a row."""

    def progress(self, values: Mapping[str, float]) -> None:
        """Draw nothing."""

    def message(self, text: str) -> None:
        """Print nothing."""

    def close(self) -> None:
        """Release nothing."""

    def state_dict(self) -> State:
        """Return the empty state."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Ignore `state`: the checkpoint holds rank 0's, and this logger may be on any rank."""
