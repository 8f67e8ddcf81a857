"""What a person watches: one live line on a terminal, an occasional plain line in a file or pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

from trainer.log.line import live_line, plain_line

REDRAW_EVERY = 0.25
"""Time between redraws of the live line [s]."""
PRINT_EVERY = 10.0
"""Time between plain lines where standard output is not a terminal [s]."""


class ConsoleView:
    """Shows the newest values of `progress`; draws in the calling thread only, at the pace set above."""

    def __init__(self, console: Console, total_env_steps: int) -> None:
        self._console = console
        self._total = total_env_steps
        self._live: Live | None = None
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._values: Mapping[str, float] = {}
        self._drawn_at = float("-inf")  # monotonic clock
        self._pending = False  # newer values than the ones drawn

    def progress(self, values: Mapping[str, float]) -> None:
        """Take `values`, and draw them if it is time to.

        Keys: env_steps; sps [env steps/s]; return, epsilon, loss; eta_s [s]; share_env, share_act, share_learn,
        share_sync, share_other [0-1]. What is missing or NaN is shown as '-'.
        """
        self._values = dict(values)
        self._pending = True
        now = time.monotonic()
        if now - self._drawn_at >= (REDRAW_EVERY if self._is_live else PRINT_EVERY):
            self._drawn_at = now
            self._draw()

    def message(self, text: str) -> None:
        """Print `text` literally above the live line: no markup, no control characters."""
        clean = "".join(char for char in text if char.isprintable() or char in "\n\t")
        self._console.print(clean, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Draw the last values and release the terminal."""
        if self._pending:
            self._draw()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        self._pending = False
        if not self._is_live:
            self.message(plain_line(self._values, self._total))
        elif self._live is None:
            self._live = Live(get_renderable=self._line, console=self._console, auto_refresh=False)
            self._live.start(refresh=True)
        else:
            self._live.refresh()

    def _line(self) -> Text:
        # Asked for at every redraw, so that a resized terminal is obeyed; the last column stays free because
        # some terminals wrap as soon as it is written.
        return live_line(
            self._values, self._total, self._console.width - 1, ascii_only=self._console.options.ascii_only
        )
